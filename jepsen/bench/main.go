package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"eggsfs/eggs"
)

const usage = `bench [flags]: measures EggsFS on this machine and prints a table

  --bin DIR      the binaries (default: the folder of this one)
  --json FILE    the same as JSON (default: bench.json in --bin)
  --short        a fraction of the work (BENCH_SHORT=1)
  --trials N     trials of what is short; the median is shown (BENCH_TRIALS, default 3, with --short 1)
  --parts LIST   only these (BENCH_PARTS): start,idle,library,mount,list,large,failover
  --million      instead: 1,000,000 files (BENCH_FILES) against 10,000
  --peers        instead: other file systems beside a mount, in the same run

Exit codes: 0 measured (targets may be missed), 1 could not run, or interrupted, 2 usage.
`

// env is one run.
type env struct {
	bin     string
	dir     string // everything is in it, and it is removed
	short   bool
	trials  int
	parts   []string
	rep     *Report
	folders int      // names given to workers' folders so far
	undo    []func() // what Close does, last first
	begin   time.Time
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	bin := f.String("bin", filepath.Dir(self), "")
	out := f.String("json", "", "")
	short := f.Bool("short", os.Getenv("BENCH_SHORT") != "", "")
	trials := f.Int("trials", 0, "")
	parts := f.String("parts", os.Getenv("BENCH_PARTS"), "")
	million := f.Bool("million", false, "")
	peers := f.Bool("peers", false, "")
	if err := f.Parse(args); err != nil || f.NArg() > 0 {
		return 2
	}
	if *trials == 0 {
		if *trials = 3; *short {
			*trials = 1
		}
		if n, err := strconv.Atoi(os.Getenv("BENCH_TRIALS")); err == nil && n > 0 {
			*trials = n
		}
	}
	if *out == "" {
		*out = filepath.Join(*bin, "bench.json")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e := &env{bin: *bin, short: *short, trials: *trials, rep: &Report{}, begin: time.Now()}
	if *parts != "" {
		e.parts = strings.Split(*parts, ",")
	}
	if e.dir, err = os.MkdirTemp("/var/tmp", "eggs-bench-"); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	defer os.RemoveAll(e.dir)
	defer e.Close()
	e.rep.Machine = e.machine()
	switch {
	case *million:
		e.million(ctx)
	case *peers:
		e.peers(ctx)
	default:
		e.all(ctx)
	}
	return e.finish(ctx, *out)
}

// finish judges and prints.
func (e *env) finish(ctx context.Context, out string) int {
	e.rep.judge(targets)
	e.rep.Machine = append(e.rep.Machine, fmt.Sprintf("- the run took %s", time.Since(e.begin).Round(time.Second)))
	if ctx.Err() != nil {
		e.rep.Machine = append(e.rep.Machine, "- **interrupted**: the rest was not measured")
	}
	e.rep.markdown(os.Stdout)
	f, err := os.Create(out)
	if err == nil {
		err = e.rep.json(f)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	e.talk("as JSON: %s", out)
	if ctx.Err() != nil {
		return 1
	}
	return 0
}

// all is `make bench`.
func (e *env) all(ctx context.Context) {
	e.part(ctx, "start", "Start", e.start)
	c := &cluster{}
	defer func() { c.close() }() // the one below
	needs := slices.ContainsFunc([]string{"idle", "library", "mount", "list", "large"}, e.wants)
	if needs {
		var err error
		if c, err = e.cluster(3); err != nil {
			e.rep.fail("Cluster", "start of the cluster that is measured", "", err)
			needs = false
		}
	}
	for _, p := range []struct {
		name, title string
		f           func(context.Context, string, *cluster) error
	}{
		{"idle", "Idle", e.idle},
		{"library", "Client library", e.library},
		{"mount", "Mount, beside go-fuse loopback on the same disk", e.mount},
		{"list", "Directories of 10,000 entries; cold look-ups", e.lists},
		{"large", fmt.Sprintf("Large files, %d MiB in all", e.largeSum()), e.large},
	} {
		if needs {
			e.part(ctx, p.name, p.title, func(ctx context.Context, part string) error { return p.f(ctx, part, c) })
		}
	}
	c.close()
	e.part(ctx, "failover", "Failover: every one of 256 shards takes a write again", e.failover)
}

func (e *env) wants(name string) bool { return len(e.parts) == 0 || slices.Contains(e.parts, name) }

// part runs f if it was asked for; its error becomes a row.
func (e *env) part(ctx context.Context, name, title string, f func(context.Context, string) error) {
	if !e.wants(name) || ctx.Err() != nil {
		return
	}
	if err := f(ctx, title); err != nil {
		e.rep.fail(title, name, "", err)
	}
}

// talk says on stderr what is being done.
func (e *env) talk(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(e.begin).Seconds(), fmt.Sprintf(format, a...))
}

// Close undoes, last first, what was started.
func (e *env) Close() {
	for _, f := range slices.Backward(e.undo) {
		f()
	}
	e.undo = nil
}

// pick is the first, or the second in a short run.
func pick[T any](e *env, long, short T) T {
	if e.short {
		return short
	}
	return long
}

// machine says what this was measured on.
func (e *env) machine() []string {
	said := func(name string, args ...string) string {
		b, err := exec.Command(name, args...).Output()
		if err != nil {
			return "unknown"
		}
		return strings.TrimSpace(string(b))
	}
	load, _ := os.ReadFile("/proc/loadavg")
	version := strings.TrimPrefix(said(filepath.Join(e.bin, "eggs"), "version"), "eggs ")
	disk := strings.Join(strings.Fields(said("findmnt", "-no", "SOURCE,FSTYPE", "-T", e.dir)), " ")
	return []string{
		fmt.Sprintf("- %d cores, Linux %s, %s, %s, load before: %s", runtime.NumCPU(), said("uname", "-r"),
			runtime.Version(), time.Now().Format(time.DateOnly), strings.Join(strings.Fields(string(load))[:3], " ")),
		fmt.Sprintf("- eggsfs %s; data on %s", version, disk),
		fmt.Sprintf("- %s of what is short, the median is shown", plural(e.trials, "trial")),
		fmt.Sprintf("- everything on this machine with shipped defaults: fsync on a majority of three replicas, "+
			"%d shards; CPU is that of all servers, mount and caller together", eggs.Shards),
	}
}
