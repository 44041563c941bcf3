package node

import (
	"slices"
	"strings"
	"testing"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// TestPlacementProblems: degraded is told as degraded, a group without a majority as
// unavailable, and a node that can't be replaced or drained says what to do.
func TestPlacementProblems(t *testing.T) {
	facts := &wire.Facts{Replicas: 3}
	alive := map[uint64]bool{1: true, 2: true, 3: true}
	for id := range uint64(3) {
		facts.Nodes = append(facts.Nodes, &wire.NodeFact{Id: id + 1, Roles: RoleMeta})
	}
	facts.Groups = []*wire.PutReplicas{{Group: 0, Voters: []uint64{1, 2, 3}}, {Group: 1, Voters: []uint64{1, 2, 3}}}
	expect := func(when string, unavailable bool, words ...string) {
		t.Helper()
		got := placementProblems(facts, alive)
		if len(got) != len(words) {
			t.Fatalf("%s: %v, want %q", when, got, words)
		}
		for i, w := range words {
			if !strings.Contains(got[i].What, w) || got[i].Doing == "" {
				t.Errorf("%s: %v, want %q", when, got[i], w)
			}
		}
		if slices.ContainsFunc(got, func(p *wire.Problem) bool { return p.Unavailable }) != unavailable {
			t.Errorf("%s: unavailable is not %t", when, unavailable)
		}
	}
	expect("all is well", false)
	alive[3] = false
	expect("a node is down", false, "2 groups have fewer replicas up")
	facts.Nodes[2].Lost = true
	expect("and lost, with no other", false, "2 groups have fewer", "can't be replaced")
	alive[2] = false
	expect("and another down", true, "2 groups (0, 1", "can't be replaced")
	alive[2], alive[3], facts.Nodes[2].Lost, facts.Nodes[2].Draining = true, true, false, true
	expect("a drain with nowhere to go to", false, "can't drain")
}

// TestRealMembers: what an audit records is what the group's leader has; strangers and
// learners that nobody decided leave.
func TestRealMembers(t *testing.T) {
	facts := &wire.Facts{Nodes: []*wire.NodeFact{{Id: 1}, {Id: 2}, {Id: 3}, {Id: 4, Removed: true}}}
	r := &wire.PutReplicas{Group: 7, Voters: []uint64{3, 1, 2}, Leader: 2, Version: 9}
	if got := realMembers(facts, r, &wire.GroupStatus{Voters: []uint64{1, 2, 3}}); got != nil {
		t.Fatalf("as recorded, and changed to %v", got)
	}
	got := realMembers(facts, r, &wire.GroupStatus{Voters: []uint64{1, 2, 4}, Learners: []uint64{3}})
	if got == nil || !slices.Equal(got.Voters, []uint64{1, 2}) || !slices.Equal(got.Leaving, []uint64{3, 4}) ||
		got.Leader != 2 || got.Version != 9 {
		t.Fatalf("%v", got)
	}
	if got := realMembers(facts, r, &wire.GroupStatus{Voters: []uint64{4}}); got != nil {
		t.Fatalf("a record without a voter that belongs: %v", got)
	}
}

// TestBanished: a node that was removed or declared lost is told so in words, and how to
// come back; others are not.
func TestBanished(t *testing.T) {
	n := &Node{id: 5}
	for _, c := range []struct {
		fact *wire.NodeFact
		want string
	}{
		{&wire.NodeFact{Id: 5}, ""},
		{&wire.NodeFact{Id: 6, Removed: true}, ""},
		{&wire.NodeFact{Id: 5, Lost: true}, "declared lost"},
		{&wire.NodeFact{Id: 5, Lost: true, Removed: true}, "removed from the cluster"},
	} {
		err := n.banished(&wire.Facts{Nodes: []*wire.NodeFact{c.fact}})
		if (err != nil) != (c.want != "") || err != nil && (!strings.Contains(err.Error(), c.want) ||
			!strings.Contains(err.Error(), "--join") || eggs.KindOf(err) != eggs.Permission) {
			t.Errorf("%v: %v", c.fact, err)
		}
	}
}

// TestLateDrop: a drop that was decided before a replica was last hosted is refused: a
// voter would forget its votes.
func TestLateDrop(t *testing.T) {
	n := &Node{identity: &identity{Groups: []int{3}, Hosted: map[int]uint64{3: 20}}}
	for _, version := range []uint64{0, 19, 20} {
		err := n.hostGroups(&wire.HostGroup{Groups: []uint32{3}, Drop: true, Version: version})
		if eggs.KindOf(err) != eggs.Stale || !slices.Equal(n.identity.Groups, []int{3}) {
			t.Errorf("a drop of version %d: %v, groups %v", version, err, n.identity.Groups)
		}
	}
}
