package raftgroup

import (
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// vacancy is a group of ours that has no leader. Its candidates have an order, in
// which groups are spread evenly: the first stands at once, each other one a
// Timers.Turn after the one before it. A term that rises shows that somebody stood;
// then all wait, twice as long each time, and the order begins with the next one. So
// one node stands at a time, although nobody is asked. Who refuses a candidate for
// its short log stands without waiting.
type vacancy struct {
	since int64  // when the first may stand; 0: there is a leader
	term  uint64 // as last seen
	tries int    // terms seen to rise
	urged int64  // when we refused a candidate for its short log, since the last try
}

// attend sees to one group, and returns when it wants to be called again, or 0.
func (w *watch) attend(g *Group, now int64) int64 {
	v := &w.vacancies[g.id]
	if g.raft.State() == raft.Leader {
		*v = vacancy{}
		return 0
	}
	row := w.host.leaders.get(g.id)
	var candidates []eggs.NodeID
	var grace time.Duration
	var at int64
	if row.node != 0 && row.node != w.host.cfg.Node {
		candidates, at = w.heirs(g, row.node, now)
	} else {
		candidates, grace = w.firsts(g)
	}
	if len(candidates) == 0 {
		*v = vacancy{}
		if !slices.Contains(w.downs, row.node) { // it has a leader
			g.urged.Store(false)
		}
		return at
	}
	if term := g.raft.CurrentTerm(); v.since == 0 {
		v.since, v.term = max(now, g.quietUntil.Load()), term
	} else if term != v.term {
		v.term = term
		v.wait(now, w.host.cfg.Timers.Turn)
	}
	if g.urged.Swap(false) {
		v.urged = now
	}
	return w.takeTurn(g, row.node, candidates, now, grace)
}

const maxDoublings = 4 // of the time to wait for an election

// wait begins again after somebody stood.
func (v *vacancy) wait(now int64, turn time.Duration) {
	v.since = now + int64(turn)<<min(v.tries, maxDoublings)
	v.tries++
	v.urged = 0
}

// takeTurn stands for election if it is our turn, and returns when it will be.
func (w *watch) takeTurn(
	g *Group, from eggs.NodeID, candidates []eggs.NodeID, now int64, grace time.Duration,
) int64 {
	v, n := &w.vacancies[g.id], len(candidates)
	us := slices.Index(candidates, w.host.cfg.Node)
	if us < 0 {
		return 0
	}
	rank := ((us-v.tries)%n + n) % n
	turn := w.host.cfg.Timers.Turn
	due := v.since + int64(grace) + int64(rank)*int64(turn)<<min(v.tries, maxDoublings)
	if v.urged != 0 {
		soon := v.urged
		if n > 2 { // others may have refused as well: one after the other
			soon += int64(us) * int64(turn) / 8
		}
		due = min(due, soon)
	}
	if now < due {
		return due
	}
	if !w.informed(candidates, now) { // somebody may know a leader whom we have not met
		return now + int64(w.host.cfg.Timers.Ping)
	}
	w.stand(g, from, now)
	v.wait(now, turn)
	return v.since
}

// heirs returns who may take a group over from a leader, none if it is not down.
// A round of turns begins with another node for every few groups, so that the
// groups of one dead node go to all survivors alike.
func (w *watch) heirs(g *Group, leader eggs.NodeID, now int64) ([]eggs.NodeID, int64) {
	if !slices.Contains(w.downs, leader) {
		return nil, 0
	}
	p := w.known(leader)
	if p == nil {
		return nil, 0
	}
	m := g.members()
	if !m.votes {
		return nil, 0
	}
	p.mu.Lock()
	after := p.actAfter
	p.mu.Unlock()
	if now < after {
		return nil, after
	}
	agree := 0
	var heirs, leaving []eggs.NodeID
	for _, v := range m.voters {
		if w.sees(v, leader) {
			agree++
		}
		switch {
		case slices.Contains(w.downs, v):
		case w.isDraining(v):
			leaving = append(leaving, v)
		default:
			heirs = append(heirs, v)
		}
	}
	if agree < m.quorum() {
		return nil, 0
	}
	return append(rotate(heirs, int(g.id)/len(m.voters)), leaving...), 0
}

// firsts returns who may lead a group that has no leader known to anybody we are
// in contact with, the preferred one first: none without a majority. While some
// voters are missing there is a grace for them to arrive.
func (w *watch) firsts(g *Group) ([]eggs.NodeID, time.Duration) {
	m := g.members()
	if !m.votes {
		return nil, 0
	}
	present := 0
	var able, leaving []eggs.NodeID
	first := w.host.preferred(g.id, m)
	for i := range m.voters {
		n := m.voters[(first+i)%len(m.voters)]
		if w.inContact(n) {
			present++
		}
		switch {
		case slices.Contains(w.downs, n):
		case w.isDraining(n):
			leaving = append(leaving, n)
		default:
			able = append(able, n)
		}
	}
	able = append(able, leaving...)
	switch {
	case present < m.quorum():
		return nil, 0
	case present < len(m.voters):
		return able, w.host.cfg.Timers.Grace
	}
	return able, 0
}

func (w *watch) isDraining(n eggs.NodeID) bool {
	if n == w.host.cfg.Node {
		return w.host.draining.Load()
	}
	p := w.known(n)
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.draining
}

func rotate(ns []eggs.NodeID, by int) []eggs.NodeID {
	if len(ns) == 0 {
		return nil
	}
	by %= len(ns)
	return append(append(make([]eggs.NodeID, 0, len(ns)), ns[by:]...), ns[:by]...)
}

// stand makes our raft stand for election. from is the leader that is down, or 0.
func (w *watch) stand(g *Group, from eggs.NodeID, now int64) {
	w.host.counters.stood.Add(1)
	w.host.log.Debug("standing for election", "group", g.id, "from", from)
	// raft ignores a call to stand while it stands already, and would not try
	// again for Timers.Raft.
	if g.raft.State() == raft.Candidate && g.raft.LastIndex() > 0 {
		g.inject(&raft.RequestVoteRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax},
			Term:      g.raft.CurrentTerm() + 1,
		})
	}
	g.inject(&raft.TimeoutNowRequest{RPCHeader: newSpeaker(w.host.cfg.Node).header})
	if from == 0 {
		return
	}
	p := w.known(from)
	if p == nil {
		return
	}
	p.mu.Lock()
	first := !p.taken
	p.taken = true
	silent := !p.refused
	if first && silent {
		// The next time that it falls silent, be slower: it may be us, or the network.
		if now-p.takenAt > int64(time.Minute)+2*int64(p.holdOff) {
			p.holdOff = 0
		}
		p.holdOff = min(max(2*p.holdOff, holdOffMin), holdOffMax)
		p.takenAt = now
	}
	p.mu.Unlock()
	if first {
		w.host.cfg.Event("warn", fmt.Sprintf("node %s is down, taking its groups over", from))
	}
}

const (
	holdOffMin = 250 * time.Millisecond
	holdOffMax = 16 * time.Second
)

// inject hands raft a request of our own, in order with those of peers. If
// there is no room the next turn comes soon.
func (g *Group) inject(cmd any) {
	select {
	case g.trans.consumer <- raft.RPC{Command: cmd, RespChan: make(chan raft.RPCResponse, 1)}:
	default:
	}
}

// answered looks at our answers to votes. A candidate that we refused because
// its log is shorter cannot win, if others are like us; so it is for us to stand,
// without waiting for our turn.
func (g *Group) answered(cmd, answer any) {
	v, ok := cmd.(*raft.RequestVoteRequest)
	if !ok || !v.LeadershipTransfer {
		return
	}
	x, ok := answer.(*raft.RequestVoteResponse)
	if ok && !x.Granted && x.Term == v.Term && v.LastLogIndex < g.raft.LastIndex() {
		g.urged.Store(true)
		g.host.watch.nudge()
	}
}
