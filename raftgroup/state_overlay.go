package raftgroup

import (
	"bytes"
	"hash/maphash"
	"slices"
)

// overlayState says what an overlay knows of a key.
type overlayState uint8

const (
	overlayNone    overlayState = iota // nothing: a rollback took it back; ask the store
	overlaySet                         // the overlay has its value
	overlayDeleted                     // it is gone
)

// stateOverlay holds what the entries of one batch wrote and the store does not know
// yet. It keeps a journal of what the running entry replaced, so that the
// entry can be taken back whole. It is reused from batch to batch.
type stateOverlay struct {
	ops   []overlayOp
	slots []uint32 // open addressing by hash: 1 + a position in ops, 0 is free
	seed  maphash.Seed
	undo  []overlayUndo // of the running entry
	order []uint32      // positions in ops by key; ops beyond len(order) are not in it yet
	arena stateArena
}

type overlayOp struct {
	key, value []byte
	state      overlayState
}

type overlayUndo struct {
	op    uint32
	value []byte
	state overlayState
}

// overlaySlots is where the table begins; a power of two. Most batches write fewer keys.
const overlaySlots = 256

// reset forgets everything and keeps the memory.
func (o *stateOverlay) reset() {
	if o.slots == nil {
		o.seed = maphash.MakeSeed()
		o.slots = make([]uint32, overlaySlots)
	}
	if len(o.slots) > 64*overlaySlots { // one huge batch must not make every later reset slow
		o.slots = make([]uint32, overlaySlots)
		o.ops, o.order, o.undo = nil, nil, nil
	}
	clear(o.slots)
	clear(o.ops) // lets go of big values
	clear(o.undo)
	o.ops, o.order, o.undo = o.ops[:0], o.order[:0], o.undo[:0]
	o.arena.reset()
}

// find returns the position of key in ops, or the free slot for it and false.
func (o *stateOverlay) find(key []byte) (int, bool) {
	mask := uint64(len(o.slots) - 1)
	for h := maphash.Bytes(o.seed, key); ; h++ {
		slot := o.slots[h&mask]
		if slot == 0 {
			return int(h & mask), false
		}
		if bytes.Equal(o.ops[slot-1].key, key) {
			return int(slot - 1), true
		}
	}
}

// get returns what the overlay knows of key.
func (o *stateOverlay) get(key []byte) ([]byte, overlayState) {
	if len(o.ops) == 0 {
		return nil, overlayNone
	}
	if i, ok := o.find(key); ok {
		return o.ops[i].value, o.ops[i].state
	}
	return nil, overlayNone
}

// put records that the running entry wrote or deleted key.
func (o *stateOverlay) put(key, value []byte, state overlayState) {
	i, ok := o.find(key)
	if !ok {
		if 2*(len(o.ops)+1) > len(o.slots) {
			o.grow()
			i, _ = o.find(key)
		}
		o.ops = append(o.ops, overlayOp{key: o.arena.copy(key)})
		o.slots[i] = uint32(len(o.ops))
		i = len(o.ops) - 1
	}
	op := &o.ops[i]
	o.undo = append(o.undo, overlayUndo{op: uint32(i), value: op.value, state: op.state})
	op.value, op.state = nil, state
	if state == overlaySet {
		op.value = o.arena.copy(value)
	}
}

func (o *stateOverlay) grow() {
	o.slots = make([]uint32, 2*len(o.slots))
	for i := range o.ops {
		slot, _ := o.find(o.ops[i].key)
		o.slots[slot] = uint32(i + 1)
	}
}

// rollback takes back what was put since the last keep.
func (o *stateOverlay) rollback() {
	for i := len(o.undo) - 1; i >= 0; i-- {
		u := &o.undo[i]
		o.ops[u.op].value, o.ops[u.op].state = u.value, u.state
	}
	o.undo = o.undo[:0]
}

// keep ends an entry: what it put stays.
func (o *stateOverlay) keep() { o.undo = o.undo[:0] }

// ordered returns the positions of all ops in the order of their keys. It sorts
// what is new and merges it in, so that scans between writes stay cheap.
func (o *stateOverlay) ordered() []uint32 {
	old := len(o.order)
	if old == len(o.ops) {
		return o.order
	}
	for i := old; i < len(o.ops); i++ {
		o.order = append(o.order, uint32(i))
	}
	fresh := o.order[old:]
	slices.SortFunc(fresh, func(a, b uint32) int {
		return bytes.Compare(o.ops[a].key, o.ops[b].key)
	})
	if old == 0 {
		return o.order
	}
	fresh = slices.Clone(fresh)
	for at := len(o.order); len(fresh) > 0; {
		at--
		last := fresh[len(fresh)-1]
		if old > 0 && bytes.Compare(o.ops[o.order[old-1]].key, o.ops[last].key) > 0 {
			old--
			o.order[at] = o.order[old]
			continue
		}
		o.order[at] = last
		fresh = fresh[:len(fresh)-1]
	}
	return o.order
}

// within returns the positions of the ops whose keys are in [lo, hi), in order.
func (o *stateOverlay) within(lo, hi []byte) []uint32 {
	if len(o.ops) == 0 {
		return nil
	}
	order := o.ordered()
	at := func(key []byte) int {
		i, _ := slices.BinarySearchFunc(order, key, func(p uint32, key []byte) int {
			return bytes.Compare(o.ops[p].key, key)
		})
		return i
	}
	from, to := at(lo), len(order)
	if hi != nil {
		to = at(hi)
	}
	if from >= to {
		return nil
	}
	return order[from:to]
}

// stateArena hands out memory that is freed all at once.
type stateArena struct {
	chunk []byte
}

const (
	arenaChunk = 64 << 10 // bytes: what the writes of an ordinary batch take
	arenaKeep  = 1 << 20  // bytes: a larger chunk is not kept for the next batch
)

func (a *stateArena) copy(b []byte) []byte {
	if len(a.chunk)+len(b) > cap(a.chunk) { // what was handed out stays where it is
		size := min(max(arenaChunk, 2*cap(a.chunk)), arenaKeep)
		a.chunk = make([]byte, 0, max(size, len(b)))
	}
	at := len(a.chunk)
	a.chunk = append(a.chunk, b...)
	return a.chunk[at:len(a.chunk):len(a.chunk)]
}

func (a *stateArena) reset() {
	if cap(a.chunk) > arenaKeep {
		a.chunk = nil
	}
	a.chunk = a.chunk[:0]
}
