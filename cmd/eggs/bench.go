package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"eggsfs/client"
	"eggsfs/eggs"
)

// bench measures the cluster through the client library, or any folder through
// the operating system, with the same actions, so that figures can be compared.
type bench struct {
	o       *options
	callers int
	count   int
	size    int
	stream  int64
	dir     string
	pids    []int
	only    []string
}

// action is one measured thing, done count times by callers.
type action struct {
	name string
	do   func(ctx context.Context, i int) error
}

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
			if b.callers < 1 || b.count < 1 || b.size < 0 || b.stream < 0 {
				return usageError{errors.New("bench: --callers and --count must be positive")}
			}
			return b.run(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&b.callers, "callers", 16, "how many at the same time")
	cmd.Flags().IntVar(&b.count, "count", 5000, "how many files")
	cmd.Flags().IntVar(&b.size, "size", 1024, "bytes of each file")
	cmd.Flags().Int64Var(&b.stream, "stream", 0, "MiB of a large file to write and read, 0 for none")
	cmd.Flags().StringVar(&b.dir, "dir", "", "a folder to use through the operating system")
	cmd.Flags().StringVar(&pids, "pids", "", "processes whose CPU counts")
	cmd.Flags().StringSliceVar(&b.only, "only", nil, "some of create, stat, list, mkdir, unlink, rmdir, write, read")
	return cmd
}

func (b *bench) run(ctx context.Context) error {
	var actions []action
	var err error
	if b.dir != "" {
		actions, err = b.onFolder()
	} else {
		c, oerr := b.o.open(ctx)
		if oerr != nil {
			return oerr
		}
		defer c.Close()
		var clean func() error
		actions, clean, err = b.onLibrary(ctx, c)
		if err == nil {
			defer func() {
				if cerr := clean(); cerr != nil {
					b.o.say("the folder of this run stays: %v", cerr)
				}
			}()
		}
	}
	if err != nil {
		return err
	}
	results := []benchResult{}
	for _, a := range actions {
		if !b.needed(a.name) {
			continue
		}
		r, err := b.measure(ctx, a)
		if err != nil {
			return fmt.Errorf("bench %s: %w", a.name, err)
		}
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

// needed reports whether an action was asked for, or one that builds on it was.
func (b *bench) needed(name string) bool {
	builds := map[string][]string{
		"create": {"stat", "list", "unlink"}, "mkdir": {"list", "rmdir"}, "write": {"read"},
	}
	return len(b.only) == 0 || slices.Contains(b.only, name) ||
		slices.ContainsFunc(builds[name], func(n string) bool { return slices.Contains(b.only, n) })
}

type benchResult struct {
	Action  string  `json:"action"`
	Callers int     `json:"callers"`
	Count   int     `json:"count"`
	Rate    float64 `json:"per_second"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	CPU     float64 `json:"cpu_ms_each"`
}

func (r benchResult) String() string {
	return fmt.Sprintf("%-8s %4d callers  %8.0f /s   p50 %7.2f ms   p99 %7.2f ms   CPU %6.3f ms each",
		r.Action, r.Callers, r.Rate, r.P50, r.P99, r.CPU)
}

// large reports whether an action is one long thing, which only one caller does.
func (a action) large() bool { return a.name == "write" || a.name == "read" || a.name == "list" }

func (b *bench) measure(ctx context.Context, a action) (benchResult, error) {
	count, callers := b.count, b.callers
	if a.large() {
		count, callers = 1, 1
	}
	times := make([]time.Duration, count)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	cpu, begin := b.cpu(), time.Now()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for failed.Load() == nil && ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= count {
					return
				}
				t := time.Now()
				if err := a.do(ctx, i); err != nil {
					failed.Store(&err)
					return
				}
				times[i] = time.Since(t)
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
	slices.Sort(times)
	units := float64(count)
	switch a.name {
	case "list":
		units = float64(2 * b.count) // entries: the files and the directories
	case "write", "read":
		units = float64(b.stream) // MiB
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return benchResult{
		Action: a.name, Callers: callers, Count: int(units), Rate: units / took.Seconds(),
		P50: ms(times[count/2]), P99: ms(times[count*99/100]), CPU: ms(used) / units,
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

// onFolder does everything through the operating system.
func (b *bench) onFolder() ([]action, error) {
	top, err := os.MkdirTemp(b.dir, "bench-")
	if err != nil {
		return nil, err
	}
	file := func(i int) string { return filepath.Join(top, "f"+strconv.Itoa(i)) }
	sub := func(i int) string { return filepath.Join(top, "d"+strconv.Itoa(i)) }
	content := pattern(b.size)
	large := filepath.Join(top, "large")
	actions := []action{
		{"create", func(_ context.Context, i int) error { return os.WriteFile(file(i), content, 0o644) }},
		{"stat", func(_ context.Context, i int) error { _, err := os.Lstat(file(i)); return err }},
		{"mkdir", func(_ context.Context, i int) error { return os.Mkdir(sub(i), 0o755) }},
		{"list", func(context.Context, int) error { return listFolder(top, 2*b.count) }},
	}
	if b.stream > 0 {
		actions = append(
			actions,
			action{"write", func(context.Context, int) error { return writeLarge(large, b.stream) }},
			action{"read", func(context.Context, int) error { return readLarge(large) }},
		)
	}
	return append(
		actions,
		action{"unlink", func(_ context.Context, i int) error { return os.Remove(file(i)) }},
		action{"rmdir", func(_ context.Context, i int) error {
			err := os.Remove(sub(i))
			if i == b.count-1 {
				defer os.RemoveAll(top)
			}
			return err
		}},
	), nil
}

func pattern(size int) []byte {
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(i * 7)
	}
	return p
}

func listFolder(dir string, want int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, err := e.Info(); err != nil {
			return err
		}
	}
	if len(entries) < want {
		return fmt.Errorf("%d entries, want %d", len(entries), want)
	}
	return nil
}

func writeLarge(path string, mib int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	buf := pattern(1 << 20)
	for range mib {
		if _, err := f.Write(buf); err != nil {
			f.Close()
			return err
		}
	}
	return f.Close()
}

func readLarge(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for {
		n, err := f.Read(buf)
		if n == 0 {
			if err != nil && err.Error() == "EOF" {
				return nil
			}
			return err
		}
	}
}

// onLibrary does the same through the client library.
func (b *bench) onLibrary(ctx context.Context, c *client.Client) ([]action, func() error, error) {
	const dirs = 64 // directories, so that many shards take part
	name := fmt.Sprintf("bench-%d", time.Now().UnixNano())
	top, err := c.Mkdir(ctx, eggs.Root, name, client.CreateOptions{Mode: 0o755})
	if err != nil {
		return nil, nil, err
	}
	clean := func() error {
		return removeTree(context.WithoutCancel(ctx), c, eggs.Root, client.Entry{Name: name, Target: top.ID})
	}
	var homes []eggs.InodeID
	for i := range dirs {
		a, err := c.Mkdir(ctx, top.ID, fmt.Sprintf("home%d", i), client.CreateOptions{Mode: 0o755})
		if err != nil {
			return nil, nil, err
		}
		homes = append(homes, a.ID)
	}
	content := pattern(b.size)
	home := func(i int) eggs.InodeID { return homes[i%dirs] }
	ids := make([]eggs.InodeID, b.count)
	actions := []action{
		{"create", func(ctx context.Context, i int) error {
			w, err := c.Create(ctx, home(i), "f"+strconv.Itoa(i), client.CreateOptions{Mode: 0o644})
			if err != nil {
				return err
			}
			ids[i] = w.ID()
			if _, err := w.Write(content); err != nil {
				w.Abort()
				return err
			}
			_, err = w.Close(ctx)
			return err
		}},
		{"stat", func(ctx context.Context, i int) error { _, err := c.Stat(ctx, ids[i]); return err }},
		{"mkdir", func(ctx context.Context, i int) error {
			_, err := c.Mkdir(ctx, home(i), "d"+strconv.Itoa(i), client.CreateOptions{Mode: 0o755})
			return err
		}},
		{"list", func(ctx context.Context, _ int) error { return listLibrary(ctx, c, homes, 2*b.count) }},
	}
	if b.stream > 0 {
		actions = append(actions, b.streams(c, top.ID)...)
	}
	return append(
		actions,
		action{"unlink", func(ctx context.Context, i int) error {
			return c.Unlink(ctx, home(i), "f"+strconv.Itoa(i), 0)
		}},
		action{"rmdir", func(ctx context.Context, i int) error { return c.Rmdir(ctx, home(i), "d"+strconv.Itoa(i)) }},
	), clean, nil
}

func listLibrary(ctx context.Context, c *client.Client, homes []eggs.InodeID, want int) error {
	total := 0
	for _, dir := range homes {
		for after := uint64(0); ; {
			entries, _, end, err := c.ReadDir(ctx, dir, after, 5000, true)
			if err != nil {
				return err
			}
			if total += len(entries); end {
				break
			}
			after = entries[len(entries)-1].Cursor
		}
	}
	if total < want {
		return fmt.Errorf("%d entries, want %d", total, want)
	}
	return nil
}

func (b *bench) streams(c *client.Client, dir eggs.InodeID) []action {
	var id eggs.InodeID
	return []action{
		{"write", func(ctx context.Context, _ int) error {
			w, err := c.Create(ctx, dir, "large", client.CreateOptions{Mode: 0o644})
			if err != nil {
				return err
			}
			buf := pattern(1 << 20)
			for range b.stream {
				if _, err := w.Write(buf); err != nil {
					w.Abort()
					return err
				}
			}
			id = w.ID()
			_, err = w.Close(ctx)
			return err
		}},
		{"read", func(ctx context.Context, _ int) error {
			r, err := c.Open(ctx, id)
			if err != nil {
				return err
			}
			defer r.Close()
			buf := make([]byte, 1<<20)
			for off := int64(0); off < r.Size(); off += int64(len(buf)) {
				if _, err := r.ReadAt(buf[:min(int64(len(buf)), r.Size()-off)], off); err != nil {
					return err
				}
			}
			return nil
		}},
	}
}
