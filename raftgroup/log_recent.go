package raftgroup

import "github.com/hashicorp/raft"

// logRecent decides which groups forget their oldest recent entries, so that those of all
// groups together stay within a bound. It belongs to the committer.
type logRecent struct {
	fifo  []recentEntry // a ring
	head  int
	count int
	bytes int
}

type recentEntry struct {
	group *GroupLog
	index uint64
	size  int
}

// add takes note that the group keeps the entry, and lets older ones go.
func (r *logRecent) add(g *GroupLog, l *raft.Log) {
	if r.count == len(r.fifo) {
		bigger := make([]recentEntry, max(1024, 2*r.count))
		n := copy(bigger, r.fifo[r.head:])
		copy(bigger[n:], r.fifo[:r.head])
		r.fifo, r.head = bigger, 0
	}
	e := recentEntry{group: g, index: l.Index, size: recordSize(l)}
	r.fifo[(r.head+r.count)%len(r.fifo)] = e
	r.count++
	r.bytes += e.size
	for r.bytes > logRecentBytes {
		old := r.fifo[r.head]
		r.head = (r.head + 1) % len(r.fifo)
		r.count--
		r.bytes -= old.size
		old.group.forgetOldest(old.index)
	}
}

// remember keeps an entry that was just stored. It is for holders of mu.
func (g *GroupLog) remember(l *raft.Log) {
	if len(g.recent) == 0 || l.Index != g.recentFirst+uint64(len(g.recent)) {
		g.recent, g.recentFirst = g.recent[:0], l.Index
	}
	g.recent = append(g.recent, l)
}

// forgetFrom lets go of recent entries from index on. It is for holders of mu.
func (g *GroupLog) forgetFrom(index uint64) {
	if index < g.recentFirst {
		index = g.recentFirst
	}
	if n := index - g.recentFirst; n < uint64(len(g.recent)) {
		clear(g.recent[n:])
		g.recent = g.recent[:n]
	}
}

// forgetOldest lets go of the oldest recent entry, if it is the one at index. What was
// voided and stored again may be let go early; that costs a read.
func (g *GroupLog) forgetOldest(index uint64) {
	g.mu.Lock()
	if len(g.recent) > 0 && g.recentFirst == index {
		g.recent[0] = nil
		g.recent, g.recentFirst = g.recent[1:], index+1
	}
	if len(g.recent) == 0 {
		g.recent = nil
	}
	g.mu.Unlock()
}

// logSizes knows about how many bytes the records after a sequence number take.
type logSizes struct {
	base   uint64  // blocks[0] is of the sequences from base*sizeBlock on
	blocks []int64 // bytes
	total  int64
}

const sizeBlock = 64 // records: what truncation is exact to

func (s *logSizes) add(sequence uint64, size int) {
	if len(s.blocks) == 0 {
		s.base = sequence / sizeBlock
	}
	for sequence/sizeBlock >= s.base+uint64(len(s.blocks)) {
		s.blocks = append(s.blocks, 0)
	}
	s.blocks[sequence/sizeBlock-s.base] += int64(size)
	s.total += int64(size)
}

// dropBelow forgets the whole blocks below a sequence number.
func (s *logSizes) dropBelow(sequence uint64) {
	for len(s.blocks) > 1 && s.base < sequence/sizeBlock {
		s.total -= s.blocks[0]
		s.blocks = s.blocks[1:]
		s.base++
	}
}

// tailFrom returns the sequence number after which there are at most tail bytes.
func (s *logSizes) tailFrom(tail int64) uint64 {
	i, sum := len(s.blocks), int64(0)
	for i > 0 && sum+s.blocks[i-1] <= tail {
		i--
		sum += s.blocks[i]
	}
	return (s.base + uint64(i)) * sizeBlock
}
