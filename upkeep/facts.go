package upkeep

import (
	"context"
	"sync"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// factsFor is how long facts that were asked for are taken as good: what they
// decide, that a disk is given up or emptied, is as true a little later.
const factsFor = 5 * time.Second

// facts are the cluster's durable facts, as a node has them or asked for now and then.
type facts struct {
	c     client.Operator
	local func() *wire.Facts // nil: ask

	mu    sync.Mutex
	known *wire.Facts
	asked time.Time
}

func (f *facts) get(ctx context.Context) (*wire.Facts, error) {
	if f.local != nil {
		return f.local(), nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known != nil && time.Since(f.asked) < factsFor {
		return f.known, nil
	}
	ans, err := f.c.QueryCDC(ctx, &wire.CdcQuery{Query: &wire.CdcQuery_GetFacts{GetFacts: &wire.GetFacts{}}})
	if err != nil {
		return nil, err
	}
	f.known, f.asked = ans.GetFacts(), time.Now()
	return f.known, nil
}

// Leaving says why blocks leave a disk.
type Leaving int

// A disk stays, is emptied while it can be read, or is given up for good.
const (
	Stays Leaving = iota
	Draining
	Retired
)

// String names it in a word.
func (l Leaving) String() string { return [...]string{"in use", "draining", "retired"}[l] }

// LeavingDisks returns the disks that blocks leave, and why.
func LeavingDisks(f *wire.Facts) map[eggs.DiskID]Leaving {
	drained := make(map[uint64]bool)
	for _, n := range f.GetNodes() {
		drained[n.Id] = n.Draining
	}
	out := make(map[eggs.DiskID]Leaving)
	for _, d := range f.GetDisks() {
		switch {
		case d.Retired:
			out[eggs.DiskID(d.Id)] = Retired
		case d.Draining || drained[d.Node]:
			out[eggs.DiskID(d.Id)] = Draining
		}
	}
	return out
}
