package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

const auditAsk = 2 * time.Second // for one node's status

// audit compares the facts with what the nodes hold. A request of a placer that was deposed
// in the middle may come late, so a group at rest can have other members than recorded, and a
// node a replica that no record names. Members are put right by recording them as they are,
// when seen twice, and planning on from there; replicas are dropped.
func (p *placer) audit(facts *wire.Facts, alive map[uint64]bool) error {
	all := p.statuses(alive)
	leads := map[uint32]*wire.GroupStatus{}
	stray := map[uint64][]uint32{}
	for _, st := range all {
		for _, g := range st.Groups {
			if l := leads[g.Group]; g.State == "leader" && (l == nil || l.Term < g.Term) {
				leads[g.Group] = g
			}
			r := recordOf(facts, g.Group)
			if r != nil && !slices.Contains(r.Voters, st.Id) && !slices.Contains(r.Learners, st.Id) &&
				!slices.Contains(r.Leaving, st.Id) {
				stray[st.Id] = append(stray[st.Id], g.Group)
			}
		}
	}
	busy, odd := p.busyNow(), map[uint32]string{}
	var errs error
	for _, r := range facts.Groups {
		l := leads[r.Group]
		if l == nil || busy[r.Group] || len(r.Learners)+len(r.Leaving) > 0 {
			continue
		}
		real := realMembers(facts, r, l)
		if real == nil {
			continue
		}
		if odd[r.Group] = real.String(); p.odd[r.Group] != odd[r.Group] {
			continue
		}
		p.n.events.add("warn", fmt.Sprintf("group %s has other members than recorded: %d voters instead of %d",
			eggs.GroupID(r.Group), len(real.Voters), len(r.Voters)))
		if err := p.record(real); err != nil {
			errs = err
		}
	}
	p.odd = odd
	for node, groups := range stray {
		reply := &wire.HostGroupReply{}
		req := &wire.HostGroup{Groups: groups, Drop: true, Version: facts.Version}
		err := p.n.callNode(p.ctx, eggs.NodeID(node), wire.MethodHostGroup, req, reply)
		if err == nil {
			err = reply.Error.AsError()
		}
		p.n.log.Info("replicas that no record names are dropped", "node", eggs.NodeID(node), "groups", len(groups),
			"err", err)
	}
	return errs
}

// realMembers returns the record that a group's leader shows, nil when it is as recorded.
func realMembers(facts *wire.Facts, r *wire.PutReplicas, l *wire.GroupStatus) *wire.PutReplicas {
	had, has := slices.Sorted(slices.Values(r.Voters)), slices.Sorted(slices.Values(l.Voters))
	if slices.Equal(had, has) && len(l.Learners) == 0 || len(has) == 0 {
		return nil
	}
	real := &wire.PutReplicas{Group: r.Group, Version: r.Version, Leaving: slices.Clone(l.Learners)}
	for _, v := range has {
		if x := factOfNode(facts, eggs.NodeID(v)); x == nil || x.Removed {
			real.Leaving = append(real.Leaving, v)
			continue
		}
		real.Voters = append(real.Voters, v)
	}
	if len(real.Voters) == 0 {
		return nil // nobody here could put that right
	}
	if slices.Contains(real.Voters, r.Leader) {
		real.Leader = r.Leader
	}
	return real
}

// statuses asks all nodes that are up; who does not answer in time is left out.
func (p *placer) statuses(alive map[uint64]bool) []*wire.NodeStatus {
	var ids []eggs.NodeID
	for id, up := range alive {
		if up {
			ids = append(ids, eggs.NodeID(id))
		}
	}
	answers := make(chan *wire.NodeStatus, len(ids))
	_ = forEach(ids, func(id eggs.NodeID) error {
		ctx, cancel := context.WithTimeout(p.ctx, auditAsk)
		defer cancel()
		st := &wire.NodeStatus{}
		if err := p.n.callNode(ctx, id, wire.MethodNodeStatus, &wire.GetNodeStatus{}, st); err == nil {
			answers <- st
		}
		return nil
	})
	close(answers)
	var all []*wire.NodeStatus
	for st := range answers {
		all = append(all, st)
	}
	return all
}
