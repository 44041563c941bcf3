package node

import (
	"cmp"
	"slices"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// planInput is all that the placement of replicas is decided from.
type planInput struct {
	facts  *wire.Facts
	alive  map[uint64]bool         // nodes, as gossip has it
	voters func(g uint32) []uint64 // of a group that is not recorded yet
	busy   map[uint32]bool         // groups whose record somebody works on
	moves  int                     // groups that may move for the sake of drains and evenness at a time
}

// planReplicas returns the records that should replace those of the facts, each with the
// version that it replaces. It is a pure function, and each thing that it decides makes one of
// these smaller and none before it larger, so deciding again and again comes to an end:
//
//	replicas that are missing; replicas on nodes that are lost, then on those that drain;
//	replicas of one group in one failure domain; the unevenness of replicas a node (the
//	sum of squares); that of leaders.
//
// Sums count every group as it will be when it has moved. A group that moves is left alone,
// unless the node that it moves to has died. Dead nodes neither give nor take: they come
// back, or are declared lost. No group is decided to have fewer voters than it has, unless
// the cluster was asked for fewer.
func planReplicas(in planInput) []*wire.PutReplicas {
	p := newPlanner(in)
	p.mend()
	p.resize()
	p.replace(func(n *planNode) bool { return n.lost })
	p.replace(func(n *planNode) bool { return !n.fit })
	p.spread()
	p.even()
	p.leaders()
	return p.changes()
}

type planNode struct {
	id     uint64
	domain string
	fit    bool // may hold replicas
	lost   bool
	alive  bool
	load   int // replicas, when all have moved
	leads  int
}

type planGroup struct {
	old      *wire.PutReplicas // nil: not recorded
	now      *wire.PutReplicas
	busy     bool
	stays    []uint64 // who holds it when it has moved
	has, due int      // voters now; how many it should have
}

func (g *planGroup) moving() bool { return len(g.now.Learners)+len(g.now.Leaving) > 0 }

type planner struct {
	in     planInput
	nodes  []*planNode // in the order of ids
	byID   map[uint64]*planNode
	groups []*planGroup
	room   int // moves that may begin
}

func newPlanner(in planInput) *planner {
	p := &planner{in: in, byID: map[uint64]*planNode{}, room: in.moves}
	fit := 0
	for _, x := range in.facts.Nodes {
		n := &planNode{
			id: x.Id, domain: x.Domain, lost: x.Lost || x.Removed, alive: in.alive[x.Id],
			fit: x.Roles&RoleMeta != 0 && !x.Draining && !x.Lost && !x.Removed,
		}
		if n.domain == "" {
			n.domain = eggs.NodeID(x.Id).String()
		}
		if n.fit {
			fit++
		}
		p.byID[n.id] = n
		p.nodes = append(p.nodes, n)
	}
	recorded := map[uint32]*wire.PutReplicas{}
	for _, g := range in.facts.Groups {
		recorded[g.Group] = g
	}
	asked := max(int(in.facts.Replicas), 1)
	for id := range uint32(eggs.Groups) {
		g := &planGroup{old: recorded[id], busy: in.busy[id]}
		if old := g.old; old != nil {
			g.now = &wire.PutReplicas{
				Group: id, Voters: slices.Clone(old.Voters), Learners: slices.Clone(old.Learners),
				Leaving: slices.Clone(old.Leaving), Leader: old.Leader, Version: old.Version,
			}
		} else if v := in.voters(id); len(v) > 0 {
			g.now = &wire.PutReplicas{Group: id, Voters: slices.Clone(v)}
		} else {
			continue
		}
		g.has = len(g.now.Voters)
		g.due = max(wantedVoters(asked, fit), min(g.has, asked))
		for _, m := range slices.Concat(g.now.Voters, g.now.Learners) {
			if !slices.Contains(g.now.Leaving, m) {
				p.stay(g, m)
			}
		}
		if g.moving() && g.has >= g.due { // growth of the whole cluster is not held back by a budget
			p.room--
		}
		p.groups = append(p.groups, g)
	}
	return p
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

func (p *planner) node(id uint64) *planNode {
	if n := p.byID[id]; n != nil {
		return n
	}
	return &planNode{id: id, lost: true} // nobody's member: never to be relied on
}

func (p *planner) stay(g *planGroup, id uint64) {
	g.stays = append(g.stays, id)
	p.node(id).load++
}

// leave has a member leave; a learner is one no more at once.
func (p *planner) leave(g *planGroup, id uint64) {
	g.stays = without(g.stays, id)
	p.node(id).load--
	g.now.Learners = without(g.now.Learners, id)
	g.now.Leaving = append(g.now.Leaving, id)
}

func (p *planner) learn(g *planGroup, id uint64) {
	g.now.Leaving = without(g.now.Leaving, id)
	g.now.Learners = append(g.now.Learners, id)
	p.stay(g, id)
}

func without(ids []uint64, id uint64) []uint64 {
	return slices.DeleteFunc(ids, func(x uint64) bool { return x == id })
}

// mend gives moves up whose target can't be reached any more.
func (p *planner) mend() {
	for _, g := range p.groups {
		if g.busy {
			continue
		}
		for _, l := range slices.Clone(g.now.Learners) {
			if n := p.node(l); !n.alive || !n.fit {
				p.leave(g, l)
			}
		}
	}
}

// resize gives every group as many members as it is due. Who was to leave and still
// votes stays rather than that a stranger comes.
func (p *planner) resize() {
	for _, g := range p.groups {
		if g.busy {
			continue
		}
		for _, fit := range []bool{true, false} {
			for _, l := range slices.Clone(g.now.Leaving) {
				if len(g.stays) < g.due && slices.Contains(g.now.Voters, l) && p.node(l).fit == fit &&
					(fit || p.candidate(g, 0) == nil) {
					g.now.Leaving = without(g.now.Leaving, l)
					p.stay(g, l)
				}
			}
		}
		for len(g.stays) < g.due {
			next := p.candidate(g, 0)
			if next == nil {
				break
			}
			p.learn(g, next.id)
		}
		for len(g.stays) > g.due {
			p.leave(g, p.worst(g).id)
		}
	}
}

// candidate chooses a node for one more replica, from goes away: another failure domain
// if there is one, then the fewest replicas. It is nil when no node is left.
func (p *planner) candidate(g *planGroup, from uint64) *planNode {
	var best *planNode
	for _, n := range p.nodes {
		if !n.fit || !n.alive || slices.Contains(g.stays, n.id) || slices.Contains(g.now.Voters, n.id) ||
			slices.Contains(g.now.Leaving, n.id) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(p.shared(n, g.stays, from), p.shared(best, g.stays, from)),
			cmp.Compare(n.load, best.load)) < 0 {
			best = n
		}
	}
	return best
}

// worst is the member that a group misses least: one that must go, one that is dead,
// one that shares its failure domain, one that has much.
func (p *planner) worst(g *planGroup) *planNode {
	var worst *planNode
	rank := func(n *planNode) int {
		switch {
		case n.lost:
			return 0
		case !n.fit:
			return 1
		case !n.alive:
			return 2
		}
		return 3
	}
	for _, id := range g.stays {
		n := p.node(id)
		if worst == nil || cmp.Or(cmp.Compare(rank(n), rank(worst)),
			-cmp.Compare(p.shared(n, g.stays, 0), p.shared(worst, g.stays, 0)),
			-cmp.Compare(n.load, worst.load), cmp.Compare(n.id, worst.id)) < 0 {
			worst = n
		}
	}
	return worst
}

// shared counts the others of ids, but for from, that can fail together with n.
func (p *planner) shared(n *planNode, ids []uint64, from uint64) (count int) {
	for _, id := range ids {
		if id != n.id && id != from && p.node(id).domain == n.domain {
			count++
		}
	}
	return count
}

// may reports whether a group's move may begin.
func (p *planner) may(g *planGroup) bool { return p.room > 0 && !g.busy && !g.moving() }

func (p *planner) move(g *planGroup, from, to *planNode) {
	p.room--
	p.learn(g, to.id)
	p.leave(g, from.id)
}

// replace begins to move replicas off nodes that must not have them, one of a group at a time.
func (p *planner) replace(must func(*planNode) bool) {
	for _, g := range p.groups {
		if !p.may(g) {
			continue
		}
		for _, id := range g.stays {
			from := p.node(id)
			if !must(from) {
				continue
			}
			if to := p.candidate(g, id); to != nil {
				p.move(g, from, to)
				break
			}
		}
	}
}

// spread moves replicas out of failure domains that hold several of one group.
func (p *planner) spread() {
	for _, g := range p.groups {
		if !p.may(g) {
			continue
		}
		for _, id := range g.stays {
			from := p.node(id)
			to := p.candidate(g, id)
			if to != nil && from.fit && from.alive && p.shared(to, g.stays, id) < p.shared(from, g.stays, id) {
				p.move(g, from, to)
				break
			}
		}
	}
}

// even moves replicas from nodes with many to nodes with at least two fewer, where it costs
// no spread; rather those that do not lead. While nodes are missing for more than one voter
// a group, evenness would only have the cluster depend on more nodes.
func (p *planner) even() {
	if len(p.groups) > 0 && p.groups[0].due == 1 && p.in.facts.Replicas > 1 {
		return
	}
	for p.room > 0 && p.evenOne() {
	}
}

func (p *planner) evenOne() bool {
	able := slices.DeleteFunc(slices.Clone(p.nodes), func(n *planNode) bool { return !n.fit || !n.alive })
	slices.SortStableFunc(able, func(a, b *planNode) int { return -cmp.Compare(a.load, b.load) })
	for _, from := range able {
		for i := len(able) - 1; i >= 0 && from.load-able[i].load >= 2; i-- {
			to := able[i]
			var best *planGroup
			for _, g := range p.groups {
				if !p.may(g) || !slices.Contains(g.stays, from.id) || slices.Contains(g.stays, to.id) {
					continue
				}
				if p.shared(to, g.stays, from.id) > p.shared(from, g.stays, from.id) {
					continue
				}
				if best == nil || best.now.Leader == from.id && g.now.Leader != from.id {
					best = g
				}
			}
			if best != nil {
				p.move(best, from, to)
				return true
			}
		}
	}
	return false
}

// changes lists the groups that are not as they were.
func (p *planner) changes() []*wire.PutReplicas {
	var list []*wire.PutReplicas
	for _, g := range p.groups {
		if g.old == nil || !slices.Equal(g.old.Learners, g.now.Learners) ||
			!slices.Equal(g.old.Leaving, g.now.Leaving) || g.old.Leader != g.now.Leader {
			list = append(list, g.now)
		}
	}
	return list
}
