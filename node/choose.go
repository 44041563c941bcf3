package node

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"eggsfs/eggs"
	"eggsfs/raftshard"
	"eggsfs/wire"
)

// Choose picks a disk for each block of a span, from the picture that this
// node has now: distinct disks, the failure domains used as evenly as they can
// be, so that the loss of one costs the fewest blocks; the disks that the file
// uses already first, since the loss of several disks then hits fewer files;
// the rest by chance, weighted by free room, so that shards do not flock to
// one disk. It fails with Kind NoSpace when there are too few disks.
//
// It implements raftshard.Blocks and runs at prepare only.
func (r *router) Choose(want raftshard.BlockChoice) ([]eggs.DiskID, error) {
	need := want.Parity.Blocks()
	domains := candidates(r.Routes(), want)
	limit, total := perDomain(domains, need)
	if limit == 0 {
		return nil, eggs.E("node.Choose", eggs.NoSpace, fmt.Sprintf(
			"a span of %s needs %d disks with room for %d bytes each, there are %d",
			want.Parity, need, want.BlockSize, total))
	}
	return pick(domains, limit, need, want.Prefer), nil
}

// candidate is a disk that a block may go to.
type candidate struct {
	id   eggs.DiskID
	draw float64 // order of the lottery: least first
}

// candidates groups the disks that can take a block by failure domain.
func candidates(routes *wire.Routes, want raftshard.BlockChoice) map[string][]candidate {
	domains := map[string][]candidate{}
	alive := map[uint64]bool{}
	for _, n := range routes.GetNodes() {
		alive[n.Id] = n.Alive
	}
	for _, d := range routes.GetDisks() {
		id := eggs.DiskID(d.Id)
		if !d.Writable || !alive[d.Node] || d.Free < uint64(want.BlockSize) ||
			want.Class != eggs.ClassAny && uint8(d.Class) != want.Class ||
			slices.Contains(want.Blacklist, id) {
			continue
		}
		// The disk that draws the least of -ln(u)/weight wins: a weighted
		// draw without replacement (Efraimidis and Spirakis).
		draw := -math.Log(1-rand.Float64()) / float64(d.Free)
		domains[d.Domain] = append(domains[d.Domain], candidate{id, draw})
	}
	return domains
}

// perDomain returns the fewest blocks that one domain must take so that all
// find a place, 0 when they do not, and how many disks there are.
func perDomain(domains map[string][]candidate, need int) (limit, total int) {
	most := 0
	for _, d := range domains {
		total += len(d)
		most = max(most, len(d))
	}
	for limit := 1; limit <= most; limit++ {
		room := 0
		for _, d := range domains {
			room += min(limit, len(d))
		}
		if room >= need {
			return limit, total
		}
	}
	return 0, total
}

// pick fills every domain up to limit, preferred disks first, and drops from
// the fullest domains what is too much; then it shuffles, so that data and
// parity fall everywhere.
func pick(domains map[string][]candidate, limit, need int, prefer []eggs.DiskID) []eggs.DiskID {
	type choice struct {
		candidate
		round int // the domain's n-th disk
	}
	var all []choice
	for _, disks := range domains {
		slices.SortFunc(disks, func(a, b candidate) int {
			pa, pb := slices.Contains(prefer, a.id), slices.Contains(prefer, b.id)
			if pa != pb {
				if pa {
					return -1
				}
				return 1
			}
			return cmp.Compare(a.draw, b.draw)
		})
		for i, c := range disks[:min(limit, len(disks))] {
			all = append(all, choice{c, i})
		}
	}
	slices.SortFunc(all, func(a, b choice) int {
		return cmp.Or(cmp.Compare(a.round, b.round), cmp.Compare(a.draw, b.draw))
	})
	out := make([]eggs.DiskID, 0, need)
	for _, c := range all[:need] {
		out = append(out, c.id)
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// Retired reports whether the durable facts, as this node has them, say that a disk is
// retired, which is for ever. It implements raftshard.Blocks.
func (r *router) Retired(d eggs.DiskID) bool {
	f := factOfDisk(r.Facts(), uint64(d))
	return f != nil && f.Retired
}
