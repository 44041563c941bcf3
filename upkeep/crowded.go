package upkeep

import (
	"slices"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// maxAvoid is how many disks are refused at most when a block is moved; a shard takes 1024.
const maxAvoid = 1000

// Ground is which disks can take blocks, in one picture of the cluster.
type Ground struct {
	disks map[eggs.DiskID]*wire.RouteDisk
	alive map[uint64]bool   // nodes
	open  []*wire.RouteDisk // that can take blocks
}

// GroundOf reads a picture, which is not changed.
func GroundOf(r *wire.Routes) *Ground {
	g := &Ground{disks: make(map[eggs.DiskID]*wire.RouteDisk), alive: make(map[uint64]bool)}
	for _, n := range r.GetNodes() {
		g.alive[n.Id] = n.Alive
	}
	for _, d := range r.GetDisks() {
		g.disks[eggs.DiskID(d.Id)] = d
		if d.Writable && g.alive[d.Node] {
			g.open = append(g.open, d)
		}
	}
	return g
}

// domains counts the disks that can take blocks by failure domain.
func (g *Ground) domains() map[string]int {
	out := make(map[string]int)
	for _, d := range g.open {
		out[d.Domain]++
	}
	return out
}

// domainOf names the domain of a block; a disk that nobody has seen is one of its own.
func (g *Ground) domainOf(b *wire.Certificate) string {
	if d := g.disks[eggs.DiskID(b.Disk)]; d != nil {
		return d.Domain
	}
	return "disk " + eggs.DiskID(b.Disk).String()
}

// Crowded reports whether a failure domain holds more blocks of a span than it must: the
// domains that can take blocks now have room for fewer in each.
func (g *Ground) Crowded(s *client.BlockSpan) bool {
	counts, fewest := g.weigh(s)
	for _, n := range counts {
		if n > fewest {
			return true
		}
	}
	return false
}

// weigh counts a span's blocks by domain, and says how many one domain must hold at least.
func (g *Ground) weigh(s *client.BlockSpan) (counts map[string]int, fewest int) {
	counts = make(map[string]int)
	most := 0
	for _, b := range s.Blocks {
		d := g.domainOf(b)
		counts[d]++
		most = max(most, counts[d])
	}
	if most <= 1 {
		return counts, 1
	}
	room := make(map[string]int) // blocks that a domain has or could take
	for d, n := range counts {
		room[d] = n
	}
	for _, d := range g.open {
		if g.takes(d, s) {
			room[d.Domain]++
		}
	}
	return counts, FewestPerDomain(room, len(s.Blocks))
}

// takes reports whether a disk could have one more block of a span.
func (g *Ground) takes(d *wire.RouteDisk, s *client.BlockSpan) bool {
	return d.Free >= uint64(s.BlockSize()) && (s.Class() == eggs.ClassAny || uint8(d.Class) == s.Class()) &&
		!slices.ContainsFunc(s.Blocks, func(b *wire.Certificate) bool { return b.Disk == d.Id })
}

// FewestPerDomain is the fewest blocks of need that one domain must hold so that all find a
// place, by the number of disks that each domain has for them: what a new span's disks are
// chosen by. It is need when there are too few disks.
func FewestPerDomain(room map[string]int, need int) int {
	for limit := 1; limit < need; limit++ {
		sum := 0
		for _, n := range room {
			sum += min(limit, n)
		}
		if sum >= need {
			return limit
		}
	}
	return need
}

// move is a block that is to leave a crowded domain.
type move struct {
	at    int           // its position
	from  string        // the domain
	count int           // blocks of the span there
	avoid []eggs.DiskID // where it would make nothing better
}

// move picks the block that is to go next: of the fullest domain, always the same one, so that
// two that repair at the same time want the same and one of them is refused. ok is false
// when nothing is to gain, or the crowded domains are out of reach: an outage moves nothing.
func (g *Ground) move(s *client.BlockSpan) (m move, ok bool) {
	counts, fewest := g.weigh(s)
	for i, b := range s.Blocks {
		d := g.disks[eggs.DiskID(b.Disk)]
		if d == nil || !g.alive[d.Node] {
			continue
		}
		n := counts[d.Domain]
		if n > fewest && (n > m.count || n == m.count && d.Domain < m.from) {
			m = move{at: i, from: d.Domain, count: n}
		}
	}
	if m.count == 0 {
		return m, false
	}
	for _, d := range g.open {
		full := counts[d.Domain] >= fewest
		if full && len(m.avoid) < maxAvoid && g.takes(d, s) {
			m.avoid = append(m.avoid, eggs.DiskID(d.Id))
		}
		ok = ok || !full && g.takes(d, s)
	}
	return m, ok
}
