package node

import (
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
	placeEvery    = time.Second     // between looks, when nothing changes
	placeAtOnce   = 32              // groups that grow at the same time: each costs a few commits
	placeMoves    = 8               // groups that move for evenness or a drain: each costs a snapshot
	placeStep     = 5 * time.Minute // one replica's way from learner to voter, snapshot included
	placeAsk      = 4 * time.Second // one question; asked again until placeStep is over
	placePause    = 100 * time.Millisecond
	placeCoalesce = 50 * time.Millisecond
	placeAudit    = 15 * time.Second // between comparisons of the facts with the groups
)

// placer runs where the coordinator leads. planReplicas decides which nodes hold which
// replicas and who should lead; the placer records each decision, with the version of the
// record that it replaces, and then carries it out. Each step can be repeated by the next
// placer, which finds all that it needs in the record:
//
//	host the replica; add it as a learner; promote it when it has caught up; record it as
//	a voter; remove who leaves from the group; record that; drop its replica
//
// A crash may leave a group with other members than recorded, or a replica that nobody
// names. audit finds both.
type placer struct {
	n   *Node
	ctx context.Context

	wake chan struct{} // holds a token when a mover has ended

	mu      sync.Mutex
	busy    map[uint32]bool        // groups with a mover
	hosting map[uint64]bool        // nodes that are being told what to host
	hosts   map[hostedReplica]bool // told, and answered
	moved   int                    // replicas, since the last event
	since   time.Time
	audited time.Time
	odd     map[uint32]string // what the last audit found, by group
}

type hostedReplica struct {
	node  uint64
	group uint32
}

// place is called when the coordinator leads here. A node may lead before it serves: it
// answers its own requests only then, so the placer waits for that.
func (n *Node) place(ctx context.Context) {
	select {
	case <-n.serving:
	case <-ctx.Done():
		return
	case <-n.ctx.Done():
		return
	}
	p := &placer{
		n: n, ctx: ctx, wake: make(chan struct{}, 1), busy: map[uint32]bool{}, hosting: map[uint64]bool{},
		hosts: map[hostedReplica]bool{}, odd: map[uint32]string{}, audited: time.Now(),
	}
	for ctx.Err() == nil {
		changed := n.cdcState.FactsChanged()
		if err := p.round(); err != nil && ctx.Err() == nil {
			n.log.Warn("placing replicas", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(placeEvery):
		case <-p.wake:
		case <-changed:
			select { // nodes often come together
			case <-ctx.Done():
			case <-time.After(placeCoalesce):
			}
		}
	}
}

// round decides, records, and sets going what is not going yet. It waits for no other node
// but the coordinator's voters.
func (p *placer) round() error {
	n := p.n
	facts := n.cdcState.Facts()
	if facts.Cluster == 0 {
		return nil // the first node has not said what it wants yet
	}
	alive := n.aliveNodes()
	plan := planReplicas(planInput{
		facts: facts, alive: alive, busy: p.busyNow(), moves: placeMoves,
		voters: func(g uint32) []uint64 {
			if here := n.host.Group(eggs.GroupID(g)); here != nil {
				return here.Status().Voters
			}
			return nil
		},
	})
	if err := forEach(plan, func(r *wire.PutReplicas) error { return p.record(r) }); err != nil {
		return err
	}
	facts = n.cdcState.Facts()
	p.start(facts, alive)
	if err := p.markPlaced(facts, alive); err != nil {
		return err
	}
	if err := p.removeLost(facts); err != nil {
		return err
	}
	if time.Since(p.audited) > placeAudit {
		p.audited = time.Now()
		return p.audit(facts, alive)
	}
	return nil
}

func (p *placer) busyNow() map[uint32]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	busy := make(map[uint32]bool, len(p.busy))
	for g := range p.busy {
		busy[g] = true
	}
	return busy
}

func (n *Node) aliveNodes() map[uint64]bool {
	alive := map[uint64]bool{}
	for _, x := range n.router.Routes().GetNodes() {
		alive[x.Id] = x.Alive
	}
	alive[uint64(n.id)] = true
	return alive
}

// record replaces a group's record, if it still is the one that the decision was made from.
// Somebody else's decision is no error: the next round sees it.
func (p *placer) record(r *wire.PutReplicas) error {
	err := p.n.record(p.ctx, &wire.CdcRequest{Op: &wire.CdcRequest_PutReplicas{PutReplicas: r}})
	if eggs.KindOf(err) == eggs.Conflict {
		p.n.log.Debug("a placement was overtaken", "group", r.Group, "err", err)
		return nil
	}
	return err
}

// recordOf returns a group's record as it is now, nil when there is none.
func recordOf(f *wire.Facts, group uint32) *wire.PutReplicas {
	i, ok := slices.BinarySearchFunc(f.GetGroups(), group, func(g *wire.PutReplicas, id uint32) int {
		return int(g.Group) - int(id)
	})
	if !ok {
		return nil
	}
	return f.Groups[i]
}

// start gives every group that moves its mover, as many as may run, once the nodes that
// it moves to host it.
func (p *placer) start(facts *wire.Facts, alive map[uint64]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ask, rest := map[uint64][]uint32{}, true
	for _, g := range facts.Groups {
		if len(g.Learners)+len(g.Leaving) == 0 {
			continue
		}
		if rest = false; p.since.IsZero() {
			p.since = time.Now()
		}
		if p.busy[g.Group] {
			continue
		}
		hosted := true
		for _, l := range g.Learners {
			if !p.hosts[hostedReplica{l, g.Group}] {
				hosted = false
				if alive[l] && !p.hosting[l] {
					ask[l] = append(ask[l], g.Group)
				}
			}
		}
		if !hosted || len(p.busy) >= placeAtOnce {
			continue
		}
		p.busy[g.Group] = true
		go p.move(g)
	}
	if rest && p.moved > 0 {
		p.n.events.add("info", fmt.Sprintf("placed %d replicas in %s", p.moved,
			time.Since(p.since).Round(time.Millisecond)))
		p.moved, p.since = 0, time.Time{}
	}
	for node, groups := range ask {
		p.hosting[node] = true
		go p.host(node, groups, facts.Version)
	}
}

// host tells one node which replicas to hold.
func (p *placer) host(node uint64, groups []uint32, version uint64) {
	reply := &wire.HostGroupReply{}
	req := &wire.HostGroup{Groups: groups, Version: version}
	err := p.n.callNode(p.ctx, eggs.NodeID(node), wire.MethodHostGroup, req, reply)
	if err == nil {
		err = reply.Error.AsError()
	}
	if err != nil && p.ctx.Err() == nil {
		p.n.log.Warn("a node does not host replicas", "node", eggs.NodeID(node), "err", err)
		time.Sleep(placePause)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.hosting, node)
	if err == nil {
		for _, g := range groups {
			p.hosts[hostedReplica{node, g}] = true
		}
		p.poke()
	}
}

func (p *placer) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// move carries one record out, as far as it gets: what is left is in the record.
func (p *placer) move(g *wire.PutReplicas) {
	ctx, cancel := context.WithTimeout(p.ctx, placeStep)
	defer cancel()
	err := p.carryOut(ctx, g)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, g.Group)
	for _, l := range g.Learners {
		delete(p.hosts, hostedReplica{l, g.Group})
	}
	if p.moved += len(g.Learners); p.since.IsZero() {
		p.since = time.Now()
	}
	if err != nil && p.ctx.Err() == nil {
		p.n.log.Info("a group's replicas do not move", "group", eggs.GroupID(g.Group), "err", err)
		return // the next look begins it again
	}
	p.poke()
}

// carryOut makes the learners voters and has the leaving leave, and records both.
func (p *placer) carryOut(ctx context.Context, g *wire.PutReplicas) error {
	id := eggs.GroupID(g.Group)
	for _, change := range []wire.ChangeMembers_Change{wire.ChangeMembers_ADD_LEARNER, wire.ChangeMembers_PROMOTE} {
		for _, l := range g.Learners {
			if err := p.askLeader(ctx, g.Group, l, change, l); err != nil {
				return fmt.Errorf("group %s, %s of %s: %w", id, change, eggs.NodeID(l), err)
			}
		}
	}
	if len(g.Learners) > 0 {
		next := &wire.PutReplicas{
			Group: g.Group, Voters: slices.Concat(g.Voters, g.Learners), Leaving: g.Leaving, Leader: g.Leader,
			Version: g.Version,
		}
		if err := p.record(next); err != nil {
			return err
		}
		if g = p.recorded(next); g == nil {
			return nil // somebody else's now
		}
	}
	if len(g.Leaving) == 0 {
		return nil
	}
	next := &wire.PutReplicas{Group: g.Group, Leader: g.Leader, Version: g.Version}
	for _, v := range g.Voters {
		if !slices.Contains(g.Leaving, v) {
			next.Voters = append(next.Voters, v)
		}
	}
	if up := countAlive(p.n.aliveNodes(), next.Voters); up <= len(next.Voters)/2 {
		return fmt.Errorf("group %s: %d of %d voters that would be left are up, so none is removed",
			id, up, len(next.Voters))
	}
	for _, l := range g.Leaving {
		if err := p.askLeader(ctx, g.Group, l, wire.ChangeMembers_REMOVE, 0); err != nil {
			return fmt.Errorf("group %s, removal of %s: %w", id, eggs.NodeID(l), err)
		}
	}
	if err := p.record(next); err != nil {
		return err
	}
	if p.recorded(next) != nil {
		p.drop(g.Leaving, g.Group)
	}
	return nil
}

func countAlive(alive map[uint64]bool, nodes []uint64) (up int) {
	for _, n := range nodes {
		if alive[n] {
			up++
		}
	}
	return up
}

// recorded returns the record if it is the one that was wanted, with its version.
func (p *placer) recorded(want *wire.PutReplicas) *wire.PutReplicas {
	now := recordOf(p.n.cdcState.Facts(), want.Group)
	if now == nil || !slices.Equal(now.Voters, want.Voters) || !slices.Equal(now.Learners, want.Learners) ||
		!slices.Equal(now.Leaving, want.Leaving) {
		return nil
	}
	return now
}

// drop has nodes forget a replica that the group removed. Who does not answer is told by
// the audit.
func (p *placer) drop(nodes []uint64, group uint32) {
	alive, version := p.n.aliveNodes(), p.n.cdcState.Facts().Version
	for _, id := range nodes {
		if !alive[id] {
			continue
		}
		reply := &wire.HostGroupReply{}
		req := &wire.HostGroup{Groups: []uint32{group}, Drop: true, Version: version}
		err := p.n.callNode(p.ctx, eggs.NodeID(id), wire.MethodHostGroup, req, reply)
		if err == nil {
			err = reply.Error.AsError()
		}
		if err != nil && p.ctx.Err() == nil {
			p.n.log.Info("a replica is not dropped yet", "node", eggs.NodeID(id), "group", eggs.GroupID(group),
				"err", err)
		}
	}
}

// askLeader asks a group's leader for a change, and again while the leader changes or the
// member catches up. It gives up when needs, a node, has died.
func (p *placer) askLeader(ctx context.Context, group uint32, member uint64, change wire.ChangeMembers_Change,
	needs uint64,
) error {
	n := p.n
	req := &wire.ChangeMembers{Group: group, Node: member, Change: change}
	for {
		if needs != 0 && !n.aliveNodes()[needs] {
			return &eggs.Error{
				Op: "node.Place", Name: eggs.NodeID(needs).String(), Kind: eggs.Unavailable,
				Err: errors.New("it is down"),
			}
		}
		var leader eggs.NodeID
		if leaders, _ := n.host.Leaders(); int(group) < len(leaders) {
			leader = leaders[group]
		}
		err := error(&eggs.Error{Op: "node.Place", Kind: eggs.Unavailable, Err: errors.New("nobody leads")})
		if leader != 0 {
			asking, cancel := context.WithTimeout(ctx, placeAsk)
			reply := &wire.ChangeMembersReply{}
			if err = n.callNode(asking, leader, wire.MethodChangeMembers, req, reply); err == nil {
				err = reply.Error.AsError()
			}
			cancel()
		}
		switch eggs.KindOf(err) {
		case eggs.NotLeader, eggs.Unavailable, eggs.Indeterminate, eggs.Timeout:
		default:
			return err // nil included
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(placePause):
		}
	}
}

// markPlaced tells the nodes that have all that they are due that they are whole.
func (p *placer) markPlaced(facts *wire.Facts, alive map[uint64]bool) error {
	learns := map[uint64]bool{}
	for _, g := range facts.Groups {
		for _, l := range g.Learners {
			learns[l] = true
		}
	}
	for _, x := range facts.Nodes {
		if x.Placed || x.Removed || x.Lost || !alive[x.Id] || learns[x.Id] {
			continue
		}
		if err := p.n.record(p.ctx, &wire.CdcRequest{Op: &wire.CdcRequest_PutNode{PutNode: &wire.PutNode{
			Node: &wire.NodeFact{Id: x.Id, Placed: true}, Mask: 2,
		}}}); err != nil {
			return err
		}
	}
	return nil
}

// removeLost ends the membership of nodes that were declared lost, once no group names them.
func (p *placer) removeLost(facts *wire.Facts) error {
	for _, x := range facts.Nodes {
		if !x.Lost || x.Removed || holdings(facts, x.Id) > 0 {
			continue
		}
		err := p.n.record(p.ctx, &wire.CdcRequest{
			Op: &wire.CdcRequest_RemoveNode{RemoveNode: &wire.RemoveNode{Id: x.Id}},
		})
		if eggs.KindOf(err) == eggs.Conflict {
			continue
		}
		if err != nil {
			return err
		}
		p.n.events.add("info", fmt.Sprintf("node %s, declared lost, holds nothing any more and is removed",
			eggs.NodeID(x.Id)))
	}
	return nil
}

// holdings counts the groups whose record names a node.
func holdings(f *wire.Facts, node uint64) (count int) {
	for _, g := range f.GetGroups() {
		if slices.Contains(g.Voters, node) || slices.Contains(g.Learners, node) || slices.Contains(g.Leaving, node) {
			count++
		}
	}
	return count
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
