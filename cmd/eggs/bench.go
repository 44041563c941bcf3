package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// bench measures the cluster through the client library, or any folder through
// the operating system, with the same actions, so that figures can be compared.
type bench struct {
	o       *options
	callers int
	count   int
	size    int
	dirs    int
	stream  int64
	streams int
	random  int
	dir     string
	keep    string
	reuse   string
	limit   time.Duration
	cold    bool
	sync    bool
	pids    []int
	only    []string

	mu    sync.Mutex
	files []io.Closer // opened, to be closed at the end
}

// action is one measured thing, done count times by callers.
type action struct {
	name    string
	count   int
	callers int
	do      func(ctx context.Context, i int) (units int, err error)
}

// place is where the actions happen. Files are f0, f1, …, directories d0, d1, …;
// i also says in which of the place's directories they are.
type place interface {
	create(ctx context.Context, i int) error
	stat(ctx context.Context, i int) error
	mkdir(ctx context.Context, i int) error
	unlink(ctx context.Context, i int) error
	rmdir(ctx context.Context, i int) error
	// list lists everything, with attributes if asked, and returns how many entries there were.
	list(ctx context.Context, attrs bool) (int, error)
	// write makes the s-th large file.
	write(ctx context.Context, s int) error
	// open opens the s-th large file.
	open(ctx context.Context, s int) (large, error)
	// close removes everything, unless it is to be kept, and lets go of the place.
	close(keep bool) error
}

// large is a large file opened for reading.
type large interface {
	ReadAt(p []byte, off int64) (int, error)
	Close() error
}

const benchActions = "create, stat, mkdir, names, list, write, read, reread, random, unlink, rmdir"

func benchCommand(o *options) *cobra.Command {
	b := &bench{o: o}
	var pids string
	cmd := &cobra.Command{
		Use: "bench", Short: "measure the cluster, or any folder, in a folder made for it and removed again",
		Args: args(cobra.NoArgs),
		Long: `bench makes files and directories, stats, lists, reads and removes them, and prints
rates, latencies and CPU. Without --dir it uses the client library, with --dir any
mounted folder through the operating system, so that the two, and other file systems,
can be compared. CPU is its own plus that of the processes in --pids.

Rates are files, directories, entries (names: without attributes, list: with them),
MiB (write, read, reread) or reads of 4 KiB (random) a second.

` + exitCodes,
		Example: "  eggs bench --callers 256 --count 20000\n  eggs bench --dir /mnt/eggs --callers 16 --size 1024",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, p := range strings.Fields(strings.ReplaceAll(pids, ",", " ")) {
				n, err := strconv.Atoi(p)
				if err != nil {
					return usageError{fmt.Errorf("--pids %s: %q is not a process id", pids, p)}
				}
				b.pids = append(b.pids, n)
			}
			if err := b.validate(); err != nil {
				return usageError{fmt.Errorf("bench: %w", err)}
			}
			return b.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.IntVar(&b.callers, "callers", 16, "how many at the same time")
	f.IntVar(&b.count, "count", 5000, "how many files")
	f.IntVar(&b.size, "size", 1024, "bytes of each file")
	f.IntVar(&b.dirs, "dirs", 0, "directories to spread them over (default 64, 1 with --dir)")
	f.Int64Var(&b.stream, "stream", 0, "MiB of each large file to write and read, 0 for none")
	f.IntVar(&b.streams, "streams", 1, "how many large files at the same time")
	f.IntVar(&b.random, "random", 2000, "how many random reads of the large files")
	f.StringVar(&b.dir, "dir", "", "a folder to use through the operating system")
	f.StringVar(&b.keep, "keep", "", "name of the folder to make, which stays")
	f.StringVar(&b.reuse, "reuse", "", "name of a folder that --keep left: do only what --only says, there")
	f.DurationVar(&b.limit, "limit", 0, "end each action after this time and go on with what was done, 0 for never")
	f.BoolVar(&b.cold, "cold", false, "drop the machine's page cache before read and random (root)")
	f.BoolVar(&b.sync, "fsync", false, "with --dir: fsync large files before close")
	f.StringVar(&pids, "pids", "", "processes whose CPU counts")
	f.StringSliceVar(&b.only, "only", nil, "some of "+benchActions)
	return cmd
}

func (b *bench) validate() error {
	if b.callers < 1 || b.count < 1 || b.streams < 1 || b.random < 1 {
		return errors.New("--callers, --count, --streams and --random must be positive")
	}
	if b.size < 0 || b.stream < 0 || b.dirs < 0 || b.limit < 0 {
		return errors.New("--size, --stream, --dirs and --limit must not be negative")
	}
	for _, name := range b.only {
		if !slices.Contains(strings.Split(benchActions, ", "), name) {
			return fmt.Errorf("--only %s: must be some of %s", name, benchActions)
		}
	}
	if b.reuse != "" && (b.keep != "" || len(b.only) == 0) {
		return errors.New("--reuse needs --only and excludes --keep")
	}
	if b.dirs == 0 {
		if b.dirs = 64; b.dir != "" {
			b.dirs = 1
		}
	}
	return nil
}

func (b *bench) run(ctx context.Context) error {
	p, err := b.open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err := p.close(b.keep != "" || b.reuse != ""); err != nil {
			b.o.say("the folder of this run stays: %v", err)
		}
	}()
	defer func() {
		for _, f := range b.files {
			_ = f.Close()
		}
	}()
	results := []benchResult{}
	done := map[string]int{} // how many of a thing there are
	for _, a := range b.actions(p) {
		if !b.needed(a.name) {
			continue
		}
		if on := builds[a.name]; on != "" && b.reuse == "" {
			a.count = min(a.count, done[on])
		}
		if b.cold && (a.name == "read" || a.name == "random") {
			if err := dropCaches(); err != nil {
				return err
			}
		}
		r, err := b.measure(ctx, a)
		if err != nil {
			return fmt.Errorf("bench %s: %w", a.name, err)
		}
		done[a.name] = r.done
		if len(b.only) > 0 && !slices.Contains(b.only, a.name) {
			continue
		}
		results = append(results, r)
		if !b.o.json() {
			fmt.Println(r)
		}
	}
	if b.o.json() {
		return printJSON(results)
	}
	return nil
}

// builds says which action has to come before another, for as many things.
var builds = map[string]string{
	"stat": "create", "unlink": "create", "rmdir": "mkdir", "read": "write", "reread": "write",
}

// needed reports whether an action was asked for, or one that builds on it was.
func (b *bench) needed(name string) bool {
	if len(b.only) == 0 || slices.Contains(b.only, name) {
		return true
	}
	if b.reuse != "" {
		return false
	}
	return slices.ContainsFunc(b.only, func(asked string) bool {
		return builds[asked] == name || name == "write" && asked == "random" ||
			name == "create" && (asked == "list" || asked == "names")
	})
}

// actions are all of them, in the order in which they build on each other.
func (b *bench) actions(p place) []action {
	one := func(f func(context.Context, int) error) func(context.Context, int) (int, error) {
		return func(ctx context.Context, i int) (int, error) { return 1, f(ctx, i) }
	}
	list := func(attrs bool) func(context.Context, int) (int, error) {
		return func(ctx context.Context, _ int) (int, error) { return p.list(ctx, attrs) }
	}
	all := []action{
		{"create", b.count, b.callers, one(p.create)},
		{"stat", b.count, b.callers, one(p.stat)},
		{"mkdir", b.count, b.callers, one(p.mkdir)},
		{"names", 1, 1, list(false)},
		{"list", 1, 1, list(true)},
	}
	if b.stream > 0 {
		mib := int(b.stream)
		read := func(ctx context.Context, s int) (int, error) { return mib, b.readAll(ctx, p, s) }
		all = append(
			all,
			action{"write", b.streams, b.streams, func(ctx context.Context, s int) (int, error) {
				return mib, p.write(ctx, s)
			}},
			action{"read", b.streams, b.streams, read},
			action{"reread", b.streams, b.streams, read},
			b.randomReads(p),
		)
	}
	return append(
		all,
		action{"unlink", b.count, b.callers, one(p.unlink)},
		action{"rmdir", b.count, b.callers, one(p.rmdir)},
	)
}

// benchResult is one action's figures.
type benchResult struct {
	Action  string  `json:"action"`
	Callers int     `json:"callers"`
	Count   int     `json:"count"` // units done
	Rate    float64 `json:"per_second"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	CPU     float64 `json:"cpu_ms_each"`
	Peak    float64 `json:"peak_mib"` // most memory that this process ever had
	done    int     // calls done
}

// String is the line that is printed.
func (r benchResult) String() string {
	return fmt.Sprintf("%-8s %4d callers  %8.0f /s   p50 %7.2f ms   p99 %7.2f ms   CPU %6.3f ms each",
		r.Action, r.Callers, r.Rate, r.P50, r.P99, r.CPU)
}

func (b *bench) measure(ctx context.Context, a action) (benchResult, error) {
	times := make([]time.Duration, a.count)
	var next, units atomic.Int64
	var failed atomic.Pointer[error]
	cpu, begin := b.cpu(), time.Now()
	var wg sync.WaitGroup
	for range a.callers {
		wg.Go(func() {
			for failed.Load() == nil && ctx.Err() == nil && (b.limit == 0 || time.Since(begin) < b.limit) {
				i := int(next.Add(1)) - 1
				if i >= a.count {
					return
				}
				t := time.Now()
				n, err := a.do(ctx, i)
				if err != nil {
					failed.Store(&err)
					return
				}
				times[i] = time.Since(t)
				units.Add(int64(n))
			}
		})
	}
	wg.Wait()
	took, used := time.Since(begin), b.cpu()-cpu
	if e := failed.Load(); e != nil {
		return benchResult{}, *e
	}
	if err := ctx.Err(); err != nil {
		return benchResult{}, err
	}
	n := min(int(next.Load()), a.count)
	if n == 0 || units.Load() == 0 {
		return benchResult{}, errors.New("nothing was there to do")
	}
	times = times[:n]
	slices.Sort(times)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	each := float64(units.Load())
	return benchResult{
		Action: a.name, Callers: a.callers, Count: int(each), Rate: each / took.Seconds(),
		P50: ms(times[n/2]), P99: ms(times[n*99/100]), CPU: ms(used) / each, Peak: peakMiB(), done: n,
	}, nil
}

// cpu is what this process and those in --pids used so far.
func (b *bench) cpu() time.Duration {
	var self syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &self)
	total := time.Duration(self.Utime.Nano() + self.Stime.Nano())
	for _, pid := range b.pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(rest)
		if len(f) < 13 {
			continue
		}
		user, _ := strconv.ParseInt(f[11], 10, 64)
		system, _ := strconv.ParseInt(f[12], 10, 64)
		total += time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
	}
	return total
}

// peakMiB is the most memory this process ever had resident.
func peakMiB() float64 {
	text, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	if f := strings.Fields(rest); len(f) > 0 {
		kib, _ := strconv.ParseFloat(f[0], 64)
		return kib / 1024
	}
	return 0
}

// dropCaches writes everything back and forgets the page cache, so that what is read next is cold.
func dropCaches() error {
	syscall.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1\n"), 0o200); err != nil {
		return fmt.Errorf("--cold: cannot drop the page cache: %w", err)
	}
	return nil
}
