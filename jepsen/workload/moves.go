package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/jepsen/check"
	"eggsfs/jepsen/history"
)

const (
	bankDirs    = 5
	bankFiles   = 40
	bankWorkers = 12
)

// bank moves files between directories.
type bank struct {
	dirs  []eggs.InodeID
	where [bankFiles]atomic.Int32 // a guess
}

func (*bank) Name() string { return "bank" }

func (w *bank) Setup(ctx context.Context, e *Env) (err error) {
	if w.dirs, err = e.folders(ctx, bankDirs); err != nil {
		return err
	}
	for i := range bankFiles {
		name := fmt.Sprintf("f%d", i)
		f, err := e.Clients[0].Create(ctx, w.dirs[0], name, client.CreateOptions{Mode: 0o644})
		if err == nil {
			_, err = f.Close(ctx)
		}
		if err != nil {
			return err
		}
		e.Recorder.Add(history.Event{
			Workload: w.Name(), Op: "init", Name: name, Value: uint64(f.ID()), Outcome: history.OK,
		})
	}
	return nil
}

func (w *bank) Run(ctx context.Context, e *Env) {
	e.workers(ctx, bankWorkers, func(p int, c *client.Client, rng *rand.Rand) {
		i := rng.IntN(bankFiles)
		from, to := int(w.where[i].Load()), rng.IntN(bankDirs)
		if from == to {
			to = (to + 1) % bankDirs
		}
		name := fmt.Sprintf("f%d", i)
		err := e.do(history.Event{
			Workload: w.Name(), Process: p, Op: "move", Name: name, Key: fmt.Sprint(from), To: fmt.Sprint(to),
		}, func(ctx context.Context, _ *history.Event) error {
			return c.Rename(ctx, w.dirs[from], name, w.dirs[to], name, rng.IntN(2) == 0)
		})
		switch {
		case err == nil:
			w.where[i].Store(int32(to))
		case eggs.KindOf(err) == eggs.NotExist: // it is elsewhere: guess on
			w.where[i].CompareAndSwap(int32(from), int32(rng.IntN(bankDirs)))
		}
	})
}

func (w *bank) Final(ctx context.Context, e *Env) error {
	for i, dir := range w.dirs {
		ev := history.Event{
			Workload: w.Name(), Op: "final", Key: fmt.Sprint(i), List: map[string]uint64{}, Outcome: history.OK,
		}
		entries, _, err := list(ctx, e.Clients[0], dir)
		for _, x := range entries {
			ev.List[x.Name] = uint64(x.Target)
		}
		if err != nil {
			ev.Outcome, ev.Err = history.Unknown, err.Error()
		}
		e.Recorder.Add(ev)
	}
	return nil
}

func (w *bank) Check(events []history.Event, _ string) []check.Verdict {
	return check.Conserved(w.Name(), events)
}

const (
	treeMakers  = 4
	movers      = 2
	chasers     = 2
	chainLength = 24 // directories that a moving file goes through
	ownDirs     = 30 // directories of one maker at a time
)

// tree makes, renames and removes nested directories, and has files move along
// a chain of directories with readers after them.
type tree struct {
	chain  []eggs.InodeID
	places [movers]chased
	mu     sync.Mutex
	dirs   []made // of all makers, as parents
}

type made struct {
	id     eggs.InodeID
	parent eggs.InodeID
	name   string
}

// chased is where a moving file is: it was in directory at, and the move out of all
// directories below begun has begun.
type chased struct {
	mu    sync.Mutex
	name  string
	at    int
	begun int
}

func (c *chased) get() (name string, at, begun int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.name, c.at, c.begun
}

func (c *chased) set(name string, at, begun int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.name, c.at, c.begun = name, at, begun
}

func (*tree) Name() string { return "tree" }

func (w *tree) Setup(ctx context.Context, e *Env) (err error) {
	w.chain, err = e.folders(ctx, chainLength)
	w.dirs = []made{{id: e.Base}}
	return err
}

func (w *tree) Run(ctx context.Context, e *Env) {
	own := make([][]made, treeMakers)
	e.workers(ctx, treeMakers+movers+chasers, func(p int, c *client.Client, rng *rand.Rand) {
		switch {
		case p < treeMakers:
			w.make(e, c, p, &own[p], rng)
		case p < treeMakers+movers:
			w.move(ctx, e, c, p, &w.places[p-treeMakers])
		default:
			w.chase(e, c, p, &w.places[rng.IntN(movers)])
		}
	})
}

// make makes a directory below any other, or renames or removes one of its own.
func (w *tree) make(e *Env, c *client.Client, p int, own *[]made, rng *rand.Rand) {
	ev := history.Event{Workload: w.Name(), Process: p}
	x := rng.IntN(10)
	if len(*own) == 0 || x < 5 && len(*own) < ownDirs {
		w.mu.Lock()
		parent := w.dirs[rng.IntN(len(w.dirs))]
		w.mu.Unlock()
		ev.Op, ev.Name, ev.Other = "mkdir", fmt.Sprintf("p%d-%d", p, e.token.Add(1)), uint64(parent.id)
		err := e.do(ev, func(ctx context.Context, ev *history.Event) error {
			a, err := c.Mkdir(ctx, parent.id, ev.Name, client.CreateOptions{Mode: 0o755})
			ev.Value = uint64(a.ID)
			if err == nil {
				*own = append(*own, made{a.ID, parent.id, ev.Name})
			}
			return err
		})
		if err == nil {
			w.mu.Lock()
			w.dirs = append(w.dirs, (*own)[len(*own)-1])
			w.mu.Unlock()
		}
		return
	}
	i := rng.IntN(len(*own))
	d := &(*own)[i]
	ev.Name, ev.Value, ev.Other = d.name, uint64(d.id), uint64(d.parent)
	if x < 8 {
		ev.Op, ev.To = "rename", fmt.Sprintf("p%d-%d", p, e.token.Add(1))
		err := e.do(ev, func(ctx context.Context, _ *history.Event) error {
			return c.Rename(ctx, d.parent, d.name, d.parent, ev.To, true)
		})
		if err == nil {
			d.name = ev.To
		}
		if eggs.KindOf(err) == eggs.NotExist || eggs.KindOf(err) == eggs.Indeterminate {
			*own = append((*own)[:i], (*own)[i+1:]...) // its name is not known any more
		}
		return
	}
	ev.Op = "rmdir"
	err := e.do(ev, func(ctx context.Context, _ *history.Event) error { return c.Rmdir(ctx, d.parent, d.name) })
	if err == nil || eggs.KindOf(err) == eggs.Indeterminate || eggs.KindOf(err) == eggs.NotExist {
		w.mu.Lock()
		for k := range w.dirs {
			if w.dirs[k].id == d.id {
				w.dirs = append(w.dirs[:k], w.dirs[k+1:]...)
				break
			}
		}
		w.mu.Unlock()
		*own = append((*own)[:i], (*own)[i+1:]...)
	}
}

// move has the file make one step, a new one when the last has come to the end.
func (w *tree) move(ctx context.Context, e *Env, c *client.Client, p int, place *chased) {
	name, at, _ := place.get()
	if name == "" || at == chainLength-1 {
		name, at = fmt.Sprintf("m%d-%d", p, e.token.Add(1)), 0
		f, err := c.Create(ctx, w.chain[0], name, client.CreateOptions{Mode: 0o644})
		if err == nil {
			_, err = f.Close(ctx)
		}
		if err == nil {
			place.set(name, 0, 0)
		}
		return
	}
	place.set(name, at, at+1)
	for ctx.Err() == nil {
		err := e.do(history.Event{
			Workload: w.Name(), Process: p, Op: "move", Name: name, Other: uint64(at),
		}, func(ctx context.Context, _ *history.Event) error {
			return c.Rename(ctx, w.chain[at], name, w.chain[at+1], name, true)
		})
		if err == nil {
			place.set(name, at+1, at+1)
			return
		}
		if eggs.KindOf(err) == eggs.NotExist { // an earlier try has done it, if it is there
			if _, lerr := c.Lookup(ctx, w.chain[at+1], name); lerr == nil {
				place.set(name, at+1, at+1)
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// chase looks for the file where it was, and then where it must have gone.
func (w *tree) chase(e *Env, c *client.Client, p int, place *chased) {
	name, k, begun := place.get()
	if name == "" {
		return
	}
	for k < chainLength {
		found := false
		err := e.do(history.Event{
			Workload: w.Name(), Process: p, Op: "chase", Name: name, Other: uint64(k),
		}, func(ctx context.Context, ev *history.Event) error {
			_, err := c.Lookup(ctx, w.chain[k], name)
			if found = err == nil; !found && eggs.KindOf(err) != eggs.NotExist {
				return err
			}
			now, _, b := place.get()
			if now != name { // it has come to the end, so it has begun to leave all others
				b = chainLength
				found = found || k == chainLength-1
			}
			begun, ev.Flag, ev.Value = b, found, uint64(b)
			return nil
		})
		if err != nil || found || begun <= k {
			return
		}
		k++
	}
}

// Final walks the tree.
func (w *tree) Final(ctx context.Context, e *Env) error {
	type at struct {
		id, parent eggs.InodeID
		path       string
	}
	root, err := e.Clients[0].Stat(ctx, e.Base)
	if err != nil {
		return err
	}
	todo := []at{{e.Base, root.Owner, e.Path}}
	seen := map[eggs.InodeID]bool{}
	for len(todo) > 0 {
		d := todo[0]
		todo = todo[1:]
		if seen[d.id] { // a loop, or two names: the events show it
			continue
		}
		seen[d.id] = true
		entries, owner, err := list(ctx, e.Clients[0], d.id)
		ev := history.Event{
			Workload: w.Name(), Op: "final", Key: d.path,
			Value: uint64(d.id), Other: uint64(owner), Sum: uint64(d.parent),
			List: map[string]uint64{}, Outcome: history.OK,
		}
		if err != nil {
			ev.Outcome, ev.Err = history.Unknown, err.Error()
		}
		for _, x := range entries {
			ev.List[x.Name] = uint64(x.Target)
			if x.Target.IsDir() {
				todo = append(todo, at{x.Target, d.id, d.path + "/" + x.Name})
			}
		}
		e.Recorder.Add(ev)
	}
	return nil
}

func (w *tree) Check(events []history.Event, _ string) []check.Verdict {
	return append(check.Tree(w.Name(), events), check.Chase("tree: renames", events)...)
}
