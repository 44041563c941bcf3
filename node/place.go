package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// Bounds of the placer.
const (
	placeEvery    = time.Second      // between looks, when nothing changes
	placeAtOnce   = 32               // groups changed at the same time: each costs a few commits
	placeStep     = 60 * time.Second // one replica's way from learner to voter, snapshot included
	placeCoalesce = 50 * time.Millisecond
)

// place runs where the coordinator leads. It decides which nodes hold which
// replicas and carries it out. A decision is recorded first, as learners in
// the group's facts; then each step can be repeated by the next placer: host
// the replica, add it as a learner, promote it when it has caught up, record
// it as a voter. A replica is never removed here.
func (n *Node) place(ctx context.Context) {
	for ctx.Err() == nil {
		changed := n.cdcState.FactsChanged()
		if err := n.placeOnce(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("placing replicas", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(placeEvery):
		case <-changed:
			select { // nodes often come together
			case <-ctx.Done():
			case <-time.After(placeCoalesce):
			}
		}
	}
}

func (n *Node) placeOnce(ctx context.Context) error {
	facts := n.cdcState.Facts()
	if facts.Cluster == 0 {
		return nil // the first node has not said what it wants yet
	}
	plan := planReplicas(facts, n.aliveNodes(), func(g eggs.GroupID) []uint64 {
		if here := n.host.Group(g); here != nil {
			return here.Status().Voters
		}
		return nil
	})
	begin := time.Now()
	if err := n.recordPlan(ctx, plan); err != nil {
		return err
	}
	if err := n.carryOut(ctx, plan); err != nil {
		return err
	}
	if moved := countLearners(plan); moved > 0 {
		n.events.add("info", fmt.Sprintf("placed %d replicas in %s", moved,
			time.Since(begin).Round(time.Millisecond)))
	}
	for _, x := range facts.Nodes {
		if x.Placed {
			continue
		}
		if err := n.record(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_PutNode{PutNode: &wire.PutNode{
			Node: &wire.NodeFact{Id: x.Id, Placed: true}, Mask: 2,
		}}}); err != nil {
			return err
		}
	}
	return nil
}

func countLearners(plan []*wire.PutReplicas) (count int) {
	for _, p := range plan {
		count += len(p.Learners)
	}
	return count
}

func (n *Node) aliveNodes() map[uint64]bool {
	alive := map[uint64]bool{}
	for _, x := range n.router.Routes().GetNodes() {
		alive[x.Id] = x.Alive
	}
	alive[uint64(n.id)] = true
	return alive
}

// wantedVoters is how many voters a group is due: what the cluster was asked
// for when there are nodes enough, else as many as an odd number allows, since
// two voters survive less than one.
func wantedVoters(replicas, nodes int) int {
	want := min(replicas, nodes)
	if want%2 == 0 {
		want--
	}
	return max(want, 1)
}

// planReplicas returns the groups that are not as they should be: those with
// learners already decided, those with too few voters, for which it chooses
// nodes, those with the fewest replicas first, and those not recorded yet.
func planReplicas(facts *wire.Facts, alive map[uint64]bool, voters func(eggs.GroupID) []uint64) []*wire.PutReplicas {
	load, domain := map[uint64]int{}, map[uint64]string{}
	var nodes []uint64
	members := 0
	for _, x := range facts.Nodes {
		domain[x.Id] = x.Domain
		if x.Roles&RoleMeta == 0 || x.Draining {
			continue
		}
		members++
		if alive[x.Id] {
			nodes = append(nodes, x.Id)
		}
	}
	recorded := map[uint32]*wire.PutReplicas{}
	for _, g := range facts.Groups {
		recorded[g.Group] = g
		for _, id := range append(slices.Clone(g.Voters), g.Learners...) {
			load[id]++
		}
	}
	want := wantedVoters(int(facts.Replicas), members)
	var plan []*wire.PutReplicas
	for g := range uint32(eggs.Groups) {
		p := &wire.PutReplicas{Group: g}
		old := recorded[g]
		if old != nil {
			p.Voters, p.Learners = slices.Clone(old.Voters), slices.Clone(old.Learners)
		} else if p.Voters = slices.Clone(voters(eggs.GroupID(g))); len(p.Voters) == 0 {
			continue
		}
		for len(p.Voters)+len(p.Learners) < want {
			next := leastLoaded(nodes, append(slices.Clone(p.Voters), p.Learners...), load, domain)
			if next == 0 {
				break
			}
			load[next]++
			p.Learners = append(p.Learners, next)
		}
		if old == nil || len(p.Learners) > 0 {
			plan = append(plan, p)
		}
	}
	return plan
}

// leastLoaded chooses a node for one more replica: another failure domain than
// those that have one, if there is any, then the fewest replicas.
func leastLoaded(nodes, have []uint64, load map[uint64]int, domain map[uint64]string) uint64 {
	shared := func(id uint64) int {
		count := 0
		for _, h := range have {
			if domain[h] == domain[id] {
				count++
			}
		}
		return count
	}
	var best uint64
	for _, id := range nodes {
		if slices.Contains(have, id) {
			continue
		}
		if best == 0 || cmp.Or(cmp.Compare(shared(id), shared(best)), cmp.Compare(load[id], load[best]),
			cmp.Compare(id, best)) < 0 {
			best = id
		}
	}
	return best
}

// recordPlan makes the decisions durable before anything is done.
func (n *Node) recordPlan(ctx context.Context, plan []*wire.PutReplicas) error {
	return forEach(plan, func(p *wire.PutReplicas) error {
		return n.record(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_PutReplicas{PutReplicas: p}})
	})
}

// carryOut turns learners into voters.
func (n *Node) carryOut(ctx context.Context, plan []*wire.PutReplicas) error {
	host := map[uint64][]uint32{}
	for _, p := range plan {
		for _, l := range p.Learners {
			host[l] = append(host[l], p.Group)
		}
	}
	var errs []error
	refused := map[uint64]bool{}
	for node, groups := range host {
		reply := &wire.HostGroupReply{}
		req := &wire.HostGroup{Groups: groups}
		err := n.callNode(ctx, eggs.NodeID(node), wire.MethodHostGroup, req, reply)
		if err == nil {
			err = reply.Error.AsError()
		}
		if err != nil {
			errs, refused[node] = append(errs, err), true
		}
	}
	errs = append(errs, forEach(plan, func(p *wire.PutReplicas) error {
		if len(p.Learners) == 0 {
			return nil
		}
		for _, l := range p.Learners {
			if refused[l] {
				return nil
			}
		}
		return n.promoteAll(ctx, p)
	}))
	return errors.Join(errs...)
}

func (n *Node) promoteAll(ctx context.Context, p *wire.PutReplicas) error {
	ctx, cancel := context.WithTimeout(ctx, placeStep)
	defer cancel()
	for _, change := range []wire.ChangeMembers_Change{wire.ChangeMembers_ADD_LEARNER, wire.ChangeMembers_PROMOTE} {
		for _, l := range p.Learners {
			if err := n.askLeader(ctx, &wire.ChangeMembers{Group: p.Group, Node: l, Change: change}); err != nil {
				return fmt.Errorf("group %s, %s of %s: %w", eggs.GroupID(p.Group), change, eggs.NodeID(l), err)
			}
		}
	}
	return n.record(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_PutReplicas{PutReplicas: &wire.PutReplicas{
		Group: p.Group, Voters: append(slices.Clone(p.Voters), p.Learners...),
	}}})
}

// askLeader asks a group's leader for a change, and again while the leader changes.
func (n *Node) askLeader(ctx context.Context, r *wire.ChangeMembers) error {
	for {
		var leader eggs.NodeID
		if leaders, _ := n.host.Leaders(); int(r.Group) < len(leaders) {
			leader = leaders[r.Group]
		}
		err := error(&eggs.Error{Op: "node.Place", Kind: eggs.Unavailable, Err: errors.New("nobody leads")})
		if leader != 0 {
			reply := &wire.ChangeMembersReply{}
			if err = n.callNode(ctx, leader, wire.MethodChangeMembers, r, reply); err == nil {
				err = reply.Error.AsError()
			}
		}
		switch eggs.KindOf(err) {
		case eggs.NotLeader, eggs.Unavailable, eggs.Indeterminate, eggs.Timeout:
		default:
			return err // nil included
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// callNode sends one request to one node, which may be this one.
func (n *Node) callNode(ctx context.Context, to eggs.NodeID, m wire.Method, req wire.Message,
	reply interface{ wire.Message },
) error {
	if to == n.id {
		msg, err := n.local(ctx, m, req)
		if err != nil {
			return err
		}
		return copyMessage(reply, msg)
	}
	_, err := n.client.CallNode(ctx, to, m, req, func() wire.Message { return reply })
	return err
}

// copyMessage moves an answer of this node into the caller's message.
func copyMessage(to, from wire.Message) error {
	b := make([]byte, from.SizeVT())
	if _, err := from.MarshalToSizedBufferVT(b); err != nil {
		return err
	}
	return to.UnmarshalVT(b)
}

// forEach does f for all of list, placeAtOnce at a time, and joins the errors.
func forEach[T any](list []T, f func(T) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, placeAtOnce)
	for _, x := range list {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(x); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
