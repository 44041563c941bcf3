package workload

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/jepsen/check"
	"eggsfs/jepsen/history"
)

var table = crc64.MakeTable(crc64.ECMA)

// bytesOf is a file's content, by its name: nothing else can make them.
func bytesOf(name string, size int) []byte {
	b := make([]byte, (size+7)/8*8)
	rng := rand.NewPCG(crc64.Checksum([]byte(name), table), uint64(size))
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b[:size]
}

// store is what files, blocks and ledger have in common: files in a few folders
// that are written once.
type store struct {
	name string
	dirs []eggs.InodeID

	mu   sync.Mutex
	done []written // acknowledged, to be read
}

type written struct {
	dir  int
	name string
	size int
}

func (s *store) Name() string { return s.name }

// pick is any acknowledged file; take also gives it up, as it is going to be removed.
func (s *store) pick(rng *rand.Rand, take bool) (written, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.done) == 0 {
		return written{}, false
	}
	i := rng.IntN(len(s.done))
	f := s.done[i]
	if take {
		s.done = append(s.done[:i], s.done[i+1:]...)
	}
	return f, true
}

func (s *store) add(f written) {
	s.mu.Lock()
	s.done = append(s.done, f)
	s.mu.Unlock()
}

// write makes one file by the library. Its event begins with the close: before
// that nobody may see it.
func (s *store) write(e *Env, c *client.Client, p int, f written, peek bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), opLimit)
	defer cancel()
	data := bytesOf(f.name, f.size)
	w, err := c.Create(ctx, s.dirs[f.dir], f.name, client.CreateOptions{Mode: 0o644})
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		w.Abort()
		return err
	}
	if peek {
		s.read(e, c, p, "read", f)
	}
	ev := history.Event{
		Workload: s.name, Process: p, Op: "write", Name: f.name, Size: int64(f.size), Sum: crc64.Checksum(data, table),
	}
	err = e.do(ev, func(ctx context.Context, _ *history.Event) error {
		_, err := w.Close(ctx)
		return err
	})
	if err != nil {
		w.Abort()
		return err
	}
	s.add(f)
	return nil
}

// read reads one file whole by the library.
func (s *store) read(e *Env, c *client.Client, p int, op string, f written) {
	_ = e.do(history.Event{Workload: s.name, Process: p, Op: op, Name: f.name},
		func(ctx context.Context, ev *history.Event) error {
			x, err := c.Lookup(ctx, s.dirs[f.dir], f.name)
			if err != nil {
				return err
			}
			r, err := c.Open(ctx, x.Target)
			if err != nil {
				return err
			}
			defer r.Close()
			h := crc64.New(table)
			ev.Size, err = io.Copy(h, io.NewSectionReader(r, 0, 1<<40))
			ev.Sum = h.Sum64()
			return err
		})
}

// readAll records, as final, every file that was written or may have been.
func (s *store) readAll(ctx context.Context, e *Env) error {
	var all []written
	removed := map[string]bool{}
	for _, ev := range history.Of(e.Recorder.Events(), s.name) {
		if ev.Op == "unlink" {
			removed[ev.Name] = true
		}
	}
	for _, ev := range history.Of(e.Recorder.Events(), s.name) {
		if ev.Op == "write" && !removed[ev.Name] {
			var dir int
			if _, err := fmt.Sscanf(ev.Name, "%d-", &dir); err != nil {
				return fmt.Errorf("workload: name %s: %w", ev.Name, err)
			}
			all = append(all, written{dir, ev.Name, int(ev.Size)})
		}
	}
	var wg sync.WaitGroup
	next := make(chan written)
	for i := range 6 {
		wg.Go(func() {
			for f := range next {
				s.read(e, e.Clients[i%len(e.Clients)], 1000+i, "final", f)
			}
		})
	}
	for _, f := range all {
		if ctx.Err() != nil {
			break
		}
		next <- f
	}
	close(next)
	wg.Wait()
	return ctx.Err()
}

func (s *store) Check(events []history.Event, _ string) []check.Verdict {
	return check.Files(s.name, events)
}

func (s *store) newFile(e *Env, rng *rand.Rand, size int) written {
	dir := rng.IntN(len(s.dirs))
	return written{dir, fmt.Sprintf("%d-%d", dir, e.token.Add(1)), size}
}

const (
	fileDirs    = 6
	fileWorkers = 4
)

// files writes and reads files of all sizes, by the library and by mounts.
type files struct{ store }

func (w *files) Setup(ctx context.Context, e *Env) (err error) {
	w.name = w.Name()
	w.dirs, err = e.folders(ctx, fileDirs)
	return err
}

func (*files) Name() string { return "files" }

func fileSize(rng *rand.Rand) int {
	switch x := rng.IntN(100); {
	case x < 10:
		return 0
	case x < 70:
		return rng.IntN(4 << 10)
	case x < 93:
		return rng.IntN(100 << 10)
	}
	return rng.IntN(1 << 20)
}

func (w *files) Run(ctx context.Context, e *Env) {
	procs := make([]*mountProcess, 2*len(e.Mounts))
	for i := range procs {
		p, err := startMount(e.MountIO)
		if err != nil {
			e.Recorder.Add(history.Event{Workload: w.name, Op: "mount", Outcome: history.Fail, Err: err.Error()})
			return
		}
		defer p.stop()
		procs[i] = p
	}
	e.workers(ctx, fileWorkers+len(procs), func(p int, c *client.Client, rng *rand.Rand) {
		read := rng.IntN(2) == 0
		f, ok := w.pick(rng, false)
		if read = read && ok; !read {
			f = w.newFile(e, rng, fileSize(rng))
		}
		if p < fileWorkers {
			if read {
				w.read(e, c, p, "read", f)
			} else {
				_ = w.write(e, c, p, f, rng.IntN(4) == 0)
			}
			return
		}
		m, mount := procs[p-fileWorkers], e.Mounts[(p-fileWorkers)/2]
		if read {
			w.readMount(e, m, mount, p, f)
		} else {
			w.writeMount(e, m, mount, p, f)
		}
	})
}

// writeMount makes a file by a mount. What its error means is not known: a dead
// mount says no more than a dead cluster.
func (w *files) writeMount(e *Env, m *mountProcess, mount string, p int, f written) {
	q := request{
		Op: "begin", Path: filepath.Join(mount, e.join(f.dir, f.name)), Name: f.name, Size: f.size, Dup: p%2 == 0,
	}
	_, err := m.ask(q)
	if err != nil && errors.Is(err, os.ErrNotExist) {
		return // no mount is there
	}
	if err == nil && q.Dup {
		w.read(e, e.Clients[p%len(e.Clients)], p, "read", f)
	}
	if err == nil {
		q.Op = "rest"
		_, err = m.ask(q)
	}
	ev := history.Event{
		Workload: w.name, Process: p, Op: "write", Name: f.name,
		Size: int64(f.size), Sum: crc64.Checksum(bytesOf(f.name, f.size), table),
	}
	err = e.do(ev, func(context.Context, *history.Event) error {
		q.Op = "close"
		if _, cerr := m.ask(q); err != nil || cerr != nil {
			return errors.Join(eggs.IO, err, cerr)
		}
		return nil
	})
	if err == nil {
		w.add(f)
	}
}

func (w *files) readMount(e *Env, m *mountProcess, mount string, p int, f written) {
	_ = e.do(history.Event{Workload: w.name, Process: p, Op: "read", Name: f.name, Flag: true},
		func(_ context.Context, ev *history.Event) error {
			a, err := m.ask(request{Op: "read", Path: filepath.Join(mount, e.join(f.dir, f.name))})
			ev.Size, ev.Sum = a.Size, a.Sum
			if errors.Is(err, os.ErrNotExist) {
				_, serr := m.ask(request{Op: "stat", Path: filepath.Join(mount, e.Path)})
				if serr == nil { // and not the whole mount
					return eggs.NotExist
				}
			}
			if err != nil {
				return errors.Join(eggs.IO, err)
			}
			return nil
		})
}

func (w *files) Final(ctx context.Context, e *Env) error { return w.readAll(ctx, e) }

const (
	blockDirs    = 4
	blockWorkers = 8
)

// blocks writes larger files and reads pieces of them.
type blocks struct{ store }

func (*blocks) Name() string { return "blocks" }

func (w *blocks) Setup(ctx context.Context, e *Env) (err error) {
	w.name = w.Name()
	w.dirs, err = e.folders(ctx, blockDirs)
	return err
}

func (w *blocks) Run(ctx context.Context, e *Env) {
	e.workers(ctx, blockWorkers, func(p int, c *client.Client, rng *rand.Rand) {
		switch x := rng.IntN(10); {
		case x < 2:
			_ = w.write(e, c, p, w.newFile(e, rng, 70<<10+rng.IntN(700<<10)), false)
		case x < 3:
			if f, ok := w.pick(rng, true); ok {
				_ = e.do(history.Event{Workload: w.name, Process: p, Op: "unlink", Name: f.name},
					func(ctx context.Context, _ *history.Event) error {
						return c.Unlink(ctx, w.dirs[f.dir], f.name, 0)
					})
			}
		default:
			if f, ok := w.pick(rng, false); ok {
				w.piece(e, c, p, f, rng)
			}
		}
	})
}

// piece reads some bytes of a file at a random place and compares them. A wrong byte is
// recorded as a read with a wrong sum.
func (w *blocks) piece(e *Env, c *client.Client, p int, f written, rng *rand.Rand) {
	want := bytesOf(f.name, f.size)
	ev := history.Event{Workload: w.name, Process: p, Op: "piece", Name: f.name}
	off := rng.IntN(f.size)
	got := make([]byte, min(f.size-off, 1+rng.IntN(100<<10)))
	err := e.do(ev, func(ctx context.Context, ev *history.Event) error {
		x, err := c.Lookup(ctx, w.dirs[f.dir], f.name)
		if err != nil {
			return err
		}
		r, err := c.Open(ctx, x.Target)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = r.ReadAt(got, int64(off))
		return err
	})
	if err == nil && string(got) != string(want[off:off+len(got)]) {
		e.Recorder.Add(history.Event{
			Workload: w.name, Process: p, Op: "read", Name: f.name, Size: int64(f.size), Outcome: history.OK,
			Err: fmt.Sprintf("%d bytes at %d are not what was written", len(got), off),
		})
	}
}

func (w *blocks) Final(ctx context.Context, e *Env) error { return w.readAll(ctx, e) }

const (
	ledgerDirs    = 8
	ledgerWorkers = 6
)

// ledger makes small files and keeps a ledger on the client's side, synced before
// an acknowledgement counts.
type ledger struct {
	store
	log *os.File
	mu  sync.Mutex
}

func (*ledger) Name() string { return "ledger" }

func (w *ledger) Setup(ctx context.Context, e *Env) (err error) {
	w.name = w.Name()
	if w.log, err = os.Create(filepath.Join(e.Out, "ledger.txt")); err != nil {
		return err
	}
	w.dirs, err = e.folders(ctx, ledgerDirs)
	return err
}

func (w *ledger) Run(ctx context.Context, e *Env) {
	e.workers(ctx, ledgerWorkers, func(p int, c *client.Client, rng *rand.Rand) {
		f := w.newFile(e, rng, 20+rng.IntN(200))
		if w.write(e, c, p, f, false) != nil {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		_, err := fmt.Fprintln(w.log, f.name)
		if err == nil {
			err = w.log.Sync()
		}
		if err != nil {
			e.Recorder.Add(history.Event{Workload: w.name, Op: "ledger", Outcome: history.Fail, Err: err.Error()})
		}
	})
}

// Final reads every file, and records those of the ledger that the history lacks.
func (w *ledger) Final(ctx context.Context, e *Env) error {
	if err := w.log.Close(); err != nil {
		return err
	}
	b, err := os.ReadFile(w.log.Name())
	if err != nil {
		return err
	}
	acked := map[string]bool{}
	for _, ev := range history.Of(e.Recorder.Events(), w.name) {
		if ev.Op == "write" && ev.Outcome == history.OK {
			acked[ev.Name] = true
		}
	}
	for lines := bufio.NewScanner(strings.NewReader(string(b))); lines.Scan(); {
		if !acked[lines.Text()] {
			return fmt.Errorf("ledger: %s is in the ledger and not in the history", lines.Text())
		}
	}
	return w.readAll(ctx, e)
}
