package raftgroup

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"eggsfs/eggs"
)

// Read returns the state of an instant between the call and the return: all
// that was acknowledged before the call is in it. It writes nothing anywhere.
//
// The rules that make it so, in this order: our term is recorded, and an entry of
// it has been applied here; the commit index is recorded, which covers all that this
// leadership and those before it acknowledged; then a majority of the voters of the
// latest configuration says that it is in that same term, so no later leader can
// have acknowledged anything before the commit index was recorded; we still lead in
// that term; and the state is waited for to reach that index. No clock decides anything.
//
// It fails with NotLeader, Unavailable, Canceled or Timeout.
func (g *Group) Read(ctx context.Context) (View, error) {
	const op = "raftgroup.Read"
	l, err := g.office(ctx, op)
	if err != nil {
		return nil, err
	}
	index := g.raft.CommitIndex()
	m := g.members()
	if len(m.voters) > 1 || !m.votes {
		a := g.host.reads.join(g, l.term, m)
		select {
		case <-a.done:
		case <-ctx.Done():
			return nil, g.gaveUp(ctx, op)
		case <-g.done:
			return nil, g.notLeader(op)
		}
		if a.err != nil && g.holds(l) {
			return nil, &eggs.Error{
				Op: op, Name: "group " + g.id.String(),
				Kind: eggs.Unavailable, Err: a.err,
			}
		}
	}
	if !g.holds(l) {
		return nil, g.notLeader(op)
	}
	if err := g.waitApplied(ctx, op, index); err != nil {
		return nil, err
	}
	return g.replica.state.View(), nil
}

// waiter is a read that waits for the state.
type waiter struct {
	index uint64
	ready chan struct{}
}

// waitApplied waits until all entries up to index that change the state have.
func (g *Group) waitApplied(ctx context.Context, op string, index uint64) error {
	if g.replica.state.AppliedIndex() >= index {
		return nil
	}
	index = g.replica.log.StateIndex(index)
	w := waiter{index, make(chan struct{})}
	g.mu.Lock()
	g.waiting.Add(1)
	if g.replica.state.AppliedIndex() >= index {
		g.waiting.Add(-1)
		g.mu.Unlock()
		return nil
	}
	g.waiters = append(g.waiters, w)
	g.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done(): // w is dropped when its index is applied
		return g.gaveUp(ctx, op)
	case <-g.done:
		return g.notLeader(op)
	}
}

func (g *Group) wakeWaiters() {
	if g.waiting.Load() == 0 {
		return
	}
	applied := g.replica.state.AppliedIndex()
	g.mu.Lock()
	defer g.mu.Unlock()
	left := g.waiters[:0]
	for _, w := range g.waiters {
		if w.index <= applied {
			close(w.ready)
			g.waiting.Add(-1)
		} else {
			left = append(left, w)
		}
	}
	clear(g.waiters[len(left):])
	g.waiters = left
}

// readBatcher asks voters about terms: one frame a peer and round, for the reads
// of all groups that came since the round before. While maxRounds are under way
// reads gather for the next.
type readBatcher struct {
	host *Host

	mu     sync.Mutex
	next   []*ask // one a group
	flying int
}

// ask is what the reads of one group in one round wait for.
type ask struct {
	g    *Group
	term uint64
	m    *members
	done chan struct{}
	err  error // valid when done is closed

	mu        sync.Mutex
	need      int // more yes wanted
	spare     int // no that can be afforded
	over      bool
	unsettled *atomic.Int32 // of its round
}

func newReadBatcher(h *Host) *readBatcher { return &readBatcher{host: h} }

// join adds a read to the next round. Whoever calls has recorded term and commit
// index before.
func (b *readBatcher) join(g *Group, term uint64, m *members) *ask {
	b.mu.Lock()
	a := g.nextAsk
	if a == nil || a.term != term || a.m != m {
		a = &ask{g: g, term: term, m: m, done: make(chan struct{})}
		g.nextAsk = a
		b.next = append(b.next, a)
	}
	round := b.takeLocked()
	b.mu.Unlock()
	b.launch(round)
	return a
}

// takeLocked returns the asks of a round that may start now.
func (b *readBatcher) takeLocked() []*ask {
	if len(b.next) == 0 || b.flying >= maxRounds {
		return nil
	}
	b.flying++
	round := b.next
	b.next = nil
	for _, a := range round {
		if a.g.nextAsk == a {
			a.g.nextAsk = nil
		}
	}
	return round
}

// launch sends a round. It may run on a goroutine that reads a connection and
// does not block.
func (b *readBatcher) launch(round []*ask) {
	for len(round) > 0 {
		part := round[:min(len(round), eggs.Groups)] // a term change may ask twice for a group
		round = round[len(part):]
		if len(round) > 0 {
			b.mu.Lock()
			b.flying++
			b.mu.Unlock()
		}
		b.launchPart(part)
	}
}

func (b *readBatcher) launchPart(round []*ask) {
	b.host.counters.readRounds.Add(1)
	unsettled := new(atomic.Int32)
	unsettled.Store(int32(len(round)))
	byPeer := map[eggs.NodeID][]*ask{}
	for _, a := range round {
		a.unsettled = unsettled
		a.need, a.spare = a.m.quorum(), len(a.m.voters)-a.m.quorum()
		for _, n := range a.m.voters {
			if n == b.host.cfg.Node {
				a.need--
			} else {
				byPeer[n] = append(byPeer[n], a)
			}
		}
	}
	for n, asks := range byPeer {
		b.send(n, asks)
	}
}

var errNoMajority = errors.New("no majority confirms the leadership")

// send asks one peer: u16 count, then of each group u16 group and u64 term. The
// answer is a byte for each, 1 for yes.
func (b *readBatcher) send(n eggs.NodeID, asks []*ask) {
	tell := func(body []byte, err error) {
		for i, a := range asks {
			b.vote(a, err == nil && len(body) == len(asks) && body[i] == 1)
		}
	}
	p := b.host.peer(n)
	if p == nil || !p.contact() {
		tell(nil, errAway)
		return
	}
	l := p.current()
	if l == nil {
		tell(nil, errAway)
		return
	}
	err := l.call(frameAsk, 0, askTime, false, func(o []byte) []byte {
		o = binary.LittleEndian.AppendUint16(o, uint16(len(asks)))
		for _, a := range asks {
			o = binary.LittleEndian.AppendUint16(o, uint16(a.g.id))
			o = appendU64(o, a.term)
		}
		return o
	}, tell)
	if err != nil {
		tell(nil, err)
	}
}

// vote counts one voter's answer.
func (b *readBatcher) vote(a *ask, yes bool) {
	a.mu.Lock()
	if a.over {
		a.mu.Unlock()
		return
	}
	if yes {
		a.need--
	} else {
		a.spare--
	}
	if a.over = a.need <= 0 || a.spare < 0; !a.over {
		a.mu.Unlock()
		return
	}
	if a.need > 0 {
		a.err = errNoMajority
	}
	close(a.done)
	a.mu.Unlock()
	if a.unsettled.Add(-1) > 0 {
		return
	}
	b.mu.Lock()
	b.flying--
	round := b.takeLocked()
	b.mu.Unlock()
	b.launch(round)
}
