package raftgroup

import (
	"context"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// Group is this node's replica of one group.
type Group struct {
	host    *Host
	id      eggs.GroupID
	raft    *raft.Raft
	trans   *transport
	replica *replica

	ctx    context.Context // ends when the replica is closed
	cancel context.CancelFunc
	done   <-chan struct{} // ctx's

	dirty      atomic.Bool          // on its way through Host.events
	lead       atomic.Pointer[lead] // while we lead
	cut        atomic.Bool          // we lead, and have no contact to a majority
	urged      atomic.Bool          // a candidate with a shorter log than ours asked for our vote
	moving     atomic.Bool          // the balancer moves the leadership
	quietUntil atomic.Int64         // Host.now before which we do not stand, having led
	flying     atomic.Int64         // proposals not yet answered
	hold       atomic.Pointer[hold] // while proposals wait for a transfer
	voted      atomic.Pointer[members]

	change sync.Mutex // one change of members or leadership at a time

	mu       sync.Mutex
	onLead   []func(context.Context)
	futures  []*flight // oldest first
	landing  bool      // land runs
	progress []progress
	waiters  []waiter     // reads that wait for applied
	waiting  atomic.Int32 // how many

	nextAsk *ask // of the next read round; guarded by the batcher's mu

	moveAfter  int64         // when the leadership may be moved again; watch's own
	stuckAfter int64         // when replication may be nudged again; watch's own
	stuckWait  time.Duration // and how long after that; watch's own
}

// progress is how far a member has stored the log, as its answers say.
type progress struct {
	node  eggs.NodeID
	term  uint64 // in which it said so
	match uint64
	seen  uint64 // match when replication was last looked after
}

func openGroup(h *Host, id eggs.GroupID, m Machine) (*Group, error) {
	rep, err := h.store.replica(id, m)
	if err != nil {
		return nil, err
	}
	g := &Group{host: h, id: id, replica: rep}
	g.ctx, g.cancel = context.WithCancel(h.ctx)
	g.done = g.ctx.Done()
	g.trans = &transport{host: h, group: g, id: id, consumer: make(chan raft.RPC, maxConsumer)}
	g.raft, err = raft.NewRaft(h.raftConfig(id), &applier{rep.state, g},
		rep.log, rep.log, rep.state, g.trans)
	if err != nil {
		g.cancel()
		return nil, &eggs.Error{Kind: eggs.Corrupt, Err: err}
	}
	g.raft.RegisterObserver(raft.NewObserver(nil, false, g.observe))
	return g, nil
}

func (h *Host) raftConfig(id eggs.GroupID) *raft.Config {
	t := &h.cfg.Timers
	c := raft.DefaultConfig()
	c.LocalID = serverID(h.cfg.Node)
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = t.Raft, t.Raft, t.Raft
	if c.CommitTimeout = t.Commit; id == eggs.CDCGroup {
		c.CommitTimeout = t.CommitCDC
	}
	c.MaxAppendEntries = maxAppend
	c.BatchApplyCh = true
	c.ShutdownOnRemove = false
	c.NoSnapshotRestoreOnStart = true // the state is the snapshot
	c.SnapshotInterval = 1000 * time.Hour
	c.SnapshotThreshold = 1 << 62 // truncation goes by bytes, see truncate
	c.NoLegacyTelemetry = true
	c.Logger = h.raftLogger(id)
	return c
}

// observe is called on raft's own goroutines and must not block.
func (g *Group) observe(o *raft.Observation) bool {
	switch o.Data.(type) {
	case raft.RaftState, raft.LeaderObservation:
		g.touch()
	}
	return false
}

// touch has the group looked at by Host.follow.
func (g *Group) touch() {
	if !g.dirty.Swap(true) {
		select {
		case g.host.events <- g:
		case <-g.host.ctx.Done():
		}
	}
}

// close stops raft. What was proposed and not answered ends Indeterminate.
func (g *Group) close() {
	g.cancel()
	_ = g.raft.Shutdown().Error()
	g.refresh()
}

// ID returns the group's id.
func (g *Group) ID() eggs.GroupID { return g.id }

// Local returns this replica's state as it is, which may be behind the leader's.
func (g *Group) Local() View { return g.replica.state.View() }

// Hash returns a checksum of this replica's state. Replicas that applied the
// same entries have the same.
func (g *Group) Hash() uint32 { return g.replica.state.Hash() }

// HashAt returns that checksum together with the index it is of: asked for one after
// the other, they may be of two moments.
func (g *Group) HashAt() (index uint64, hash uint32) { return g.replica.state.HashAt() }

// AppliedIndex returns the index of the last entry that changed this replica's state.
func (g *Group) AppliedIndex() uint64 { return g.replica.state.AppliedIndex() }

// Status tells how the group looks from here.
func (g *Group) Status() *wire.GroupStatus {
	m := g.members()
	row := g.host.leaders.get(g.id)
	s := &wire.GroupStatus{
		Group: uint32(g.id), Term: g.raft.CurrentTerm(), Leader: uint64(row.node),
		Committed: g.raft.CommitIndex(), Applied: g.raft.AppliedIndex(),
	}
	for _, n := range m.voters {
		s.Voters = append(s.Voters, uint64(n))
	}
	for _, n := range m.learners {
		s.Learners = append(s.Learners, uint64(n))
	}
	switch state := g.raft.State(); {
	case state == raft.Leader:
		s.State = "leader"
		s.Leader = uint64(g.host.cfg.Node)
	case state == raft.Candidate:
		s.State = "candidate"
	case state == raft.Shutdown || len(m.voters) == 0:
		s.State = "none"
	case m.votes:
		s.State = "follower"
	default:
		s.State = "learner"
	}
	return s
}

// members is a group's configuration, the latest one in our log.
type members struct {
	key      *raft.Server // of the configuration that this was made of
	voters   []eggs.NodeID
	learners []eggs.NodeID
	votes    bool // we are a voter
}

func (m *members) quorum() int { return len(m.voters)/2 + 1 }

func (g *Group) configuration() raft.Configuration {
	return g.raft.GetConfiguration().Configuration()
}

// members returns the latest configuration, in the order of node ids. The
// result is shared and must not be changed.
func (g *Group) members() *members {
	c := g.configuration()
	if len(c.Servers) == 0 {
		return &members{}
	}
	// raft makes a new slice of each configuration, so its place names it.
	if m := g.voted.Load(); m != nil && m.key == &c.Servers[0] {
		return m
	}
	m := &members{key: &c.Servers[0]}
	for _, s := range c.Servers {
		n := nodeOf(s.ID)
		if s.Suffrage == raft.Voter {
			m.voters = append(m.voters, n)
			m.votes = m.votes || n == g.host.cfg.Node
		} else {
			m.learners = append(m.learners, n)
		}
	}
	slices.Sort(m.voters)
	slices.Sort(m.learners)
	g.voted.Store(m)
	return m
}

// await waits for a future that has no channel, or for ctx, or for the end of the replica.
func (g *Group) await(ctx context.Context, f raft.Future) error {
	ch := make(chan error, 1)
	go func() { ch <- f.Error() }()
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-g.done:
		return raft.ErrRaftShutdown
	}
}

// noteAppended learns from a follower's answer how far it is.
func (g *Group) noteAppended(
	n eggs.NodeID, a *raft.AppendEntriesRequest, x *raft.AppendEntriesResponse,
) {
	if x.Success {
		g.noteMatch(n, a.Term, a.PrevLogEntry+uint64(len(a.Entries)))
	}
}

func (g *Group) noteMatch(n eggs.NodeID, term, match uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.progress {
		p := &g.progress[i]
		if p.node != n {
			continue
		}
		if term > p.term {
			p.term, p.match, p.seen = term, match, 0
		} else if term == p.term {
			p.match = max(p.match, match)
		}
		return
	}
	g.progress = append(g.progress, progress{node: n, term: term, match: match})
}

// matched returns how far a member has stored our log, in the term that we lead.
func (g *Group) matched(n eggs.NodeID, term uint64) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.progress {
		if p := &g.progress[i]; p.node == n && p.term == term {
			return p.match
		}
	}
	return 0
}

// applier is what raft applies entries to: the state, and those who wait for it.
type applier struct {
	*GroupState
	g *Group
}

func (a *applier) Apply(l *raft.Log) any { return a.ApplyBatch([]*raft.Log{l})[0] }

func (a *applier) ApplyBatch(logs []*raft.Log) []any {
	answers := a.GroupState.ApplyBatch(logs)
	a.g.wakeWaiters()
	return answers
}

func (a *applier) Restore(r io.ReadCloser) error {
	err := a.GroupState.Restore(r)
	a.g.wakeWaiters()
	return err
}
