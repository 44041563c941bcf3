package fuse

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"eggsfs/eggs"
)

// handle is one open file description, or an open directory.
type handle struct {
	node  eggs.InodeID // the kernel's inode
	flags uint32

	draft     *draft      // of a file under construction
	publishes bool        // its close may publish
	claims    bool        // under draft.io: it is counted in draft.claims
	reader    *lazyReader // of a finished file
	counted   bool        // in fileSystem.opened
	list      *listing    // of a directory
}

func (h *handle) mayWrite() bool { return h.flags&unix.O_ACCMODE != unix.O_RDONLY }

// handles are all open handles by the number that the kernel knows.
type handles struct {
	next   atomic.Uint64
	shards [16]struct {
		mu sync.RWMutex
		m  map[uint64]*handle
	}
}

func (t *handles) add(h *handle) uint64 {
	fh := t.next.Add(1)
	s := &t.shards[fh%uint64(len(t.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[uint64]*handle{}
	}
	s.m[fh] = h
	return fh
}

func (t *handles) get(fh uint64) *handle {
	s := &t.shards[fh%uint64(len(t.shards))]
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m[fh]
}

func (t *handles) remove(fh uint64) *handle {
	s := &t.shards[fh%uint64(len(t.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.m[fh]
	delete(s.m, fh)
	return h
}

// seen remembers under which names files were looked up lately: an OPEN with O_TRUNC
// names only the inode. It holds a bounded number; one that was forgotten is looked up
// again. Files have one name, so the last one seen is the name.
type seen struct {
	sets [1024]struct {
		mu    sync.Mutex
		slots [8]struct {
			id eggs.InodeID
			at place
		}
		next uint8
	}
}

func (s *seen) set(id eggs.InodeID) int { return int(uint64(id) * 0x9e3779b97f4a7c15 >> 54) }

func (s *seen) put(id eggs.InodeID, at place) {
	set := &s.sets[s.set(id)]
	set.mu.Lock()
	defer set.mu.Unlock()
	for i := range set.slots {
		if set.slots[i].id == id {
			set.slots[i].at = at
			return
		}
	}
	slot := &set.slots[set.next%uint8(len(set.slots))]
	set.next++
	slot.id, slot.at = id, at
}

func (s *seen) get(id eggs.InodeID) (place, bool) {
	set := &s.sets[s.set(id)]
	set.mu.Lock()
	defer set.mu.Unlock()
	for i := range set.slots {
		if set.slots[i].id == id {
			return set.slots[i].at, true
		}
	}
	return place{}, false
}

// opened counts the handles of finished files, so that fstat(2) of one whose name
// this mount removed shows no links, as programs expect that watch for it.
type opened struct {
	mu      sync.RWMutex
	byNode  map[eggs.InodeID]*openNode
	byPlace map[place]eggs.InodeID
}

type openNode struct {
	refs int
	at   place
	gone bool
}

func newOpened() *opened {
	return &opened{byNode: map[eggs.InodeID]*openNode{}, byPlace: map[place]eggs.InodeID{}}
}

func (o *opened) add(id eggs.InodeID, at place) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.byNode[id]
	if n == nil {
		n = &openNode{at: at}
		o.byNode[id] = n
		o.byPlace[at] = id
	}
	n.refs++
}

func (o *opened) remove(id eggs.InodeID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.byNode[id]
	if n == nil {
		return
	}
	if n.refs--; n.refs == 0 {
		delete(o.byNode, id)
		if o.byPlace[n.at] == id {
			delete(o.byPlace, n.at)
		}
	}
}

// moved follows a rename; an empty name of to means that from was removed.
func (o *opened) moved(from, to place) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if id, ok := o.byPlace[to]; ok && to.name != "" {
		o.byNode[id].gone = true
		delete(o.byPlace, to)
	}
	id, ok := o.byPlace[from]
	if !ok {
		return
	}
	delete(o.byPlace, from)
	if n := o.byNode[id]; to.name == "" {
		n.gone = true
	} else {
		n.at = to
		o.byPlace[to] = id
	}
}

func (o *opened) isGone(id eggs.InodeID) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	n := o.byNode[id]
	return n != nil && n.gone
}
