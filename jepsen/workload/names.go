package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/jepsen/check"
	"eggsfs/jepsen/history"
)

const (
	nameWorkers = 9
	flavours    = 3   // files with O_EXCL; files and symlinks; directories
	dirQuota    = 240 // operations in a directory before the next one: what a checker decides fast
)

// names is the linearizability workload. What a name leads to is told by a token in
// its target's uid, which no one changes.
type names struct {
	slots  [flavours]slot
	tokens sync.Map // file id → token
}

// slot is the directory that a flavour works in now.
type slot struct {
	mu    sync.Mutex
	dir   eggs.InodeID
	key   string
	left  int
	count int
}

func (*names) Name() string { return "names" }

func (w *names) Setup(ctx context.Context, e *Env) error {
	for i := range w.slots {
		if _, _, ok := w.take(ctx, e, e.Clients[0], i); !ok {
			return fmt.Errorf("names: no directory could be made: %w", context.Cause(ctx))
		}
	}
	return nil
}

// take returns the directory for one more operation.
func (w *names) take(ctx context.Context, e *Env, c *client.Client, flavour int) (eggs.InodeID, string, bool) {
	s := &w.slots[flavour]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		key := fmt.Sprintf("%d-%d", flavour, s.count)
		dir, err := e.mkdir(ctx, c, e.Base, key)
		if err != nil {
			return 0, "", false
		}
		s.dir, s.key, s.left, s.count = dir, key, dirQuota, s.count+1
	}
	s.left--
	return s.dir, s.key, true
}

func (w *names) Run(ctx context.Context, e *Env) {
	e.workers(ctx, nameWorkers, func(p int, c *client.Client, rng *rand.Rand) {
		flavour := p % flavours
		dir, key, ok := w.take(ctx, e, e.Clients[(p/flavours)%len(e.Clients)], flavour)
		if !ok {
			return
		}
		ev := history.Event{
			Workload: w.Name(), Process: p, Key: key, Name: check.Names[rng.IntN(len(check.Names))],
			Op: operation(flavour, rng.IntN(100)),
		}
		_ = e.do(ev, func(ctx context.Context, ev *history.Event) error {
			return w.operate(ctx, e, c, dir, ev, rng)
		})
	})
}

// operation chooses what to do, by a number below 100.
func operation(flavour, x int) string {
	switch {
	case x < 30:
		return "lookup"
	case x < 40:
		return "list"
	case x < 55:
		return "rename"
	case x < 75:
		return [...]string{"unlink", "unlink", "rmdir"}[flavour]
	case x < 88:
		return [...]string{"excl", "symlink", "mkdir"}[flavour]
	}
	return [...]string{"create", "create", "mkdir"}[flavour]
}

func (w *names) operate(ctx context.Context, e *Env, c *client.Client, dir eggs.InodeID, ev *history.Event,
	rng *rand.Rand,
) error {
	token := e.token.Add(1)
	o := client.CreateOptions{Mode: 0o755, UID: uint32(token)}
	switch ev.Op {
	case "lookup":
		return w.lookup(ctx, c, dir, ev)
	case "list":
		return w.list(ctx, c, dir, ev)
	case "rename":
		for ev.To = ev.Name; ev.To == ev.Name; {
			ev.To = check.Names[rng.IntN(len(check.Names))]
		}
		// A directory is only given a free name: to take another's is two changes.
		ev.Flag = ev.Key[0] == '2' || rng.IntN(3) == 0
		return c.Rename(ctx, dir, ev.Name, dir, ev.To, ev.Flag)
	case "unlink":
		return c.Unlink(ctx, dir, ev.Name, 0)
	case "rmdir":
		return c.Rmdir(ctx, dir, ev.Name)
	case "symlink":
		ev.Value = token
		_, err := c.Symlink(ctx, dir, ev.Name, "x", o)
		return err
	case "mkdir":
		ev.Value = token
		_, err := c.Mkdir(ctx, dir, ev.Name, o)
		return err
	}
	ev.Value = token
	o.Exclusive = ev.Op == "excl"
	return w.create(ctx, c, dir, ev, o)
}

func (w *names) create(ctx context.Context, c *client.Client, dir eggs.InodeID, ev *history.Event,
	o client.CreateOptions,
) error {
	f, err := c.Create(ctx, dir, ev.Name, o)
	if err != nil {
		return err
	}
	w.tokens.Store(f.ID(), ev.Value)
	if _, err := f.Write([]byte("x")); err != nil {
		f.Abort()
		return eggs.E("workload.Write", eggs.Timeout, err.Error()) // never linked
	}
	replaced, err := f.Close(ctx)
	if err != nil {
		f.Abort()
		return err
	}
	if replaced != 0 {
		ev.Flag = true
		if t, ok := w.tokens.Load(replaced); ok {
			ev.Other = t.(uint64)
		}
	}
	return nil
}

func (*names) lookup(ctx context.Context, c *client.Client, dir eggs.InodeID, ev *history.Event) error {
	x, err := c.Lookup(ctx, dir, ev.Name)
	if eggs.KindOf(err) == eggs.NotExist {
		return nil // an answer: nothing is there
	}
	if err == nil && x.Attr == nil {
		return eggs.E("workload.Lookup", eggs.Indeterminate, "the target went in between")
	}
	if err == nil {
		ev.Value = uint64(x.Attr.UID)
	}
	return err
}

func (*names) list(ctx context.Context, c *client.Client, dir eggs.InodeID, ev *history.Event) error {
	entries, _, end, err := c.ReadDir(ctx, dir, 0, 1000, true)
	if err != nil {
		return err
	}
	ev.Name, ev.List = "", map[string]uint64{}
	for _, x := range entries {
		if x.Attr == nil {
			end = false
			continue
		}
		ev.List[x.Name] = uint64(x.Attr.UID)
	}
	if !end {
		return eggs.E("workload.List", eggs.Indeterminate, "a target went in between")
	}
	return nil
}

func (*names) Final(context.Context, *Env) error { return nil }

func (w *names) Check(events []history.Event, out string) []check.Verdict {
	return check.Linearizable(w.Name(), events, checkLimit, out)
}
