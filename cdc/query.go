package cdc

import (
	"context"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// Query answers one question, linearizably; only the leader can. The facts may
// also be had from any replica's Machine, as far as that has come.
func (c *CDC) Query(ctx context.Context, q *wire.CdcQuery) (*wire.CdcAnswer, error) {
	view, err := c.group.Read(ctx)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	switch query := q.GetQuery().(type) {
	case *wire.CdcQuery_GetFacts:
		return &wire.CdcAnswer{Facts: c.machine.Facts()}, nil
	case *wire.CdcQuery_GetParent:
		parent, _ := parentOf(view, query.GetParent.GetDir())
		return &wire.CdcAnswer{Parent: parent}, nil
	case *wire.CdcQuery_CdcStat:
		return &wire.CdcAnswer{Stat: c.stat(view)}, nil
	case *wire.CdcQuery_Check:
		return &wire.CdcAnswer{Check: &wire.Faults{Faults: Check(view)}}, nil
	}
	return &wire.CdcAnswer{
		Error: refusal("cdc.Query", eggs.Invalid, 0, "", "no query, or one of a later version"),
	}, nil
}

// stat counts.
func (c *CDC) stat(view raftgroup.Reader) *wire.CdcStatAnswer {
	s := &wire.CdcStatAnswer{
		Directories: loadState(view).Directories + 1, // and the root
		Sessions:    sessions.Count(view),
	}
	if t, ok := c.machine.oldest(); ok {
		s.OldestAgeNs = max(0, int64(c.clock())-t.rec.Begun)
	}
	c.mu.Lock()
	e := c.engine
	c.mu.Unlock()
	if e != nil {
		e.mu.Lock()
		s.Running, s.Queued, s.Finished = uint64(e.running), uint64(e.queued), e.finished
		e.mu.Unlock()
	}
	return s
}
