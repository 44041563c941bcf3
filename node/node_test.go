package node

import (
	"fmt"
	"testing"

	"eggsfs/eggs"
	"eggsfs/raftshard"
	"eggsfs/wire"
)

func fakeRoutes(nodes, disks int) *wire.Routes {
	r := &wire.Routes{}
	for n := range uint64(nodes) {
		r.Nodes = append(r.Nodes, &wire.RouteNode{Id: n + 1, Alive: true})
		for d := range uint64(disks) {
			r.Disks = append(r.Disks, &wire.RouteDisk{
				Id: (n+1)*100 + d, Node: n + 1, Free: 1 << 40, Writable: true, Domain: fmt.Sprint("node", n+1),
			})
		}
	}
	return r
}

// TestChooseSpreads: the loss of one of three nodes must cost a 4+2 span two
// blocks at most, and no two blocks may share a disk, whatever chance says.
func TestChooseSpreads(t *testing.T) {
	r := &router{routes: fakeRoutes(3, 10)}
	for range 200 {
		disks, err := r.Choose(raftshard.BlockChoice{Parity: eggs.Parity{D: 4, P: 2}, BlockSize: 1 << 20})
		if err != nil || len(disks) != 6 {
			t.Fatalf("%v, %v", disks, err)
		}
		seen, domain := map[eggs.DiskID]bool{}, map[eggs.DiskID]int{}
		for _, d := range disks {
			if seen[d] {
				t.Fatalf("disk %s twice", d)
			}
			seen[d] = true
			if domain[d/100]++; domain[d/100] > 2 {
				t.Fatalf("node %d has three blocks of one span", d/100)
			}
		}
	}
}

// TestChooseLeavesOut: disks that are full, flagged, blacklisted or on a dead
// node are never chosen, and too few are NoSpace in words.
func TestChooseLeavesOut(t *testing.T) {
	routes := fakeRoutes(3, 2)
	routes.Nodes[0].Alive = false
	routes.Disks[2].Writable = false
	routes.Disks[3].Free = 10
	r := &router{routes: routes}
	want := raftshard.BlockChoice{Parity: eggs.Parity{D: 1, P: 1}, BlockSize: 4096}
	disks, err := r.Choose(want)
	if err != nil || len(disks) != 2 || disks[0]/100 != 3 || disks[1]/100 != 3 {
		t.Fatalf("%v, %v", disks, err)
	}
	want.Blacklist = disks[:1]
	if _, err := r.Choose(want); eggs.KindOf(err) != eggs.NoSpace {
		t.Fatalf("one disk for two blocks: %v", err)
	}
}

// TestValidate: what cannot work is refused in words before anything is touched.
func TestValidate(t *testing.T) {
	for _, c := range []struct {
		say string
		cfg Config
	}{
		{"no data folder", Config{}},
		{"an even number of replicas", Config{Data: "x", Replicas: 4}},
		{"a port out of range", Config{Data: "x", Listen: "127.0.0.1:70000"}},
		{"joining no host", Config{Data: "x", Join: []string{":3447"}}},
		{"too many disks", Config{Data: "x", BlockServices: 101}},
		{"an unknown TLS mode", Config{Data: "x", BlockTLS: "maybe"}},
	} {
		if err := c.cfg.Validate(); eggs.KindOf(err) != eggs.Invalid {
			t.Errorf("%s: %v", c.say, err)
		}
	}
}
