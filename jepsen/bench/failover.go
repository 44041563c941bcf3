package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
)

const (
	rest        = 5 * time.Second  // after a node returned: leaders move back
	writeLimit  = 60 * time.Second // of one write
	makersAtOne = 32               // who make the directories
)

// writer writes to every shard.
type writer struct {
	c     *client.Client
	dirs  map[eggs.ShardID]eggs.InodeID
	round int
}

func (c *cluster) addrs() []string { return strings.Split(c.Addrs(), ",") }

// writer makes a directory in every shard.
func (c *cluster) writer(ctx context.Context) (*writer, error) {
	l, err := client.Open(ctx, client.Config{Addrs: c.addrs(), KeyFile: c.Key(), Timeout: writeLimit})
	if err != nil {
		return nil, err
	}
	w := &writer{c: l, dirs: map[eggs.ShardID]eggs.InodeID{}}
	if err := w.spread(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return w, nil
}

// spread makes directories until each shard has one.
func (w *writer) spread(ctx context.Context) error {
	var mu sync.Mutex
	var failed error
	made := 0
	next := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		made++
		return made, failed == nil && len(w.dirs) < eggs.Shards
	}
	var wg sync.WaitGroup
	for range makersAtOne {
		wg.Go(func() {
			for i, more := next(); more; i, more = next() {
				a, err := w.c.Mkdir(ctx, eggs.Root, "d"+strconv.Itoa(i), client.CreateOptions{Mode: 0o755})
				mu.Lock()
				if err != nil {
					failed = err
				} else {
					w.dirs[a.ID.Shard()] = a.ID
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return failed
}

// everywhere makes a file in every shard at the same time, and returns when the last is there.
func (w *writer) everywhere(ctx context.Context) error {
	w.round++
	errs := make(chan error, len(w.dirs))
	for _, dir := range w.dirs {
		go func() {
			f, err := w.c.Create(ctx, dir, fmt.Sprintf("f%d", w.round), client.CreateOptions{Mode: 0o644})
			if err == nil {
				_, err = f.Close(ctx)
			}
			errs <- err
		}()
	}
	var failed error
	for range w.dirs {
		if err := <-errs; err != nil {
			failed = err
		}
	}
	return failed
}

// fault breaks and heals the i-th node.
type fault struct {
	name, say string
	do, undo  func(i int) error
}

// failover breaks one node after the other, in three ways.
func (e *env) failover(ctx context.Context, part string) error {
	c, err := e.cluster(3)
	if err != nil {
		return err
	}
	w, err := c.writer(ctx)
	if err != nil {
		c.close()
		return err
	}
	for _, f := range []fault{
		{"SIGKILL", "a node killed (SIGKILL)", func(i int) error { c.Node(i).Kill(); return nil }, func(i int) error {
			if err := c.Node(i).Start(); err != nil {
				return err
			}
			return c.Node(i).WaitReady()
		}},
		{
			"SIGSTOP", "a node hangs (SIGSTOP)",
			func(i int) error { c.Node(i).Pause(); return nil },
			func(i int) error { c.Node(i).Resume(); return nil },
		},
	} {
		e.trial(ctx, part, f, w)
	}
	w.c.Close()
	c.close()
	return e.cutOff(ctx, part)
}

// trial breaks nodes in turn, and adds a row of the median and one of the worst.
func (e *env) trial(ctx context.Context, part string, f fault, w *writer) {
	n := pick(e, 6, 3)
	e.talk("failover: %s, %d times", f.say, n)
	var times []float64
	one := func(i int) error {
		if !sleep(ctx, rest) {
			return ctx.Err()
		}
		begin := time.Now()
		if err := f.do(i); err != nil {
			return err
		}
		err := w.everywhere(ctx)
		times = append(times, time.Since(begin).Seconds())
		if uerr := f.undo(i); err == nil {
			err = uerr
		}
		return err
	}
	for i := range n {
		if err := one(i % 3); err != nil {
			e.rep.fail(part, f.say, "failover."+f.name, fmt.Errorf("after %d good trials: %w", i, err))
			return
		}
	}
	e.rep.add(Row{Part: part, What: f.say + ", median of " + strconv.Itoa(n), Unit: "s", Values: times})
	e.rep.add(Row{
		Key: "failover." + f.name, Part: part, What: f.say + ", the worst of " + strconv.Itoa(n), Unit: "s",
		Values: times, Worst: true,
	})
}
