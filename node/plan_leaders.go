package node

import "slices"

// leaders names who should lead each group: a member that stays, and that may hold replicas
// if there is one; as many a node as can be, give or take one. A node that is down keeps its
// name: it leads again when it is back.
func (p *planner) leaders() {
	for _, g := range p.groups {
		if g.busy {
			if n := p.byID[g.now.Leader]; n != nil {
				n.leads++
			}
			continue
		}
		if g.now.Leader != 0 && p.mayLead(g, p.node(g.now.Leader)) {
			p.node(g.now.Leader).leads++
		} else {
			g.now.Leader = 0
		}
	}
	for _, g := range p.groups {
		if g.busy || g.now.Leader != 0 {
			continue
		}
		var best *planNode
		for _, id := range g.stays {
			if n := p.node(id); p.mayLead(g, n) && (best == nil || n.leads < best.leads) {
				best = n
			}
		}
		if best != nil {
			best.leads++
			g.now.Leader = best.id
		}
	}
	for p.evenLeaders() {
	}
}

// mayLead reports whether n is a member that can be named: one that stays and, if any is,
// one that is fit.
func (p *planner) mayLead(g *planGroup, n *planNode) bool {
	if !slices.Contains(g.stays, n.id) {
		return false
	}
	return n.fit || !slices.ContainsFunc(g.stays, func(id uint64) bool { return p.node(id).fit })
}

// evenLeaders moves one leadership from a node with the most to one with at least two
// fewer, if need be by way of others, and reports whether it did. It begins with the
// fullest node and looks for the shortest way.
func (p *planner) evenLeaders() bool {
	var full []*planNode
	for _, n := range p.nodes {
		if n.leads > 0 {
			full = append(full, n)
		}
	}
	slices.SortStableFunc(full, func(a, b *planNode) int { return b.leads - a.leads })
	for _, from := range full {
		if p.shiftLeader(from) {
			return true
		}
	}
	return false
}

// shiftLeader searches breadth first along groups that could be led by the next node.
func (p *planner) shiftLeader(from *planNode) bool {
	type step struct {
		group *planGroup
		prev  uint64
	}
	seen := map[uint64]step{from.id: {}}
	queue := []uint64{from.id}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		if n := p.node(at); from.leads-n.leads >= 2 {
			for at != from.id {
				s := seen[at]
				s.group.now.Leader = at
				at = s.prev
			}
			from.leads--
			n.leads++
			return true
		}
		for _, g := range p.groups {
			if g.busy || g.now.Leader != at {
				continue
			}
			for _, id := range g.stays {
				n := p.node(id)
				if _, ok := seen[id]; !ok && n.fit && n.alive && p.mayLead(g, n) {
					seen[id] = step{g, at}
					queue = append(queue, id)
				}
			}
		}
	}
	return false
}
