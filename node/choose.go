package node

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"eggsfs/eggs"
	"eggsfs/raftshard"
	"eggsfs/wire"
)

// What weighs how much when disks are chosen.
const (
	// fillBand is how much fuller than the emptiest a disk may be, as a part of its capacity, before
	// that counts: gossip tells of room late, and about so exactly.
	fillBand = 0.03
	// staySlack is how many bytes more a disk may have been given than others and still be
	// taken for a file that uses it already.
	staySlack = 8 << 20
)

// given is how many bytes this node has sent to each disk since it started. It
// knows at once what gossip tells later, and tells apart disks that share one file system.
type given struct {
	mu    sync.Mutex
	bytes map[eggs.DiskID]uint64
}

// Choose picks a disk for each block of a span, from the picture that this
// node has now: distinct disks, the failure domains used as evenly as they can
// be, so that the loss of one costs the fewest blocks; where the span has
// blocks already (Apart) counts as used. Within that, the disks that are filled
// least, so that all end equally full; disks that the file uses already are
// favoured a little, since the loss of several disks then hits fewer files.
// It fails with Kind NoSpace when there are too few disks.
//
// It implements raftshard.Blocks and runs at prepare only.
func (r *router) Choose(want raftshard.BlockChoice) ([]eggs.DiskID, error) {
	r.given.mu.Lock()
	defer r.given.mu.Unlock()
	need := want.Parity.Blocks()
	domains, total := r.given.candidates(r.Routes(), want)
	limit := perDomain(domains, need)
	if limit == 0 {
		return nil, eggs.E("node.Choose", eggs.NoSpace, fmt.Sprintf(
			"a span of %s needs %d disks with room for %d bytes each, there are %d",
			want.Parity, need, want.BlockSize, total))
	}
	out := pick(domains, limit, need)
	for _, d := range out {
		if r.given.bytes == nil {
			r.given.bytes = make(map[eggs.DiskID]uint64)
		}
		r.given.bytes[d] += uint64(want.BlockSize)
	}
	return out, nil
}

// candidate is a disk that a block may go to.
type candidate struct {
	id    eggs.DiskID
	score float64 // the least first: how full it is, as a part of its capacity
}

// domain is the disks of one failure domain that can take a block.
type domain struct {
	used  int // blocks of the span that are there already
	disks []candidate
}

// candidates groups the disks that can take a block by failure domain, and counts them.
func (g *given) candidates(routes *wire.Routes, want raftshard.BlockChoice) (map[string]*domain, int) {
	domains := map[string]*domain{}
	alive := map[uint64]bool{}
	for _, n := range routes.GetNodes() {
		alive[n.Id] = n.Alive
	}
	least, total := 1.0, 0
	var can []*wire.RouteDisk
	for _, d := range routes.GetDisks() {
		id := eggs.DiskID(d.Id)
		in := domains[d.Domain]
		if in == nil {
			in = &domain{}
			domains[d.Domain] = in
		}
		if slices.Contains(want.Apart, id) {
			in.used++
			continue
		}
		if !d.Writable || !alive[d.Node] || d.Free < uint64(want.BlockSize) ||
			want.Class != eggs.ClassAny && uint8(d.Class) != want.Class ||
			slices.Contains(want.Blacklist, id) {
			continue
		}
		can = append(can, d)
		least = min(least, full(d))
	}
	for _, d := range can {
		id, size := eggs.DiskID(d.Id), float64(max(d.Capacity, d.Free, 1))
		score := max(0, full(d)-least-fillBand) + float64(g.bytes[id])/size
		// A little chance, so that nodes that know the same do not all take the same disk.
		score += rand.Float64() * float64(want.BlockSize) / 4 / size
		if slices.Contains(want.Prefer, id) {
			score -= staySlack / size
		}
		domains[d.Domain].disks = append(domains[d.Domain].disks, candidate{id, score})
		total++
	}
	return domains, total
}

// full is the part of a disk that is in use, as gossip knows.
func full(d *wire.RouteDisk) float64 {
	return 1 - float64(d.Free)/float64(max(d.Capacity, d.Free, 1))
}

// perDomain returns the fewest blocks of the span that one domain must hold so that all
// find a place, 0 when they do not.
func perDomain(domains map[string]*domain, need int) int {
	most := 0
	for _, d := range domains {
		most = max(most, d.used+len(d.disks))
	}
	for limit := 1; limit <= most; limit++ {
		room := 0
		for _, d := range domains {
			room += min(max(0, limit-d.used), len(d.disks))
		}
		if room >= need {
			return limit
		}
	}
	return 0
}

// pick fills every domain up to limit, the emptiest disks first, and drops from
// the fullest domains what is too much; then it shuffles, so that data and
// parity fall everywhere.
func pick(domains map[string]*domain, limit, need int) []eggs.DiskID {
	type choice struct {
		candidate
		round int // the domain's n-th block of the span
	}
	var all []choice
	for _, d := range domains {
		slices.SortFunc(d.disks, func(a, b candidate) int { return cmp.Compare(a.score, b.score) })
		for i, c := range d.disks[:min(max(0, limit-d.used), len(d.disks))] {
			all = append(all, choice{c, d.used + i})
		}
	}
	slices.SortFunc(all, func(a, b choice) int {
		return cmp.Or(cmp.Compare(a.round, b.round), cmp.Compare(a.score, b.score))
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
