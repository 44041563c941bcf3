package raftgroup

import (
	"sort"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// A group that nobody has written to for long has its last entries far back in the file, where
// they would hold everything that came after. A few entries of a group are written anew
// at the end instead. A group with more than this holds the file.
const (
	carryEntries = 64        // of one group
	carryBytes   = 256 << 10 // of one group; all 257 together stay below a commit's time-out
)

// logCut is a truncation of the whole file.
type logCut struct {
	tail    int64               // bytes to keep, whatever is needed
	durable [eggs.Groups]uint64 // up to which index each group's entries are in its state, durably
	freed   int64               // the answer: bytes
}

// groupCut is what a truncation does with one group.
type groupCut struct {
	oldest uint64     // sequence number of the oldest entry needed; 0: all of them are in the tail
	carry  []raft.Log // the entries needed, to be written anew; none: they stay where they are
}

// cut removes what no group needs any longer, and returns how many bytes that were.
func (l *Log) cut(c *logCut) (int64, error) {
	err := l.submit(&logWrite{cut: c})
	return c.freed, err
}

// cutNow runs in the committer, so nothing is appended meanwhile.
//
// An entry is needed from the index on up to which the group's state is durable. That entry
// itself counts, since raft asks for its term to append after it. The floor is the sequence
// number from which records count. It rises to the oldest entry needed, but for those carried to
// the end, and no further than leaves tail bytes. The carried entries, the terms and votes from
// below the floor come first, each group's in one frame of the journal, and the new floor with the
// last of them: before it all counts that did, after it nothing below does.
func (l *Log) cutNow(c *logCut) error {
	floor := min(l.sizes.tailFrom(c.tail), l.next)
	cuts, holder := make([]groupCut, len(l.groups)), eggs.GroupID(eggs.Groups)
	for i := range l.groups {
		var err error
		if cuts[i], err = l.groups[i].planCut(c.durable[i], floor); err != nil {
			return l.die("raftgroup.Log.truncate", err)
		}
		if at := cuts[i].oldest; at != 0 && at < floor && cuts[i].carry == nil {
			floor, holder = at, eggs.GroupID(i)
		}
	}
	if floor <= l.first {
		l.warnHeld(holder)
		return nil
	}
	before := l.sizes.total
	if err := l.carry(cuts, floor); err != nil {
		return err
	}
	for i := range cuts {
		l.groups[i].retake(cuts[i].carry, l)
		l.groups[i].raise(floor)
	}
	l.first = floor
	l.sizes.dropBelow(floor)
	l.bytes.Store(l.sizes.total)
	c.freed = before - l.sizes.total
	return nil
}

// carry writes what is needed from below the floor at the end of the log, and the floor.
func (l *Log) carry(cuts []groupCut, floor uint64) error {
	var recs []*raft.Log
	size := 0
	for i := range cuts {
		cut := &cuts[i]
		if cut.oldest >= floor {
			cut.carry = nil // the floor came down to below them
		}
		cut.carry = append(cut.carry, l.groups[i].stableBelow(floor)...)
		for j := range cut.carry {
			recs = append(recs, &cut.carry[j])
			size += recordSize(&cut.carry[j])
		}
		if size > logBatchBytes {
			if err := l.write(recs, l.first); err != nil {
				return err
			}
			recs, size = nil, 0
		}
	}
	return l.write(recs, floor)
}

// warnHeld says now and then that the log can't be truncated because of a group, one that
// applies nothing or waits for a snapshot.
func (l *Log) warnHeld(id eggs.GroupID) {
	if id < eggs.Groups && time.Since(l.warned) > time.Minute {
		l.warned = time.Now()
		l.log.Warn("a group holds the log: its entries are not applied", "group", id.String(),
			"bytes", l.bytes.Load())
	}
}

// planCut finds the oldest entry that the group needs, if it is below the floor, and reads
// what is to be carried.
func (g *GroupLog) planCut(durable, floor uint64) (groupCut, error) {
	g.mu.RLock()
	pos, first, last := g.pos, g.first, g.last()
	g.mu.RUnlock() // only the committer changes what pos holds
	if len(pos) == 0 || pos[0]>>1 >= floor {
		return groupCut{}, nil
	}
	keep := first + uint64(entriesBelow(pos, floor))
	index := max(min(durable, keep, last), first)
	c := groupCut{oldest: pos[index-first] >> 1}
	if c.oldest >= floor {
		return groupCut{}, nil
	}
	if last-index >= carryEntries {
		return c, nil
	}
	size := 0
	for i := index; i <= last; i++ {
		var r raft.Log
		if err := g.log.read(g.id, i, pos[i-first]>>1, &r); err != nil {
			return c, err
		}
		tagRecord(&r, recordEntry, g.id, i)
		if size += recordSize(&r); size > carryBytes {
			return groupCut{oldest: c.oldest}, nil
		}
		c.carry = append(c.carry, r)
	}
	return c, nil
}

// entriesBelow returns how many of the positions are below a sequence number.
func entriesBelow(pos []uint64, floor uint64) int {
	return sort.Search(len(pos), func(i int) bool { return pos[i]>>1 >= floor })
}

// stableBelow returns the term and the vote, tagged, if they are below the floor.
func (g *GroupLog) stableBelow(floor uint64) []raft.Log {
	g.mu.RLock()
	defer g.mu.RUnlock()
	var out []raft.Log
	if g.termSeq != 0 && g.termSeq < floor {
		r := raft.Log{Data: stableData(g.term, nil)}
		tagRecord(&r, recordStable, g.id, uint64(stableTerm))
		out = append(out, r)
	}
	if g.voteSeq != 0 && g.voteSeq < floor {
		r := raft.Log{Data: stableData(g.voteTerm, g.voteFor)}
		tagRecord(&r, recordStable, g.id, uint64(stableVote))
		out = append(out, r)
	}
	return out
}

// retake takes note of records that were written anew.
func (g *GroupLog) retake(carry []raft.Log, l *Log) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range carry {
		m := l.noted(&carry[i])
		g.replay(&m, carry[i].Index)
	}
}

// raise forgets the entries below the floor.
func (g *GroupLog) raise(floor uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dropBelow(entriesBelow(g.pos, floor))
}
