package raftgroup

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// lead is one leadership of ours, from the election to its loss.
type lead struct {
	term   uint64
	ctx    context.Context // ends with it
	cancel context.CancelFunc

	// ready is closed when an entry of this term, and so everything committed
	// before it, has been applied here.
	ready chan struct{}
}

func (l *lead) isReady() bool {
	select {
	case <-l.ready:
		return true
	default:
		return false
	}
}

// follow looks at groups whose raft changed its state or its leader.
func (h *Host) follow() {
	defer h.wg.Done()
	for {
		select {
		case g := <-h.events:
			g.dirty.Store(false)
			g.refresh()
		case <-h.ctx.Done():
			return
		}
	}
}

// refresh compares what raft says with what we told. It looks at states, not at
// events: one that was missed is made good by the next.
func (g *Group) refresh() {
	g.mu.Lock()
	defer g.mu.Unlock()
	term, leads := g.raft.CurrentTerm(), g.raft.State() == raft.Leader
	if l := g.lead.Load(); l != nil && (!leads || l.term != term) {
		l.cancel()
		g.lead.Store(nil)
		g.cut.Store(false)
		g.resigned(l.term)
	}
	if leads && g.lead.Load() == nil && g.ctx.Err() == nil {
		l := &lead{term: term, ready: make(chan struct{})}
		l.ctx, l.cancel = context.WithCancel(g.ctx)
		g.lead.Store(l)
		g.host.announce(g.id, leaderRow{node: g.host.cfg.Node, term: term})
		go g.takeOffice(l)
	}
	if leads {
		return
	}
	// raft clears its leader before it raises its term, so these belong together
	// if the term is the same before and after.
	_, id := g.raft.LeaderWithID()
	if n := nodeOf(id); n != 0 && n != g.host.cfg.Node && g.raft.CurrentTerm() == term {
		g.host.leaders.learn(0, g.id, leaderRow{node: n, term: term})
	}
}

// resigned tells that we lead no more: ourselves now, others later. Most often
// somebody else is being elected, and raft does not say so before it has written
// the new term to the disk; then nobody must stand against him.
func (g *Group) resigned(term uint64) {
	h, row := g.host, leaderRow{term: term}
	turn := h.cfg.Timers.Turn
	g.quietUntil.Store(h.now() + int64(turn))
	h.leaders.learn(h.cfg.Node, g.id, row)
	time.AfterFunc(turn, func() {
		if h.leaders.get(g.id) == row {
			h.announce(g.id, row)
		}
	})
}

// takeOffice waits until an entry of the term is applied, and then tells whom it concerns.
func (g *Group) takeOffice(l *lead) {
	for {
		err := g.await(l.ctx, g.raft.Barrier(enqueueTime))
		if err == nil && g.holds(l) {
			break
		}
		if l.ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, raft.ErrEnqueueTimeout) {
			g.touch()
		}
		select { // raft may just be saying that it lost
		case <-time.After(10 * time.Millisecond):
		case <-l.ctx.Done():
			return
		}
	}
	g.mu.Lock()
	close(l.ready)
	calls := append([]func(context.Context){}, g.onLead...)
	g.mu.Unlock()
	g.wakeWaiters()
	for _, f := range calls {
		go f(l.ctx)
	}
}

// holds reports whether l is our leadership and raft still believes in it.
func (g *Group) holds(l *lead) bool {
	return g.lead.Load() == l && g.raft.State() == raft.Leader && g.raft.CurrentTerm() == l.term
}

// Leads reports whether this node leads the group and has applied all that its
// predecessors committed.
func (g *Group) Leads() bool {
	l := g.lead.Load()
	return l != nil && l.isReady() && g.holds(l)
}

// OnLead has f called, in a goroutine of its own, each time this node leads and
// has applied all that its predecessors committed; now, if that is so already.
// ctx ends when the leadership does.
func (g *Group) OnLead(f func(ctx context.Context)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.onLead = append(g.onLead, f)
	if l := g.lead.Load(); l != nil && l.isReady() {
		go f(l.ctx)
	}
}

// notLeader names whom to ask instead.
func (g *Group) notLeader(op string) error {
	e := &eggs.Error{Op: op, Name: "group " + g.id.String(), Kind: eggs.NotLeader}
	if n := g.host.leaders.get(g.id).node; n != g.host.cfg.Node {
		e.Node = n
	}
	return e
}

// office returns our leadership once it is ready, or fails with NotLeader, with
// Unavailable when no majority hears us, or as ctx says. Nothing was done then.
func (g *Group) office(ctx context.Context, op string) (*lead, error) {
	l := g.lead.Load()
	if l == nil {
		return nil, g.notLeader(op)
	}
	if !l.isReady() {
		select {
		case <-l.ready:
		case <-l.ctx.Done():
			return nil, g.notLeader(op)
		case <-ctx.Done():
			return nil, g.gaveUp(ctx, op)
		}
	}
	if !g.holds(l) {
		return nil, g.notLeader(op)
	}
	if g.cut.Load() {
		return nil, &eggs.Error{
			Op: op, Name: "group " + g.id.String(), Kind: eggs.Unavailable,
			Err: errors.New("no contact to a majority of the group's voters"),
		}
	}
	return l, nil
}

// gaveUp is the error of a request whose ctx ended before anything was done.
func (g *Group) gaveUp(ctx context.Context, op string) error {
	e := &eggs.Error{Op: op, Name: "group " + g.id.String(), Kind: eggs.Canceled, Err: ctx.Err()}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		e.Kind = eggs.Timeout
	}
	return e
}
