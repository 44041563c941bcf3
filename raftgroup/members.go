package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// Changes of a group's members and leader. All are asked of the leader, and are
// done already when they change nothing. One runs at a time.

type errLeft int

func (n errLeft) Error() string { return fmt.Sprintf("%d leaderships are left", int(n)) }

// pollTime is how often a change looks whether what it waits for has come.
const pollTime = 2 * time.Millisecond

// begin takes the one place for changes and checks that we lead.
func (g *Group) begin(ctx context.Context, op string, node eggs.NodeID) (*lead, error) {
	if node == 0 {
		return nil, eggs.E(op, eggs.Invalid, "no node")
	}
	for !g.change.TryLock() {
		if err := pause(ctx, g.done); err != nil {
			return nil, g.gaveUp(ctx, op)
		}
	}
	l, err := g.office(ctx, op)
	if err != nil {
		g.change.Unlock()
		return nil, err
	}
	return l, nil
}

func pause(ctx context.Context, done <-chan struct{}) error {
	t := time.NewTimer(pollTime)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-done:
		return raft.ErrRaftShutdown
	}
}

func (g *Group) enqueueTime(ctx context.Context) time.Duration {
	wait := enqueueTime
	if d, ok := ctx.Deadline(); ok {
		wait = max(min(wait, time.Until(d)), time.Millisecond)
	}
	return wait
}

// AddLearner makes node a member that gets all entries and has no vote. The
// node must have added the group.
func (g *Group) AddLearner(ctx context.Context, node eggs.NodeID) error {
	const op = "raftgroup.AddLearner"
	if _, err := g.begin(ctx, op, node); err != nil {
		return err
	}
	defer g.change.Unlock()
	m := g.members()
	if slices.Contains(m.voters, node) || slices.Contains(m.learners, node) {
		return nil
	}
	id := serverID(node)
	f := g.raft.AddNonvoter(id, raft.ServerAddress(id), 0, g.enqueueTime(ctx))
	return g.outcome(op, g.await(ctx, f))
}

// Promote makes a learner a voter, once it has caught up: a voter that is far
// behind would make every majority wait for it. It fails with Conflict if node
// is no member, and with Timeout if it does not catch up in time.
func (g *Group) Promote(ctx context.Context, node eggs.NodeID) error {
	const op = "raftgroup.Promote"
	l, err := g.begin(ctx, op, node)
	if err != nil {
		return err
	}
	defer g.change.Unlock()
	m := g.members()
	if slices.Contains(m.voters, node) {
		return nil
	}
	if !slices.Contains(m.learners, node) {
		return &eggs.Error{
			Op: op, Name: "group " + g.id.String(), Kind: eggs.Conflict,
			Err: fmt.Errorf("node %s is no member", node),
		}
	}
	for g.lag(node, l) > promoteLag {
		if !g.holds(l) {
			return g.notLeader(op)
		}
		if pause(ctx, g.done) != nil {
			return g.gaveUp(ctx, op)
		}
	}
	id := serverID(node)
	f := g.raft.AddVoter(id, raft.ServerAddress(id), 0, g.enqueueTime(ctx))
	return g.outcome(op, g.await(ctx, f))
}

// promoteLag is how many entries a learner may lack when it becomes a voter:
// under load it is never without a few on their way.
const promoteLag = 64

// Remove takes a voter or learner out of the group. If it is this node itself,
// which leads, another one gets the leadership first and the answer is
// NotLeader, naming it.
func (g *Group) Remove(ctx context.Context, node eggs.NodeID) error {
	const op = "raftgroup.Remove"
	if node == g.host.cfg.Node {
		return g.leave(ctx, op)
	}
	if _, err := g.begin(ctx, op, node); err != nil {
		return err
	}
	defer g.change.Unlock()
	m := g.members()
	if !slices.Contains(m.voters, node) && !slices.Contains(m.learners, node) {
		return nil
	}
	if slices.Contains(m.voters, node) && len(m.voters) == 1 {
		return eggs.E(op, eggs.Conflict, "the last voter stays")
	}
	f := g.raft.RemoveServer(serverID(node), 0, g.enqueueTime(ctx))
	return g.outcome(op, g.await(ctx, f))
}

func (g *Group) leave(ctx context.Context, op string) error {
	l, err := g.office(ctx, op)
	if err != nil {
		return err
	}
	err = eggs.E(op, eggs.Conflict, "no other voter can lead")
	for _, n := range g.members().voters {
		if n == g.host.cfg.Node || g.lag(n, l) > closeEnough || !g.host.watch.inContact(n) {
			continue
		}
		if err = g.Transfer(ctx, n); err == nil {
			return g.notLeader(op)
		}
	}
	return err
}

// Lag returns how many entries of our log a member is not known to have. It is
// meant for the leader; elsewhere, and for strangers, it is all of them.
func (g *Group) Lag(node eggs.NodeID) uint64 {
	l := g.lead.Load()
	if l == nil {
		return g.raft.LastIndex()
	}
	return g.lag(node, l)
}

func (g *Group) lag(node eggs.NodeID, l *lead) uint64 {
	last := g.raft.LastIndex()
	if node == g.host.cfg.Node {
		return 0
	}
	return last - min(last, g.matched(node, l.term))
}

// Transfer moves the leadership to a voter. Proposals wait meanwhile, and
// then go on here or are told where to go: none is left in the air.
func (g *Group) Transfer(ctx context.Context, node eggs.NodeID) error {
	const op = "raftgroup.Transfer"
	l, err := g.begin(ctx, op, node)
	if err != nil {
		return err
	}
	defer g.change.Unlock()
	if node == g.host.cfg.Node {
		return nil
	}
	if !slices.Contains(g.members().voters, node) {
		return &eggs.Error{
			Op: op, Name: "group " + g.id.String(), Kind: eggs.Conflict,
			Err: fmt.Errorf("node %s is no voter", node),
		}
	}
	ctx, cancel := context.WithTimeout(ctx, transferTime)
	defer cancel()
	for g.lag(node, l) > closeEnough { // before anybody has to wait
		if pause(ctx, g.done) != nil {
			return g.unmoved(op, "the node is too far behind")
		}
	}
	held := &hold{over: make(chan struct{})}
	g.hold.Store(held)
	defer func() {
		g.hold.Store(nil)
		close(held.over)
	}()
	for g.flying.Load() > 0 || g.lag(node, l) > 0 {
		if !g.holds(l) {
			return g.notLeader(op)
		}
		if pause(ctx, g.done) != nil {
			return g.unmoved(op, "the node does not catch up")
		}
	}
	id := serverID(node)
	err = g.trans.TimeoutNow(id, raft.ServerAddress(id), nil, &raft.TimeoutNowResponse{})
	if err != nil {
		return &eggs.Error{Op: op, Name: "group " + g.id.String(), Kind: eggs.Unavailable, Err: err}
	}
	for {
		row := g.host.leaders.get(g.id)
		if row.term > l.term && row.node != 0 {
			if row.node != node {
				return g.unmoved(op, "another node took over")
			}
			break
		}
		if pause(ctx, g.done) != nil {
			return g.unmoved(op, "the node does not take over")
		}
	}
	return nil
}

func (g *Group) unmoved(op, why string) error {
	return &eggs.Error{
		Op: op, Name: "group " + g.id.String(), Kind: eggs.Unavailable,
		Err: errors.New(why),
	}
}
