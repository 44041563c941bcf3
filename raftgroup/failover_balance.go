package raftgroup

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// closeEnough is how many entries a follower may lack for a transfer to begin:
// about what it stores in a few milliseconds.
const closeEnough = 1024

// Prefer says which node should lead each group, by group; 0, or one that does not vote,
// leaves it to the order of ids. All nodes should be told the same.
func (h *Host) Prefer(leaders []eggs.NodeID) {
	news := false
	for g, n := range leaders[:min(len(leaders), eggs.Groups)] {
		news = h.wish[g].Swap(uint64(n)) != uint64(n) || news
	}
	if news {
		h.watch.nudge()
	}
}

// preferred is the place among the voters of who leads a group when all is well: who was
// wished for, else one by order, which with the same voters everywhere gives every node the
// same number of leaderships, give or take one. It is -1 without voters.
func (h *Host) preferred(g eggs.GroupID, m *members) int {
	if len(m.voters) == 0 {
		return -1
	}
	if i := slices.Index(m.voters, eggs.NodeID(h.wish[g].Load())); i >= 0 {
		return i
	}
	return int(g) % len(m.voters)
}

// tend looks after the groups that we lead: leaderships go back to whom they
// belong, and replication that got stuck is set going.
func (w *watch) tend(now int64) {
	h := w.host
	moves := 0
	for _, g := range h.Groups() {
		if g.moving.Load() {
			moves++
		}
	}
	for _, g := range h.Groups() {
		l := g.lead.Load()
		if l == nil || !l.isReady() {
			continue
		}
		m := g.members()
		w.unstick(g, l, m, now)
		first := h.preferred(g.id, m)
		if first < 0 {
			continue
		}
		to := m.voters[first]
		if moves >= maxMoves || to == h.cfg.Node || now < g.moveAfter || h.draining.Load() ||
			!w.settled(to, now) || g.lag(to, l) > closeEnough || g.moving.Swap(true) {
			continue
		}
		moves++
		g.moveAfter = now + int64(moveAgain)
		go func() {
			defer g.moving.Store(false)
			ctx, cancel := context.WithTimeout(h.ctx, 2*transferTime)
			defer cancel()
			if err := g.Transfer(ctx, to); err != nil {
				h.log.Debug("leadership did not move", "group", g.id, "to", to, "err", err)
			} else {
				h.counters.moved.Add(1)
			}
		}()
	}
}

// moveAgain is the least time between two attempts to move one leadership.
const moveAgain = 5 * time.Second

// settled reports whether leaderships may move to n: it has been in contact for
// a while and takes some.
func (w *watch) settled(n eggs.NodeID, now int64) bool {
	p := w.known(n)
	if p == nil || !p.contact() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.draining && now-p.since > int64(w.host.cfg.Timers.Settle)
}

// unstick proposes an empty entry when a member that is in contact has not got
// everything and got nothing new for a while: raft resumes after a lost
// connection only when there is something new, or after Timers.Commit.
func (w *watch) unstick(g *Group, l *lead, m *members, now int64) {
	last := g.raft.LastIndex()
	stuck := false
	check := func(n eggs.NodeID) {
		if n != w.host.cfg.Node && g.stalled(n, l.term, last) && w.inContact(n) {
			stuck = true
		}
	}
	for _, n := range m.voters {
		check(n)
	}
	for _, n := range m.learners {
		check(n)
	}
	if !stuck {
		g.stuckWait = 0
		return
	}
	if now < g.stuckAfter {
		return
	}
	g.stuckWait = min(max(2*g.stuckWait, care), 16*care)
	g.stuckAfter = now + int64(g.stuckWait)
	w.host.counters.unstuck.Add(1)
	go func() { _ = g.await(l.ctx, g.raft.Barrier(enqueueTime)) }()
}

// stalled reports whether n lacks entries and has as many as when last asked.
func (g *Group) stalled(n eggs.NodeID, term, last uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.progress {
		p := &g.progress[i]
		if p.node == n && p.term == term {
			same := p.seen == p.match
			p.seen = p.match
			return same && p.match < last
		}
	}
	g.progress = append(g.progress, progress{node: n, term: term})
	return false
}

// Abstain says whether this node should rather not lead, for instance because
// its clock is wrong. It then gives its leaderships away and is last to take one.
func (h *Host) Abstain(yes bool) {
	if h.draining.Swap(yes) == yes {
		return
	}
	h.watch.nudge()
	if yes && h.enter() {
		go func() {
			defer h.wg.Done()
			ctx, cancel := context.WithTimeout(h.ctx, 10*transferTime)
			defer cancel()
			if err := h.Handover(ctx); err != nil {
				h.log.Warn("this node still leads", "err", err)
			}
		}()
	}
}

// Handover moves all leaderships away, in parallel, and keeps others from
// moving them back. It returns when they have gone, or as ctx says with those left.
func (h *Host) Handover(ctx context.Context) error {
	h.draining.Store(true)
	h.watch.nudge()
	var all sync.WaitGroup
	slots := make(chan struct{}, 2*maxMoves)
	for _, g := range h.Groups() {
		l := g.lead.Load()
		if l == nil {
			continue
		}
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			h.handOver(ctx, g, l)
		})
	}
	all.Wait()
	left := 0
	for _, g := range h.Groups() {
		if g.raft.State() == raft.Leader && len(g.members().voters) > 1 {
			left++
		}
	}
	if left > 0 {
		return &eggs.Error{
			Op: "raftgroup.Handover", Kind: eggs.Unavailable,
			Err: errLeft(left),
		}
	}
	return nil
}

// handOver tries the other voters, those that have most of the log first.
func (h *Host) handOver(ctx context.Context, g *Group, l *lead) {
	m := g.members()
	order := rotate(m.voters, int(g.id)/max(len(m.voters), 1))
	for _, n := range order {
		if n == h.cfg.Node || !h.watch.inContact(n) || h.watch.isDraining(n) ||
			g.lag(n, l) > closeEnough {
			continue
		}
		if ctx.Err() != nil || !g.holds(l) {
			return
		}
		if g.Transfer(ctx, n) == nil {
			return
		}
	}
}
