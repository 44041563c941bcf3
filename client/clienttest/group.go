package clienttest

import (
	"context"
	"sync"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
)

// group is a raft group of one voter that always leads.
type group struct {
	mu    sync.Mutex
	state *raftgroup.GroupState
	index uint64
	ctx   context.Context
	wg    *sync.WaitGroup
}

// Propose applies an entry.
func (g *group) Propose(ctx context.Context, data []byte) (any, error) {
	if ctx.Err() != nil {
		return nil, &eggs.Error{Op: "clienttest.Propose", Kind: eggs.Unavailable, Err: ctx.Err()}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil {
		return nil, eggs.E("clienttest.Propose", eggs.Unavailable, "the cluster is closed")
	}
	g.index++
	return g.state.ApplyBatch([]*raft.Log{
		{Index: g.index, Term: 1, Type: raft.LogCommand, Data: data},
	})[0], nil
}

// Read returns the state as of now.
func (g *group) Read(context.Context) (raftgroup.View, error) { return g.Local(), nil }

// Local returns the state as of now.
func (g *group) Local() raftgroup.View { return g.state.View() }

// Leads is always true.
func (g *group) Leads() bool { return true }

// OnLead calls f once.
func (g *group) OnLead(f func(ctx context.Context)) { g.wg.Go(func() { f(g.ctx) }) }
