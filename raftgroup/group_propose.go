package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// hold makes proposals wait while the leadership is being moved, so that none
// is in the air when it goes.
type hold struct{ over chan struct{} }

// flight is a proposal on its way.
type flight struct {
	future raft.ApplyFuture
	landed chan landing // holds one
}

type landing struct {
	answer any
	err    error
}

// Propose has an entry committed and applied, and returns what this node's
// Machine.Apply returned for it. The caller must not touch data any more.
//
// It fails with NotLeader (naming the leader, if known), Unavailable, Busy,
// TooLarge, Canceled or Timeout when the entry is surely in no log, and with
// Indeterminate when it may be, or may come to be, committed.
func (g *Group) Propose(ctx context.Context, data []byte) (any, error) {
	const op = "raftgroup.Propose"
	if len(data) > MaxEntry {
		return nil, &eggs.Error{
			Op: op, Kind: eggs.TooLarge,
			Err: fmt.Errorf("entry of %d bytes, at most %d", len(data), MaxEntry),
		}
	}
	for {
		if ctx.Err() != nil {
			return nil, g.gaveUp(ctx, op)
		}
		// Counted before looking at hold: a transfer first holds and then counts.
		if g.flying.Add(1) > maxFlying {
			g.flying.Add(-1)
			return nil, &eggs.Error{
				Op: op, Name: "group " + g.id.String(), Kind: eggs.Busy,
				Err: fmt.Errorf("%d proposals wait", maxFlying),
			}
		}
		held := g.hold.Load()
		if held == nil {
			break
		}
		g.flying.Add(-1)
		select {
		case <-held.over:
		case <-ctx.Done():
		case <-g.done:
			return nil, g.notLeader(op)
		}
	}
	if _, err := g.office(ctx, op); err != nil {
		g.flying.Add(-1)
		return nil, err
	}
	wait := enqueueTime
	if d, ok := ctx.Deadline(); ok {
		wait = max(min(wait, time.Until(d)), time.Millisecond)
	}
	f := &flight{future: g.raft.ApplyLog(raft.Log{Data: data}, wait), landed: make(chan landing, 1)}
	g.await1(f)
	select {
	case r := <-f.landed:
		return r.answer, g.outcome(op, r.err)
	case <-ctx.Done():
		return nil, g.lost(op, ctx.Err())
	case <-g.done:
		return nil, g.lost(op, raft.ErrRaftShutdown)
	}
}

// await1 has the future waited for. One goroutine waits for all of a group's,
// as they end in about the order in which they began.
func (g *Group) await1(f *flight) {
	g.mu.Lock()
	g.futures = append(g.futures, f)
	start := !g.landing
	g.landing = true
	g.mu.Unlock()
	if start {
		go g.land()
	}
}

func (g *Group) land() {
	for {
		g.mu.Lock()
		fs := g.futures
		g.futures = nil
		if len(fs) == 0 {
			g.landing = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		for _, f := range fs {
			err := f.future.Error()
			g.flying.Add(-1)
			r := landing{err: err}
			if err == nil {
				r.answer = f.future.Response()
			}
			f.landed <- r
		}
	}
}

func (g *Group) lost(op string, cause error) error {
	return &eggs.Error{Op: op, Name: "group " + g.id.String(), Kind: eggs.Indeterminate, Err: cause}
}

// outcome tells raft's errors apart: was the entry in a log?
func (g *Group) outcome(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader): // never dispatched
		return g.notLeader(op)
	case errors.Is(err, raft.ErrEnqueueTimeout),
		errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return &eggs.Error{Op: op, Name: "group " + g.id.String(), Kind: eggs.Unavailable, Err: err}
	}
	return g.lost(op, err)
}
