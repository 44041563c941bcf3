package raftgroup

import "eggsfs/eggs"

// Machine is the state machine that a group replicates. Its state is the keys
// that it writes through Tx and nothing else; whatever it keeps in memory is a
// cache of them.
//
// Apply is called on every replica with the same entries in the same order. It
// must depend on nothing but the entry and what it reads through tx. It cannot
// fail: a refused request is a result that it returns after tx.Rollback.
type Machine interface {
	// Apply runs one entry. What it returns goes to the Propose that waits on
	// this node, if there is one. It is never called concurrently for one group.
	Apply(tx Tx, e Entry) any

	// Restored tells that the state behind r replaced all that was known: at
	// start, and after a snapshot was installed. The machine drops its caches.
	Restored(r Reader)
}

// Entry is one committed entry of a group's log.
type Entry struct {
	Group eggs.GroupID
	Index uint64
	Term  uint64
	Data  []byte // as proposed; must not be kept or changed
}

// Reader reads a group's state. Keys are the machine's own: the group's prefix
// is added below. A fault of the store (a checksum, a read error) does not
// return: it ends the node's service with Kind Corrupt, naming the store.
type Reader interface {
	// Get returns a copy of the value, or false.
	Get(key []byte) ([]byte, bool)

	// Scan calls f for the keys in [lo, hi) in increasing order, or decreasing
	// when reverse, until f returns false. k and v are valid during the call only. A nil hi
	// means no upper bound. f must not write to the same Tx.
	Scan(lo, hi []byte, reverse bool, f func(k, v []byte) bool)
}

// Tx is what Apply works on. It sees its own writes and those of earlier
// entries. Everything an entry wrote is kept or, after Rollback, forgotten,
// whole. key and value may be reused by the caller after the call.
type Tx interface {
	Reader
	Set(key, value []byte)
	Delete(key []byte)

	// Rollback forgets what this entry wrote so far. Writing may go on.
	Rollback()
}

// View is a Reader of one instant, to be closed.
type View interface {
	Reader
	Close()
}
