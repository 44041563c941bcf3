package node

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// planWorld is a cluster as the planner sees it, whose moves are carried out step by step.
type planWorld struct {
	t     *testing.T
	rand  *rand.Rand
	facts *wire.Facts
	alive map[uint64]bool
	moves int
	calm  bool // nodes come and go only at rest, so that the number of moves is bounded
	steps int  // records decided
}

func newPlanWorld(t *testing.T, seed uint64, replicas uint32) *planWorld {
	return &planWorld{
		t: t, rand: rand.New(rand.NewPCG(seed, 1)), facts: &wire.Facts{Replicas: replicas},
		alive: map[uint64]bool{}, moves: 8, calm: true,
	}
}

func (w *planWorld) join(domain string) uint64 {
	id := uint64(len(w.facts.Nodes) + 1)
	w.facts.Nodes = append(w.facts.Nodes, &wire.NodeFact{Id: id, Roles: RoleMeta, Domain: domain})
	w.alive[id] = true
	return id
}

func (w *planWorld) node(id uint64) *wire.NodeFact { return w.facts.Nodes[id-1] }

// plan decides, checks each decision by itself, and records it.
func (w *planWorld) plan() int {
	w.t.Helper()
	plan := planReplicas(planInput{
		facts: w.facts, alive: w.alive, moves: w.moves,
		voters: func(uint32) []uint64 { return []uint64{1} },
	})
	moving := 0
	for _, p := range plan {
		w.steps++
		i := slices.IndexFunc(w.facts.Groups, func(g *wire.PutReplicas) bool { return g.Group == p.Group })
		if i < 0 {
			w.facts.Groups = append(w.facts.Groups, p)
			continue
		}
		old := w.facts.Groups[i]
		if !slices.Equal(old.Voters, p.Voters) {
			w.t.Fatalf("group %d: a plan changed who votes: %v, was %v", p.Group, p, old)
		}
		if kept := w.staying(p); kept < min(len(p.Voters), int(w.facts.Replicas)) &&
			len(p.Learners)+len(p.Leaving) > 0 && kept < w.staying(old) {
			w.t.Fatalf("group %d is to have %d members: %v, was %v", p.Group, kept, p, old)
		}
		for _, l := range p.Learners {
			if n := w.node(l); n.Draining || n.Lost || !w.alive[l] {
				w.t.Fatalf("group %d: a replica goes to node %d, which can't take it", p.Group, l)
			}
		}
		w.facts.Groups[i] = p
	}
	for _, g := range w.facts.Groups {
		if len(g.Leaving) > 0 && len(g.Learners) > 0 {
			moving++
		}
	}
	if w.calm && moving > w.moves {
		w.t.Fatalf("%d groups move at the same time", moving)
	}
	return len(plan)
}

func (w *planWorld) staying(g *wire.PutReplicas) int {
	count := len(g.Learners)
	for _, v := range g.Voters {
		if !slices.Contains(g.Leaving, v) {
			count++
		}
	}
	return count
}

// carryOut does what was recorded for some of the groups, or for all.
func (w *planWorld) carryOut(all bool) {
	for i, g := range w.facts.Groups {
		if len(g.Learners)+len(g.Leaving) == 0 || !all && w.rand.IntN(3) == 0 {
			continue
		}
		if slices.ContainsFunc(g.Learners, func(l uint64) bool { return !w.alive[l] }) {
			continue
		}
		next := &wire.PutReplicas{Group: g.Group, Leader: g.Leader}
		for _, v := range slices.Concat(g.Voters, g.Learners) {
			if !slices.Contains(g.Leaving, v) {
				next.Voters = append(next.Voters, v)
			}
		}
		if !all && w.rand.IntN(3) == 0 { // it came as far as the promotion
			next.Voters, next.Leaving = slices.Concat(g.Voters, g.Learners), g.Leaving
		}
		w.facts.Groups[i] = next
	}
}

// settle decides and carries out until there is nothing to decide.
func (w *planWorld) settle() {
	w.t.Helper()
	for range 2000 {
		if w.plan() == 0 && !slices.ContainsFunc(w.facts.Groups, func(g *wire.PutReplicas) bool {
			return len(g.Learners)+len(g.Leaving) > 0
		}) {
			return
		}
		w.carryOut(true)
	}
	w.t.Fatal("the placer never comes to rest")
}

// counts returns the fewest and most replicas, and leaderships, of a node that takes some.
func (w *planWorld) counts() (load, leads [2]int) {
	holds, leading := map[uint64]int{}, map[uint64]int{}
	for _, g := range w.facts.Groups {
		for _, v := range g.Voters {
			holds[v]++
		}
		leading[g.Leader]++
	}
	load, leads = [2]int{1 << 30, 0}, [2]int{1 << 30, 0}
	for _, n := range w.facts.Nodes {
		if n.Draining || n.Lost {
			continue
		}
		load = [2]int{min(load[0], holds[n.Id]), max(load[1], holds[n.Id])}
		leads = [2]int{min(leads[0], leading[n.Id]), max(leads[1], leading[n.Id])}
	}
	return load, leads
}

// even fails unless every group has want voters, on nodes that may have them, evenly.
func (w *planWorld) even(when string, want int) {
	w.t.Helper()
	for _, g := range w.facts.Groups {
		if len(g.Voters) != want || !slices.Contains(g.Voters, g.Leader) {
			w.t.Fatalf("%s: group %d has %v, led by %d; want %d voters", when, g.Group, g.Voters, g.Leader, want)
		}
		for _, v := range g.Voters {
			if n := w.node(v); n.Draining || n.Lost {
				w.t.Fatalf("%s: group %d is still on node %d", when, g.Group, v)
			}
		}
	}
	if load, leads := w.counts(); load[1]-load[0] > 1 || leads[1]-leads[0] > 1 {
		w.t.Fatalf("%s: %d to %d replicas a node, %d to %d leaders", when, load[0], load[1], leads[0], leads[1])
	}
}

// TestPlanLife: a cluster that grows, shrinks, loses a node and is asked for more replicas is
// even after each step, to within one replica and one leader a node.
func TestPlanLife(t *testing.T) {
	w := newPlanWorld(t, 1, 3)
	w.join("")
	w.settle()
	w.even("one node", 1)
	w.join("")
	before := w.steps
	w.settle()
	if w.steps != before {
		t.Fatal("two voters survive no more than one, and were made all the same")
	}
	w.join("")
	w.settle()
	w.even("three nodes", 3)
	w.join("")
	w.settle()
	w.even("four nodes", 3)
	w.join("")
	w.settle()
	w.even("five nodes", 3)
	w.facts.Replicas = 5
	w.settle()
	w.even("five replicas", 5)
	w.facts.Replicas = 3
	w.settle()
	w.even("three replicas again", 3)
	w.node(1).Draining = true
	w.settle()
	w.even("the first node drained", 3)
	w.alive[2], w.node(2).Lost = false, true
	w.settle()
	w.even("a node lost", 3)
	w.node(1).Draining = false
	w.settle()
	w.even("the drain taken back", 3)
	before = w.steps
	w.settle()
	if w.steps != before {
		t.Fatal("at rest, and something was decided")
	}
}

// TestPlanKeeps: without a place to go to, nothing leaves: neither a drain nor a loss makes
// a group smaller, and a node that is only down moves nothing.
func TestPlanKeeps(t *testing.T) {
	w := newPlanWorld(t, 1, 3)
	for range 3 {
		w.join("")
	}
	w.settle()
	w.node(3).Draining = true
	w.alive[2], w.node(2).Lost = false, true
	w.settle()
	for _, g := range w.facts.Groups {
		if len(g.Voters) != 3 || g.Leader != 1 {
			t.Fatalf("group %d: %v, though there are no other nodes", g.Group, g)
		}
	}
	four := w.join("")
	w.settle()
	for _, g := range w.facts.Groups {
		if !slices.Contains(g.Voters, four) || slices.Contains(g.Voters, 2) {
			t.Fatalf("group %d: %v, want the lost node replaced before the one that drains", g.Group, g)
		}
	}
	w = newPlanWorld(t, 1, 3)
	for range 5 {
		w.join("")
	}
	w.settle()
	w.alive[4] = false
	before := w.steps
	w.settle()
	if w.steps != before {
		t.Fatal("a node is down for a moment, and replicas moved")
	}
}

// TestPlanSpread: replicas of a group are in as many failure domains as there are, which
// goes before evenness.
func TestPlanSpread(t *testing.T) {
	w := newPlanWorld(t, 1, 3)
	for _, d := range []string{"a", "a", "a", "b", "b", "b"} {
		w.join(d)
	}
	w.settle()
	w.even("two domains", 3)
	w.join("c")
	w.settle()
	for _, g := range w.facts.Groups {
		if !slices.Contains(g.Voters, 7) {
			t.Fatalf("group %d: %v, want one in the third domain", g.Group, g.Voters)
		}
		if (g.Voters[0]-1)/3 == (g.Voters[1]-1)/3 {
			t.Fatalf("group %d: %v, two in one domain", g.Group, g.Voters)
		}
	}
}

// TestPlanRandom: whatever happens while replicas move, in whatever order, no group shrinks,
// no node that is gone gets a replica, and in the end all is even.
func TestPlanRandom(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := newPlanWorld(t, seed, []uint32{3, 5}[seed%2])
			w.calm = false
			domains := w.rand.IntN(2) == 0
			join := func() {
				d := ""
				if domains {
					d = fmt.Sprint(len(w.facts.Nodes) % 3)
				}
				w.join(d)
			}
			for range 1 + w.rand.IntN(6) {
				join()
			}
			for range 60 {
				w.plan()
				w.carryOut(false)
				id := 1 + w.rand.Uint64N(uint64(len(w.facts.Nodes)))
				switch w.rand.IntN(8) {
				case 0:
					if len(w.facts.Nodes) < 9 {
						join()
					}
				case 1:
					w.node(id).Draining = !w.node(id).Draining
				case 2:
					w.alive[id] = !w.alive[id]
				case 3:
					if w.rand.IntN(6) == 0 {
						w.alive[id], w.node(id).Lost = false, true
					}
				}
			}
			for len(w.facts.Nodes) < 12 {
				join()
			}
			for _, n := range w.facts.Nodes {
				w.alive[n.Id] = !n.Lost
			}
			w.settle()
			if domains {
				return // spread goes before evenness
			}
			w.even("in the end", int(w.facts.Replicas))
		})
	}
}

// TestPlanUnrecorded: groups that the facts do not name yet are recorded with who votes now,
// and a cluster of one is not changed.
func TestPlanUnrecorded(t *testing.T) {
	w := newPlanWorld(t, 1, 3)
	w.join("")
	if n := w.plan(); n != eggs.Groups {
		t.Fatalf("%d groups recorded", n)
	}
	for _, g := range w.facts.Groups {
		if !slices.Equal(g.Voters, []uint64{1}) || g.Leader != 1 || len(g.Learners)+len(g.Leaving) > 0 {
			t.Fatalf("group %d: %v", g.Group, g)
		}
	}
}
