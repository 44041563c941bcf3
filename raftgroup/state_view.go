package raftgroup

import (
	"encoding/binary"
	"hash"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"eggsfs/eggs"
)

// castagnoli is the polynomial of every checksum in this room.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stateView reads a group's machine keys at one instant. Several goroutines may use it.
type stateView struct {
	s      *State
	src    stateSource
	prefix statePrefix
	closer io.Closer
	closed atomic.Bool
}

// newView takes a snapshot of the store. It is cheap, and must be closed soon: until then
// the store keeps what was overwritten since.
func (s *State) newView(id eggs.GroupID) *stateView {
	snap := s.db.NewSnapshot()
	return &stateView{s: s, src: snap, closer: snap, prefix: makePrefix(id, spaceMachine)}
}

func (v *stateView) Close() {
	if v.closed.Swap(true) {
		return
	}
	if err := v.closer.Close(); err != nil {
		v.s.die("raftgroup.View.Close", err)
	}
}

// viewKeys lends memory for full keys.
var viewKeys = sync.Pool{New: func() any { b := make([]byte, 0, 320); return &b }}

func (v *stateView) Get(key []byte) ([]byte, bool) {
	buf := viewKeys.Get().(*[]byte)
	*buf = append(append((*buf)[:0], v.prefix[:]...), key...)
	out, ok, err := sourceGet(v.src, *buf)
	viewKeys.Put(buf)
	if err != nil {
		v.s.die("raftgroup.View.Get", err)
	}
	return out, ok
}

func (v *stateView) Scan(lo, hi []byte, reverse bool, f func(k, v []byte) bool) {
	lower, upper := v.prefix.bounds(nil, nil, lo, hi)
	iter, err := v.src.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		v.s.die("raftgroup.View.Scan", err)
	}
	defer iter.Close() // its faults were asked for below
	valid, next := iter.First, iter.Next
	if reverse {
		valid, next = iter.Last, iter.Prev
	}
	for ok := valid(); ok; ok = next() {
		val, err := iter.ValueAndErr()
		if err != nil {
			v.s.die("raftgroup.View.Scan", err)
		}
		if !f(iter.Key()[len(v.prefix):], val) {
			return
		}
	}
	if err := iter.Error(); err != nil {
		v.s.die("raftgroup.View.Scan", err)
	}
}

// hashKeys returns the CRC32C of all keys and values that r has, each with its length before it.
func hashKeys(r Reader) uint32 {
	h := crc32.New(castagnoli)
	r.Scan(nil, nil, false, func(k, v []byte) bool {
		hashPair(h, k, v)
		return true
	})
	return h.Sum32()
}

func hashPair(h hash.Hash32, k, v []byte) {
	var lens [8]byte
	binary.BigEndian.PutUint32(lens[:], uint32(len(k)))
	binary.BigEndian.PutUint32(lens[4:], uint32(len(v)))
	h.Write(lens[:])
	h.Write(k)
	h.Write(v)
}
