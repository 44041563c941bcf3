package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"eggsfs/eggs"
	"eggsfs/gossip"
	"eggsfs/wire"
)

// downProblems says which members are down, and what becomes of what is on them.
func (n *Node) downProblems() []*wire.Problem {
	facts, view := n.router.Facts(), n.gossip.View()
	var all []*wire.Problem
	for _, nv := range view.Nodes {
		f := factOfNode(facts, nv.ID)
		if nv.State != gossip.Dead || f == nil || f.Removed || f.Lost {
			continue
		}
		doing := "its groups are led by others; start it again, or 'eggs node remove --lost' it if it is gone for good"
		for _, other := range view.Nodes { // of two identities at one address the one that answers is the newest
			if other.ID != nv.ID && other.Addr == nv.Addr && other.State == gossip.Alive {
				doing = fmt.Sprintf("node %s answers at its address now: if its data is gone, "+
					"'eggs node remove --lost %s'", short(other.ID), short(nv.ID))
			}
		}
		for _, d := range facts.Disks {
			if d.Node == f.Id && d.SilentSince != 0 && !d.Retired && facts.RetireAfterNs >= 0 {
				doing += "; its disks are retired, and their blocks made anew, when they have been silent for " +
					patience(facts).String()
				break
			}
		}
		all = append(all, &wire.Problem{
			What: fmt.Sprintf("node %s (%s) is down since %s", short(nv.ID), nv.Addr,
				nv.Since.Std().Format(time.TimeOnly)),
			Doing: doing,
		})
	}
	return all
}

// patience is how long a disk may be silent before it is retired, an hour unless the
// cluster was told otherwise.
func patience(f *wire.Facts) time.Duration {
	if f.RetireAfterNs == 0 {
		return time.Hour
	}
	return time.Duration(f.RetireAfterNs)
}

func short(id eggs.NodeID) string { return id.String()[:8] }

// placementProblems says which replicas are missing and whether anything can be done about
// it: groups that have fewer voters up than they should have, groups without a majority,
// nodes that are lost, drains that do not get on.
func placementProblems(facts *wire.Facts, alive map[uint64]bool) []*wire.Problem {
	gone, fit := map[uint64]bool{}, 0
	for _, x := range facts.Nodes {
		gone[x.Id] = x.Lost || x.Removed
		if x.Roles&RoleMeta != 0 && !x.Draining && !gone[x.Id] {
			fit++
		}
	}
	var all []*wire.Problem
	var dead []string
	degraded, moving, voters := 0, 0, 0
	for _, g := range facts.Groups {
		up := 0
		for _, v := range g.Voters {
			if alive[v] && !gone[v] {
				up++
			}
		}
		voters = max(voters, len(g.Voters)-len(g.Leaving))
		switch {
		case up <= len(g.Voters)/2:
			dead = append(dead, eggs.GroupID(g.Group).String())
		case up < len(g.Voters):
			degraded++
			if len(g.Learners) > 0 {
				moving++
			}
		}
	}
	if len(dead) > 0 {
		names := strings.Join(dead[:min(len(dead), 4)], ", ")
		all = append(all, &wire.Problem{
			Unavailable: true,
			What:        fmt.Sprintf("%d groups (%s …) have no majority of their replicas up", len(dead), names),
			Doing: "they serve again when enough of their nodes do: start those; what no majority has can't be " +
				"replaced, so never declare these nodes lost while one of them may come back",
		})
	}
	if degraded > 0 {
		all = append(all, &wire.Problem{
			What:  fmt.Sprintf("%d groups have fewer replicas up than they should", degraded),
			Doing: fmt.Sprintf("%d are being replaced; those of nodes that are only down wait for them", moving),
		})
	}
	return append(all, nodeProblems(facts, fit, voters)...)
}

// nodeProblems is about nodes that go: lost ones that are still named, and drains that
// have nowhere to go to.
func nodeProblems(facts *wire.Facts, fit, voters int) (all []*wire.Problem) {
	for _, x := range facts.Nodes {
		left := holdings(facts, x.Id)
		switch {
		case x.Removed || left == 0:
		case x.Lost && fit < voters:
			all = append(all, &wire.Problem{
				What: fmt.Sprintf("node %s is lost, and %d replicas of it can't be replaced: a group has %d voters "+
					"and only %d other nodes hold replicas", short(eggs.NodeID(x.Id)), left, voters, fit),
				Doing: "join another node",
			})
		case x.Lost:
			all = append(all, &wire.Problem{
				What: fmt.Sprintf("node %s is lost: %d of its replicas are not replaced yet",
					short(eggs.NodeID(x.Id)), left),
				Doing: "others are made voters instead, a few groups at a time",
			})
		case x.Draining && fit < voters:
			all = append(all, &wire.Problem{
				What: fmt.Sprintf("node %s can't drain: a group has %d voters and only %d other nodes hold replicas",
					short(eggs.NodeID(x.Id)), voters, fit),
				Doing: "join another node, or take the drain back with 'eggs node drain --undo'",
			})
		}
	}
	slices.SortFunc(all, func(a, b *wire.Problem) int { return strings.Compare(a.What, b.What) })
	return all
}
