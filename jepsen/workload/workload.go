// Package workload has what clients do to a cluster while it is being broken. Each
// workload records a history and says which checks judge it; it asserts nothing
// itself, and goes on whatever it is answered.
package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/jepsen/check"
	"eggsfs/jepsen/history"
)

// Bounds of one operation and of what comes after the faults.
const (
	opLimit    = 25 * time.Second // more than a client waits through a failover
	checkLimit = 20 * time.Second // to judge one directory
)

// Env is what a workload has.
type Env struct {
	Clients  []*client.Client
	Mounts   []string // folders of mounts, in which Path is
	MountIO  []string // command that runs ServeMount on its standard input and output
	Recorder *history.Recorder
	Seed     uint64
	Base     eggs.InodeID // a directory of its own
	Path     string       // of Base
	Out      string       // folder for pictures and ledgers
	Web      []string     // HTTP addresses of the nodes
	Pace     time.Duration
	token    atomic.Uint64
}

// Workload is one kind of load and its checks.
type Workload interface {
	// Name is what the command line and the history call it.
	Name() string
	// Setup makes what Run needs; the cluster is whole.
	Setup(ctx context.Context, e *Env) error
	// Run works until ctx is done, and returns when its last operation has ended.
	Run(ctx context.Context, e *Env)
	// Final records the state in the end; the cluster is whole again.
	Final(ctx context.Context, e *Env) error
	// Check judges this workload's events.
	Check(events []history.Event, out string) []check.Verdict
}

// All are the workloads, in the order of the help.
func All() []Workload {
	return []Workload{&names{}, &tree{}, &files{}, &bank{}, &ledger{}, &blocks{}, &replicas{}}
}

// About is a line of help for each workload.
var About = map[string]string{
	"names":    "create, replace, rename, unlink, look up and list few names: linearizable by directory",
	"tree":     "mkdir, rmdir and renames: one tree, nothing lost; a moving file always has a name",
	"files":    "files by library and mounts: acknowledged ones are whole, none half-written or seen early",
	"bank":     "files moved between directories by racing clients: none lost, none doubled",
	"ledger":   "small files, each written to a client's fsynced ledger once acknowledged",
	"blocks":   "larger files, read back at random, some removed: never a wrong byte",
	"replicas": "state hashes of replicas at the same entry are the same",
}

// do runs one operation and records it. f fills in what it learnt.
func (e *Env) do(ev history.Event, f func(ctx context.Context, ev *history.Event) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), opLimit)
	defer cancel()
	ev.Begin = e.Recorder.Begin(ev.Workload)
	err := f(ctx, &ev)
	judge(&ev, err)
	e.Recorder.End(ev)
	return err
}

// judge sets the outcome. What is not surely without effect is unknown.
func judge(ev *history.Event, err error) {
	if err == nil {
		ev.Outcome = history.OK
		return
	}
	kind := eggs.KindOf(err)
	ev.Err, ev.Kind = err.Error(), kind.String()
	switch kind {
	case eggs.Other, eggs.Indeterminate, eggs.IO, eggs.Canceled:
		ev.Outcome = history.Unknown
	default:
		ev.Outcome = history.Fail
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) && kind != eggs.Timeout {
		ev.Outcome = history.Unknown
	}
}

// workers runs n processes until ctx is done. Each call of f is one operation or a few.
func (e *Env) workers(ctx context.Context, n int, f func(p int, c *client.Client, rng *rand.Rand)) {
	var wg sync.WaitGroup
	for p := range n {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(e.Seed, uint64(p)))
			for ctx.Err() == nil {
				f(p, e.Clients[p%len(e.Clients)], rng)
				if e.Pace > 0 {
					time.Sleep(time.Duration(rng.Int64N(int64(2 * e.Pace))))
				}
			}
		})
	}
	wg.Wait()
}

// mkdir makes a directory, and tries until it is there or ctx is done.
func (e *Env) mkdir(ctx context.Context, c *client.Client, dir eggs.InodeID, name string) (eggs.InodeID, error) {
	for {
		a, err := c.Mkdir(ctx, dir, name, client.CreateOptions{Mode: 0o755})
		if err == nil {
			return a.ID, nil
		}
		if eggs.KindOf(err) == eggs.Exist { // an answer that was lost
			if entry, lerr := c.Lookup(ctx, dir, name); lerr == nil {
				return entry.Target, nil
			}
		}
		if ctx.Err() != nil {
			return 0, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// folders makes n directories, named 0, 1, ….
func (e *Env) folders(ctx context.Context, n int) ([]eggs.InodeID, error) {
	ids := make([]eggs.InodeID, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { ids[i], errs[i] = e.mkdir(ctx, e.Clients[0], e.Base, fmt.Sprint(i)) })
	}
	wg.Wait()
	return ids, errors.Join(errs...)
}

// list lists a directory whole, and tries until it can or ctx is done.
func list(ctx context.Context, c *client.Client, dir eggs.InodeID) (all []client.Entry, owner eggs.InodeID, err error) {
	for {
		all = all[:0]
		for after, end := uint64(0), false; !end && err == nil; {
			var some []client.Entry
			some, owner, end, err = c.ReadDir(ctx, dir, after, 1000, true)
			for _, x := range some {
				after = x.Cursor
			}
			all = append(all, some...)
		}
		if err == nil || ctx.Err() != nil {
			return all, owner, err
		}
		time.Sleep(100 * time.Millisecond)
		err = nil
	}
}

// join is the path of a name in the n-th folder of the workload.
func (e *Env) join(n int, name string) string { return path.Join(e.Path, fmt.Sprint(n), name) }
