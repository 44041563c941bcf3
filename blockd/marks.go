package blockd

import (
	"errors"
	"fmt"
	"sync"

	"eggsfs/eggs"
)

// maxTombstones is how many tombstones a disk holds, about 40 MB of memory: an hour of
// erasing 250 blocks a second while one writer keeps its shard's mark down. More
// erases are refused with Kind Busy, which their collector repeats.
const maxTombstones = 1 << 20

// marks is what a disk knows of erased blocks: each shard's mark and the
// tombstones not below it.
type marks struct {
	mu     sync.RWMutex
	shards [eggs.Shards]shardMarks
	count  int // of all tombstones
}

type shardMarks struct {
	mark  uint64
	tombs map[eggs.BlockID]struct{} // some may be below the mark, until swept
	swept int                       // tombstones that the last sweep left
}

// refuse fails with Kind Stale if a block may not be written any more.
func (m *marks) refuse(id eggs.BlockID) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.refuseLocked(id)
}

func (m *marks) refuseLocked(id eggs.BlockID) error {
	s := &m.shards[id.Shard()]
	if uint64(id) < s.mark {
		return &eggs.Error{
			Op: "blockd.Put", Name: "block " + id.String(), Kind: eggs.Stale,
			Err: fmt.Errorf("below the mark %016x of shard %d: the write comes too late", s.mark, id.Shard()),
		}
	}
	if _, ok := s.tombs[id]; ok {
		return &eggs.Error{
			Op: "blockd.Put", Name: "block " + id.String(), Kind: eggs.Stale,
			Err: errors.New("it was erased: the write comes too late"),
		}
	}
	return nil
}

// unlessRefused calls f while no mark can rise and no tombstone appear.
func (m *marks) unlessRefused(id eggs.BlockID, f func() error) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.refuseLocked(id); err != nil {
		return err
	}
	return f()
}

// note takes a record in. It fails with Kind Busy when there are too many tombstones.
func (m *marks) note(r record, limit int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.shards[r.id.Shard()]
	s.mark = max(s.mark, r.mark)
	if r.kind != kindErased || uint64(r.id) < s.mark {
		return nil
	}
	if _, ok := s.tombs[r.id]; ok {
		return nil
	}
	if len(s.tombs) >= 2*s.swept+64 || m.count >= limit {
		m.sweep(s)
	}
	if m.count >= limit {
		return eggs.E("blockd.Erase", eggs.Busy, fmt.Sprintf(
			"%d erased blocks wait for their shards' marks to rise", m.count))
	}
	if s.tombs == nil {
		s.tombs = map[eggs.BlockID]struct{}{}
	}
	s.tombs[r.id] = struct{}{}
	m.count++
	return nil
}

// sweep drops tombstones below the mark.
func (m *marks) sweep(s *shardMarks) {
	for id := range s.tombs {
		if uint64(id) < s.mark {
			delete(s.tombs, id)
			m.count--
		}
	}
	s.swept = len(s.tombs)
}

// records returns what a fresh journal must hold.
func (m *marks) records() []record {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []record
	for i := range m.shards {
		s := &m.shards[i]
		m.sweep(s)
		if s.mark != 0 {
			out = append(out, record{kind: kindMark, id: eggs.BlockID(i), mark: s.mark})
		}
		for id := range s.tombs {
			out = append(out, record{kind: kindErased, id: id, mark: s.mark})
		}
	}
	return out
}
