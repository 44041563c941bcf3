package raftgroup

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"eggsfs/eggs"
)

// The spaces of a group's keys: the byte after the group's number.
const (
	spaceMeta    = 0 // one key: applied index, term, configuration
	spaceMachine = 1 // the machine's keys
	spaceInstall = 2 // one key: the snapshot that is being installed
	spaceEnd     = 3
)

// statePrefix is what a group's key in one of the spaces begins with: the group, big end first,
// and the space.
type statePrefix [3]byte

func makePrefix(id eggs.GroupID, space byte) statePrefix {
	var p statePrefix
	binary.BigEndian.PutUint16(p[:], uint16(id))
	p[2] = space
	return p
}

// next returns the first key after all keys with this prefix.
func (p statePrefix) next() statePrefix {
	p[2]++ // spaces end far below 255
	return p
}

// stateSource is what the DB and its snapshots have in common.
type stateSource interface {
	Get(key []byte) ([]byte, io.Closer, error)
	NewIter(o *pebble.IterOptions) (*pebble.Iterator, error)
}

// sourceGet returns a copy of the value of the full key.
func sourceGet(src stateSource, key []byte) ([]byte, bool, error) {
	v, closer, err := src.Get(key)
	if err == pebble.ErrNotFound {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	out := append(make([]byte, 0, len(v)), v...)
	return out, true, closer.Close()
}

// stateTx is the Tx of one batch of entries of one group: the overlay over the store. One
// goroutine uses it.
type stateTx struct {
	s      *State
	prefix statePrefix
	over   stateOverlay
	key    []byte           // scratch: a full key
	lo, hi []byte           // scratch: bounds
	iter   *pebble.Iterator // kept from scan to scan: the store below does not change
	inUse  bool             // iter is in a scan whose callback may scan again
}

func (t *stateTx) begin(s *State, id eggs.GroupID) {
	t.s, t.prefix = s, makePrefix(id, spaceMachine)
	t.over.reset()
}

// end lets go of the store.
func (t *stateTx) end() {
	if t.iter != nil {
		if err := t.iter.Close(); err != nil {
			t.iter = nil
			t.s.die("raftgroup.Tx.Scan", err)
		}
	}
	t.iter, t.inUse, t.s = nil, false, nil
}

func (t *stateTx) Set(key, value []byte) { t.over.put(key, value, overlaySet) }
func (t *stateTx) Delete(key []byte)     { t.over.put(key, nil, overlayDeleted) }
func (t *stateTx) Rollback()             { t.over.rollback() }

func (t *stateTx) Get(key []byte) ([]byte, bool) {
	switch v, state := t.over.get(key); state {
	case overlaySet:
		return append(make([]byte, 0, len(v)), v...), true
	case overlayDeleted:
		return nil, false
	}
	t.key = append(append(t.key[:0], t.prefix[:]...), key...)
	v, ok, err := sourceGet(t.s.db, t.key)
	if err != nil {
		t.s.die("raftgroup.Tx.Get", err)
	}
	return v, ok
}

func (t *stateTx) Scan(lo, hi []byte, reverse bool, f func(k, v []byte) bool) {
	over := t.over.within(lo, hi)
	iter, shared := t.scanIter(lo, hi)
	if shared {
		t.inUse = true
		defer func() { t.inUse = false }()
	} else {
		defer iter.Close() // its faults were asked for by merge
	}
	m := stateMerge{tx: t, iter: iter, over: over, reverse: reverse}
	if err := m.run(f); err != nil {
		t.s.die("raftgroup.Tx.Scan", err)
	}
}

// scanIter returns an iterator over [lo, hi) of the store, and whether it is the Tx's own.
func (t *stateTx) scanIter(lo, hi []byte) (*pebble.Iterator, bool) {
	t.lo, t.hi = t.prefix.bounds(t.lo, t.hi, lo, hi)
	if t.iter != nil && !t.inUse {
		t.iter.SetBounds(t.lo, t.hi)
		return t.iter, true
	}
	iter, err := t.s.db.NewIter(&pebble.IterOptions{LowerBound: t.lo, UpperBound: t.hi})
	if err != nil {
		t.s.die("raftgroup.Tx.Scan", err)
	}
	if t.inUse {
		return iter, false
	}
	t.iter = iter
	return iter, true
}

// bounds makes the full keys of a range, in the memory of its first two arguments.
func (p statePrefix) bounds(lower, upper, lo, hi []byte) ([]byte, []byte) {
	lower = append(append(lower[:0], p[:]...), lo...)
	if hi == nil {
		end := p.next()
		return lower, append(upper[:0], end[:]...)
	}
	return lower, append(append(upper[:0], p[:]...), hi...)
}

// stateMerge walks over the store and the overlay at once.
type stateMerge struct {
	tx      *stateTx
	iter    *pebble.Iterator
	over    []uint32 // positions of ops, by key; eaten from the end that comes first
	reverse bool
}

func (m *stateMerge) run(f func(k, v []byte) bool) error {
	valid := m.first()
	for valid || len(m.over) > 0 {
		var op *overlayOp
		if len(m.over) > 0 {
			op = m.head()
		}
		if op != nil && op.state == overlayNone {
			m.pop()
			continue
		}
		order := -1 // below 0: the store's key is next; 0: both have it
		if op != nil {
			order = 1
			if valid {
				order = bytes.Compare(m.iter.Key()[len(m.tx.prefix):], op.key)
				if m.reverse {
					order = -order
				}
			}
		}
		if order < 0 {
			v, err := m.iter.ValueAndErr()
			if err != nil {
				return err
			}
			if !f(m.iter.Key()[len(m.tx.prefix):], v) {
				return nil
			}
			valid = m.next()
			continue
		}
		m.pop()
		if order == 0 {
			valid = m.next()
		}
		if op.state == overlaySet && !f(op.key, op.value) {
			return nil
		}
	}
	return m.iter.Error()
}

func (m *stateMerge) first() bool {
	if m.reverse {
		return m.iter.Last()
	}
	return m.iter.First()
}

func (m *stateMerge) next() bool {
	if m.reverse {
		return m.iter.Prev()
	}
	return m.iter.Next()
}

func (m *stateMerge) head() *overlayOp {
	if m.reverse {
		return &m.tx.over.ops[m.over[len(m.over)-1]]
	}
	return &m.tx.over.ops[m.over[0]]
}

func (m *stateMerge) pop() {
	if m.reverse {
		m.over = m.over[:len(m.over)-1]
	} else {
		m.over = m.over[1:]
	}
}
