package node

import (
	"math/rand/v2"
	"testing"

	"eggsfs/eggs"
	"eggsfs/raftshard"
	"eggsfs/upkeep"
)

// TestChooseEven: after 20 GiB, chosen by three leaders that hear nothing new of each other, all
// disks are filled within 10 % of each other, though the disks share a file system
// and their room says nothing, and though files favour the disks that they have.
func TestChooseEven(t *testing.T) {
	for _, blocks := range []uint32{1 << 20, 16 << 20} {
		var leaders []*router
		for range 3 {
			r := &router{routes: fakeRoutes(5, 10)}
			for _, d := range r.routes.Disks {
				d.Capacity, d.Free = 1<<40, 1<<39
			}
			leaders = append(leaders, r)
		}
		used := map[eggs.DiskID]uint64{}
		prefer := make([][]eggs.DiskID, 40)
		for n := uint64(0); n < 20<<30; n += 4 * uint64(blocks) {
			f := rand.IntN(len(prefer))
			disks, err := leaders[f%3].Choose(raftshard.BlockChoice{
				Parity: eggs.Parity{D: 4, P: 2}, BlockSize: blocks, Prefer: prefer[f],
			})
			if err != nil {
				t.Fatal(err)
			}
			prefer[f] = disks
			for _, d := range disks {
				used[d] += uint64(blocks)
			}
		}
		least, most := uint64(1<<62), uint64(0)
		for _, d := range leaders[0].routes.Disks {
			n := used[eggs.DiskID(d.Id)]
			least, most = min(least, n), max(most, n)
		}
		if float64(most) > 1.1*float64(least) {
			t.Errorf("blocks of %d: from %d to %d MiB on a disk", blocks, least>>20, most>>20)
		}
	}
}

// TestChooseApart: a repaired block goes where its span has fewest, never to a disk that the span
// has, and never to a domain that it has while there are others; but where
// there is no other place, there.
func TestChooseApart(t *testing.T) {
	r := &router{routes: fakeRoutes(5, 3)}
	want := raftshard.BlockChoice{
		Parity: eggs.Parity{D: 1}, BlockSize: 4096, Apart: []eggs.DiskID{100, 200, 301},
	}
	for range 100 {
		disks, err := r.Choose(want)
		if err != nil || disks[0] < 400 {
			t.Fatalf("%v, %v", disks, err)
		}
	}
	want.Apart = append(want.Apart, 400, 500, 101)
	for range 100 {
		disks, err := r.Choose(want)
		if err != nil || disks[0]/100 == 1 {
			t.Fatalf("domain 1 has two blocks already: %v, %v", disks, err)
		}
		for _, d := range want.Apart {
			if disks[0] == d {
				t.Fatalf("disk %d has one of the span's blocks already", d)
			}
		}
	}
	r.routes = fakeRoutes(2, 2)
	want.Apart = []eggs.DiskID{100, 101, 200}
	if disks, err := r.Choose(want); err != nil || disks[0] != 201 {
		t.Fatalf("the last disk: %v, %v", disks, err)
	}
}

// TestChooseFill: disks that are emptier by more than gossip's error get the blocks.
func TestChooseFill(t *testing.T) {
	r := &router{routes: fakeRoutes(3, 2)}
	for i, d := range r.routes.Disks {
		d.Capacity, d.Free = 1<<40, 1<<38
		if i%2 == 1 {
			d.Free = 3 << 38
		}
	}
	for range 50 {
		disks, err := r.Choose(raftshard.BlockChoice{Parity: eggs.Parity{D: 2, P: 1}, BlockSize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range disks {
			if d%100 != 1 {
				t.Fatalf("%v: a fuller disk was taken", disks)
			}
		}
	}
}

// TestChooseAsSpreadWants: where a new span's blocks go is never what the repairer would call
// crowded, or every new file would be moved.
func TestChooseAsSpreadWants(t *testing.T) {
	for range 300 {
		r := &router{routes: fakeRoutes(1+rand.IntN(7), 1+rand.IntN(5))}
		room := map[string]int{}
		domain := map[eggs.DiskID]string{}
		for _, d := range r.routes.Disks {
			d.Writable = rand.IntN(4) > 0
			domain[eggs.DiskID(d.Id)] = d.Domain
			if d.Writable {
				room[d.Domain]++
			}
		}
		p := eggs.Parity{D: uint8(1 + rand.IntN(6)), P: uint8(rand.IntN(4))}
		disks, err := r.Choose(raftshard.BlockChoice{Parity: p, BlockSize: 4096})
		if err != nil {
			if eggs.KindOf(err) != eggs.NoSpace {
				t.Fatal(err)
			}
			continue
		}
		counts, most := map[string]int{}, 0
		for _, d := range disks {
			counts[domain[d]]++
			most = max(most, counts[domain[d]])
		}
		if fewest := upkeep.FewestPerDomain(room, p.Blocks()); most != fewest {
			t.Fatalf("%s over %v: %d in a domain, %d would do", p, room, most, fewest)
		}
	}
}
