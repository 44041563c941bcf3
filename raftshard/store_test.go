package raftshard

import (
	"bytes"
	"context"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
)

// lone is a group of one, without a log.
type lone struct {
	mem     *raftgroup.MemoryState
	machine *Machine
	entries [][]byte // what was applied
	keep    bool     // entries
	follow  bool     // does not lead
	held    *[]byte  // where the next entry goes instead of being applied
}

func newLone(m *Machine) *lone {
	return &lone{mem: raftgroup.NewMemoryState(m.shard.Group(), m), machine: m}
}

func (g *lone) Propose(_ context.Context, data []byte) (any, error) {
	if g.follow {
		return nil, &eggs.Error{Op: "raftgroup.Propose", Kind: eggs.NotLeader}
	}
	if h := g.held; h != nil {
		g.held = nil
		*h = bytes.Clone(data)
		return nil, &eggs.Error{Op: "raftgroup.Propose", Kind: eggs.Indeterminate}
	}
	return g.apply(data), nil
}

func (g *lone) apply(data []byte) any {
	if g.keep {
		g.entries = append(g.entries, bytes.Clone(data))
	}
	return g.mem.Apply(data)
}

func (g *lone) Read(context.Context) (raftgroup.View, error) {
	if g.follow {
		return nil, &eggs.Error{Op: "raftgroup.Read", Kind: eggs.NotLeader}
	}
	return g.mem.View(), nil
}

func (g *lone) Local() raftgroup.View              { return g.mem.View() }
func (g *lone) Leads() bool                        { return !g.follow }
func (g *lone) OnLead(f func(ctx context.Context)) { f(context.Background()) }
