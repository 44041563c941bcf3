package cdc

import (
	"encoding/binary"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// The first byte of a key says what it holds; doc.go has the whole table.
const (
	prefixState       = 0x01
	prefixTransaction = 0x02
	prefixParent      = 0x03
	prefixCluster     = 0x04
	prefixNode        = 0x05
	prefixDisk        = 0x06
	prefixGroup       = 0x07
	prefixSession     = 0x10
)

var (
	keyState   = []byte{prefixState}
	keyCluster = []byte{prefixCluster}
)

// key8 is a prefix and a number, high byte first, so that keys sort as numbers.
func key8(prefix byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefix}, n)
}

func keyTransaction(id uint64) []byte { return key8(prefixTransaction, id) }
func keyParent(dir uint64) []byte     { return key8(prefixParent, dir) }
func keyNode(id uint64) []byte        { return key8(prefixNode, id) }
func keyDisk(id uint64) []byte        { return key8(prefixDisk, id) }

func keyGroup(g uint32) []byte {
	return binary.BigEndian.AppendUint16([]byte{prefixGroup}, uint16(g))
}

// message is what a record is made of.
type message interface {
	MarshalVT() ([]byte, error)
	UnmarshalVT([]byte) error
}

// load reads a record into m, and reports whether it is there.
func load(r raftgroup.Reader, key []byte, m message) bool {
	v, ok := r.Get(key)
	if !ok {
		return false
	}
	decode(v, m)
	return true
}

// decode reads what store wrote. The store verifies its checksums, so bytes
// that are not a record mean a broken program: going on would spread the damage.
func decode(v []byte, m message) {
	if err := m.UnmarshalVT(v); err != nil {
		panic(&eggs.Error{Op: "cdc.decode", Kind: eggs.Corrupt, Err: err})
	}
}

func store(tx raftgroup.Tx, key []byte, m message) { tx.Set(key, encode(m)) }

// encode cannot fail on the messages of this room: names are bytes to the
// generated code, valid UTF-8 or not.
func encode(m message) []byte {
	b, err := m.MarshalVT()
	if err != nil {
		panic(&eggs.Error{Op: "cdc.encode", Kind: eggs.Corrupt, Err: err})
	}
	return b
}

// each calls f with every record under prefix, in increasing order of key.
func each(r raftgroup.Reader, prefix byte, f func(k, v []byte)) {
	r.Scan([]byte{prefix}, []byte{prefix + 1}, false, func(k, v []byte) bool {
		f(k, v)
		return true
	})
}

// parentOf answers the parent of a directory, as far as the parent map knows it.
func parentOf(r raftgroup.Reader, dir uint64) (uint64, bool) {
	v, ok := r.Get(keyParent(dir))
	if !ok || len(v) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(v), true
}

// known reports whether dir may be a living directory: the root, or one in the
// parent map. A directory enters the map before its inode is made and leaves
// it after it was removed, so what is not known is surely gone or never was.
func known(r raftgroup.Reader, dir uint64) bool {
	if dir == uint64(eggs.Root) {
		return true
	}
	_, ok := parentOf(r, dir)
	return ok
}

// loadState reads the state record, or that of an empty group.
func loadState(r raftgroup.Reader) *wire.CdcState {
	s := &wire.CdcState{
		Version:         formatVersion,
		NextTransaction: 1,
		NextDirectory:   eggs.Root.Number() + 1,
	}
	load(r, keyState, s)
	return s
}
