package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
)

const (
	settle    = 15 * time.Second // before idle is measured
	idleFor   = 20 * time.Second
	perAction = 3 * time.Second // of one trial of small things
	many      = 10_000          // entries of a large directory
)

// start measures from the start of the processes to "ready", and to a write in every shard.
func (e *env) start(ctx context.Context, part string) error {
	times := map[string][]float64{}
	for trial := range e.trials {
		e.talk("start: trial %d", trial+1)
		for _, nodes := range []int{1, 3} {
			if err := e.startOne(ctx, nodes, times); err != nil {
				return err
			}
		}
	}
	for _, row := range []Row{
		{Key: "start.one.first", What: "one node, first start, ready", Note: "formats ten disks"},
		{Key: "start.one.again", What: "one node, again, ready"},
		{Key: "start.three.first", What: "three nodes, first start, ready", Note: "257 groups grown to three voters"},
		{Key: "start.three.again", What: "three nodes, again, ready"},
		{Key: "start.three.again.writable", What: "three nodes, again, a client has written to every shard"},
	} {
		row.Part, row.Unit, row.Values = part, "s", times[row.Key]
		e.rep.add(row)
	}
	return nil
}

func (e *env) startOne(ctx context.Context, nodes int, times map[string][]float64) error {
	key := map[int]string{1: "start.one", 3: "start.three"}[nodes]
	took := func(name string, since time.Time) {
		times[key+name] = append(times[key+name], time.Since(since).Seconds())
	}
	c, err := e.prepare(nodes)
	if err != nil {
		return err
	}
	defer c.close()
	t := time.Now()
	if err := c.Start(); err != nil {
		return err
	}
	took(".first", t)
	var dirs map[eggs.ShardID]eggs.InodeID
	if nodes > 1 {
		w, err := c.writer(ctx)
		if err != nil {
			return err
		}
		dirs = w.dirs
		w.c.Close()
	}
	var wg sync.WaitGroup
	for _, n := range c.Nodes() {
		wg.Go(func() { _ = n.Stop() })
	}
	wg.Wait()
	t = time.Now()
	if err := c.Start(); err != nil {
		return err
	}
	took(".again", t)
	if nodes == 1 {
		return nil
	}
	l, err := client.Open(ctx, client.Config{Addrs: c.addrs(), KeyFile: c.Key()})
	if err != nil {
		return err
	}
	defer l.Close()
	w := &writer{c: l, dirs: dirs}
	if err := w.everywhere(ctx); err != nil {
		return err
	}
	took(".again.writable", t)
	return nil
}

// idle measures what the cluster takes when nobody asks it for anything.
func (e *env) idle(ctx context.Context, part string, c *cluster) error {
	e.talk("idle: %s", settle+idleFor)
	if !sleep(ctx, settle) {
		return ctx.Err()
	}
	a, t := ticks(c.pids()), time.Now()
	if !sleep(ctx, idleFor) {
		return ctx.Err()
	}
	cpu := 100 * (ticks(c.pids()) - a) / time.Since(t).Seconds()
	e.rep.add(Row{
		Key: "idle.cpu", Part: part, What: "CPU of all three nodes", Unit: "% of a core", Values: []float64{cpu},
	})
	e.rep.add(Row{
		Key: "idle.memory", Part: part, What: "memory of all three nodes, empty", Unit: "MiB",
		Values: []float64{memory(c.pids(), "VmRSS")},
	})
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// small are the flags of a job of small files.
func (e *env) small(size, callers int) []string {
	count := pick(e, 10_000, 1000)
	if callers == 1 {
		count = pick(e, 2000, 300)
	}
	return []string{
		"--size", strconv.Itoa(size), "--callers", strconv.Itoa(callers), "--count", strconv.Itoa(count),
		"--limit", perAction.String(),
	}
}

func (e *env) library(ctx context.Context, part string, c *cluster) error {
	s := c.viaLibrary()
	e.run(ctx, s, job{
		part: part, variant: "shard", say: "1 KiB, 1 caller, one shard", only: []string{"create"},
		args: append(e.small(1024, 1), "--dirs", "1"), trials: e.trials,
	})
	for _, callers := range []int{1, 16, 256} {
		e.run(ctx, s, job{
			part: part, variant: fmt.Sprintf("1k.%d", callers), say: "1 KiB, " + plural(callers, "caller"),
			only: []string{"create", "stat", "mkdir", "unlink"}, args: e.small(1024, callers), trials: e.trials,
			names: map[string]string{"mkdir": "mkdir, " + plural(callers, "caller")},
		})
	}
	return nil
}

func (e *env) mount(ctx context.Context, part string, c *cluster) error {
	s, m, err := c.viaMount()
	if err != nil {
		return err
	}
	e.through(ctx, part, s)
	m.Close()
	l, unmount, err := e.loopback()
	if err != nil {
		return err
	}
	e.through(ctx, part, l)
	unmount()
	p, err := e.plain()
	if err != nil {
		return err
	}
	e.through(ctx, part, p)
	return nil
}

// through measures small files in a folder.
func (e *env) through(ctx context.Context, part string, s system) {
	for _, callers := range []int{1, 16} {
		n := strconv.Itoa(callers)
		e.run(ctx, s, job{
			part: part, variant: "0k." + n, say: "empty, " + plural(callers, "thread"),
			only: []string{"create"}, args: e.small(0, callers), trials: e.trials,
		})
		e.run(ctx, s, job{
			part: part, variant: "1k." + n, say: "1 KiB, " + plural(callers, "thread"),
			only: []string{"create", "stat", "mkdir", "unlink"}, args: e.small(1024, callers), trials: e.trials,
			names: map[string]string{"mkdir": "mkdir, " + plural(callers, "thread")},
		})
	}
}

// lists measures large directories, and look-ups through mounts that were just made.
func (e *env) lists(ctx context.Context, part string, c *cluster) error {
	made := e.directories(ctx, part, c.viaLibrary())
	for _, d := range directories {
		e.run(ctx, c.viaLibrary(), job{
			part: part, variant: d.variant, say: d.say, only: []string{"list"}, trials: e.trials,
			names: map[string]string{"list": "readdir with attributes, " + d.say},
			args:  []string{"--reuse", made[d.variant], "--dirs", "1", "--count", strconv.Itoa(d.count)},
		})
	}
	again := func() (system, func(), error) {
		s, m, err := c.viaMount()
		if err != nil {
			return s, nil, err
		}
		return s, m.Close, nil
	}
	if err := e.throughNew(ctx, part, again, made); err != nil {
		return err
	}
	l, unmount, err := e.loopback()
	if err != nil {
		return err
	}
	made = e.directories(ctx, part, l)
	unmount()
	return e.throughNew(ctx, part, e.loopback, made)
}

// directories are the two that are listed.
var directories = []struct {
	variant, say string
	count        int
	only         []string
}{
	{"half", "10,000 entries, half directories", many / 2, []string{"create", "mkdir"}},
	{"files", "10,000 entries, files only", many, []string{"create"}},
}

// directories makes the two and returns the names of their folders, by variant.
func (e *env) directories(ctx context.Context, part string, s system) map[string]string {
	names := map[string]string{}
	for _, d := range directories {
		names[d.variant] = "large-" + d.variant
		e.run(ctx, s, job{
			part: part, variant: d.variant, say: d.say, only: d.only, hide: d.only,
			args: []string{
				"--keep", names[d.variant], "--dirs", "1", "--size", "0", "--callers", "64",
				"--count", strconv.Itoa(d.count),
			},
		})
	}
	return names
}

// listed says what is measured in a folder: the kernel gets attributes with readdir(2), but asks again for stat(2).
func listed(say string) map[string]string {
	return map[string]string{"names": "cold readdir(2), " + say, "list": "the same and lstat(2) of each, " + say}
}

// throughNew lists, and stats, through a new mount each time, whose caches are empty.
func (e *env) throughNew(
	ctx context.Context, part string, mount func() (system, func(), error), names map[string]string,
) error {
	one := func(j job) error {
		s, unmount, err := mount()
		if err != nil {
			return err
		}
		defer unmount()
		j.part, j.trials = part, 1
		e.run(ctx, s, j)
		return nil
	}
	for _, d := range directories {
		args := []string{"--reuse", names[d.variant], "--dirs", "1", "--count", strconv.Itoa(d.count)}
		for _, action := range []string{"names", "list"} {
			if err := one(job{
				variant: d.variant, say: d.say, only: []string{action}, args: args, names: listed(d.say),
			}); err != nil {
				return err
			}
		}
	}
	for _, n := range []int{1, 16} {
		callers := strconv.Itoa(n)
		err := one(job{
			variant: "cold." + callers, say: "files of a new mount, " + plural(n, "thread"), only: []string{"stat"},
			args: []string{
				"--reuse", names["files"], "--dirs", "1", "--count", strconv.Itoa(many), "--callers", callers,
				"--limit", perAction.String(),
			},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// large measures large files: one stream and four of the same sum.
func (e *env) large(ctx context.Context, part string, c *cluster) error {
	s := c.viaLibrary()
	peak := e.streams(ctx, part, s)
	e.rep.add(Row{
		Key: "library.large:memory", Part: part, What: "library: memory of the client, at most", Unit: "MiB",
		Values: []float64{peak},
	})
	m, mnt, err := c.viaMount()
	if err != nil {
		return err
	}
	e.streams(ctx, part, m)
	e.rep.add(Row{
		Key: "mount.large:memory", Part: part, What: "mount: memory of the daemon, at most", Unit: "MiB",
		Values: []float64{memory([]int{mnt.PID()}, "VmHWM")},
	})
	mnt.Close()
	l, unmount, err := e.loopback()
	if err != nil {
		return err
	}
	e.streams(ctx, part, l)
	unmount()
	p, err := e.plain()
	if err != nil {
		return err
	}
	p.say, p.args = "plain folder with fsync:", append(p.args, "--fsync")
	e.streams(ctx, part, p)
	return nil
}

// largeSum is the size of all large files of a trial, in MiB.
func (e *env) largeSum() int { return pick(e, 512, 128) }

// streams returns the most memory that a worker had.
func (e *env) streams(ctx context.Context, part string, s system) float64 {
	sum, peak := e.largeSum(), 0.0
	for _, n := range []int{1, 4} {
		threads := map[int]int{1: 1, 4: 16}[n]
		got := e.run(ctx, s, job{
			part: part, variant: fmt.Sprintf("large.%d", n),
			say: "large files, " + plural(n, "stream"),
			names: map[string]string{
				"write": "sequential write, " + plural(n, "stream"), "read": "cold read, " + plural(n, "stream"),
				"reread": "warm re-read, " + plural(n, "stream"),
				"random": "cold random read of 4 KiB, " + plural(threads, "thread"),
			},
			only: []string{"write", "read", "reread", "random"}, trials: e.trials,
			args: []string{
				"--stream", strconv.Itoa(sum / n), "--streams", strconv.Itoa(n), "--cold",
				"--callers", strconv.Itoa(threads),
				"--random", strconv.Itoa(pick(e, 4000, 1000)), "--limit", perAction.String(),
			},
		})
		for _, f := range got["random"] {
			peak = max(peak, f.Peak)
		}
	}
	return peak
}
