package client

import (
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// How long a disk is avoided after it failed. Longer and a disk that came
// back is not used; shorter and each stream finds out anew.
const (
	avoidUnreachable = 5 * time.Second  // its node restarts, or gossip says soon that it is dead
	avoidStalled     = 30 * time.Second // it hangs, which a restart does not heal
	avoidFull        = 60 * time.Second // room comes from collection
	avoidReading     = 5 * time.Second  // a rebuild costs D reads instead of one
)

// badDisks remembers which disks are avoided, and until when.
type badDisks struct {
	mu    sync.Mutex
	write map[eggs.DiskID]time.Time
	read  map[eggs.DiskID]time.Time
}

func mark(m *map[eggs.DiskID]time.Time, d eggs.DiskID, t time.Time) {
	if *m == nil {
		*m = make(map[eggs.DiskID]time.Time)
	}
	if (*m)[d].Before(t) {
		(*m)[d] = t
	}
}

// noWrite avoids a disk for new blocks.
func (b *badDisks) noWrite(d eggs.DiskID, err error) {
	keep := avoidUnreachable
	switch {
	case eggs.KindOf(err) == eggs.NoSpace:
		keep = avoidFull
	case eggs.KindOf(err) != eggs.Unavailable || stalled(err):
		keep = avoidStalled
	}
	b.mu.Lock()
	mark(&b.write, d, time.Now().Add(keep))
	b.mu.Unlock()
}

// noRead avoids a disk for reading, as long as there are enough others.
func (b *badDisks) noRead(d eggs.DiskID) {
	b.mu.Lock()
	mark(&b.read, d, time.Now().Add(avoidReading))
	b.mu.Unlock()
}

// answered ends the avoidance of a disk that was read from.
func (b *badDisks) answered(d eggs.DiskID) {
	b.mu.Lock()
	delete(b.read, d)
	b.mu.Unlock()
}

// unwritable lists the disks that new blocks avoid.
func (b *badDisks) unwritable() []eggs.DiskID {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []eggs.DiskID
	for d, t := range b.write {
		if time.Now().After(t) {
			delete(b.write, d)
			continue
		}
		out = append(out, d)
	}
	return out
}

// unreadable reports whether reads avoid a disk.
func (b *badDisks) unreadable(d eggs.DiskID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, ok := b.read[d]
	if ok && time.Now().After(t) {
		delete(b.read, d)
		return false
	}
	return ok
}

// avoidNode avoids all disks behind an address that does not answer: the
// next choice would only find the neighbours of the disk that failed.
func (c *Client) avoidNode(addr string) {
	pic := c.see()
	until := time.Now().Add(avoidUnreachable)
	c.bad.mu.Lock()
	defer c.bad.mu.Unlock()
	for id, d := range pic.disks {
		if n := pic.nodes[eggs.NodeID(d.Node)]; n != nil && n.Address == addr {
			mark(&c.bad.write, id, until)
			mark(&c.bad.read, id, until)
		}
	}
}

// reachable reports whether the picture says that a disk is served by a node that lives.
func (p *picture) reachable(d eggs.DiskID) bool {
	disk := p.disks[d]
	if disk == nil {
		return false
	}
	n := p.nodes[eggs.NodeID(disk.Node)]
	return n != nil && n.Alive
}

// certOf returns which disk a certificate is for.
func certOf(c *wire.Certificate) eggs.DiskID { return eggs.DiskID(c.Disk) }
