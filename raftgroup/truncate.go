package raftgroup

import (
	"fmt"

	"eggsfs/eggs"
)

// The default limits of the log.
const (
	// TruncateLimit is how many bytes the log may have before it is truncated: what a start has to
	// read, at about 200 MB/s. More makes truncations rarer.
	TruncateLimit = 64 << 20

	// TruncateTail is how many of them stay. What a follower misses while it restarts
	// should be among them, or each of its groups costs a snapshot.
	TruncateTail = 24 << 20
)

// TruncateLimits says when to truncate the log, and how far. A zero field means the default.
type TruncateLimits struct {
	Limit int64 // bytes
	Tail  int64 // bytes
}

// MaybeTruncate truncates the logs of all groups if they have become too long, and returns how
// many bytes that freed. A node calls it every second or so; when there is nothing to do it
// costs nothing.
//
// Why no acknowledged change is lost: an entry may go once its effect is durable in the state
// store. The applied index of a group is written in the same batch as the effects of the entries
// up to it, batches become durable in their order, and an index is read here before the flush
// begins. So when the flush has ended, each index read is durable with all that it covers, and
// entries below it are needed neither for a replay nor, since raft starts at the stored index,
// by raft. A group in the middle of installing a snapshot gives 0: its index says nothing.
//
// raft is not asked to take snapshots. It would refuse for a group that applied nothing since
// the start, and that group's old entries would hold the file. It does not mind: if it misses an
// entry that a follower needs, it sends the store as a snapshot. For the same reason raft's own
// snapshots can stay off (SnapshotThreshold and SnapshotInterval at their greatest).
func MaybeTruncate(l *Log, s *State, limits TruncateLimits) (int64, error) {
	if limits.Limit == 0 {
		limits.Limit = TruncateLimit
	}
	if limits.Tail == 0 {
		limits.Tail = TruncateTail
	}
	if l.Bytes() <= limits.Limit {
		return 0, nil
	}
	c := &logCut{tail: limits.Tail}
	for i := range c.durable {
		var err error
		if c.durable[i], err = s.replayFrom(eggs.GroupID(i)); err != nil {
			return 0, err
		}
	}
	if err := s.Flush(); err != nil {
		return 0, err
	}
	return l.cut(c)
}

// replayFrom returns the index that the next flush makes durable for the group, 0 if it
// is being replaced by a snapshot.
func (s *State) replayFrom(id eggs.GroupID) (uint64, error) {
	mark := makePrefix(id, spaceInstall)
	_, marked, err := sourceGet(s.db, mark[:])
	if err != nil || marked {
		return 0, err
	}
	m, err := s.readMetaFrom(s.db, id)
	if err != nil {
		return 0, err
	}
	return m.index, nil
}

// Attach joins the group's state to its log, before raft starts: the log settles on what the
// state holds, and does so again whenever a snapshot is installed.
//
// It fails with Kind Corrupt if entries are missing between the state and the log. That is so
// when the state store was lost or replaced by an older one: the group can't go on here.
func (g *GroupState) Attach(l *GroupLog) error {
	first, err := l.FirstIndex()
	if err != nil {
		return err
	}
	m := g.meta.Load()
	if first > m.index+1 {
		return &eggs.Error{
			Op: "raftgroup.GroupState.Attach", Name: g.s.dir, Kind: eggs.Corrupt,
			Err: fmt.Errorf("group %v: the state ends at index %d and the log begins at %d", g.id,
				m.index, first),
		}
	}
	g.log = l
	return l.Settle(m.index, m.term)
}
