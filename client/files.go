package client

import (
	"sync"
	"sync/atomic"
	"time"

	"eggsfs/eggs"
)

// openFiles knows which writers are to be kept alive and which readers hold memory.
type openFiles struct {
	mu      sync.Mutex
	writers map[*writer]struct{}
	readers map[*reader]struct{}
	claimed map[claim]struct{} // names that writers here have reserved
}

type claim struct {
	dir  eggs.InodeID
	name string
}

// claim takes a name that no other writer of this client may reserve.
func (o *openFiles) claim(dir eggs.InodeID, name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, taken := o.claimed[claim{dir, name}]; taken {
		return false
	}
	if o.claimed == nil {
		o.claimed = make(map[claim]struct{})
	}
	o.claimed[claim{dir, name}] = struct{}{}
	return true
}

func (o *openFiles) unclaim(dir eggs.InodeID, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.claimed, claim{dir, name})
}

func (o *openFiles) addWriter(w *writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writers == nil {
		o.writers = make(map[*writer]struct{})
	}
	o.writers[w] = struct{}{}
}

func (o *openFiles) removeWriter(w *writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.writers, w)
}

func (o *openFiles) addReader(r *reader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.readers == nil {
		o.readers = make(map[*reader]struct{})
	}
	o.readers[r] = struct{}{}
}

func (o *openFiles) removeReader(r *reader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.readers, r)
}

// keepWriters has long idle writers send something.
func (o *openFiles) keepWriters(now time.Time) {
	o.mu.Lock()
	all := make([]*writer, 0, len(o.writers))
	for w := range o.writers {
		all = append(all, w)
	}
	o.mu.Unlock()
	for _, w := range all {
		w.mu.Lock()
		due := w.state == writing && now.Sub(w.last) > keepAliveAfter
		if due {
			w.last = now
		}
		w.mu.Unlock()
		if due {
			w.c.spawn(w.keep)
		}
	}
}

// expireReaders frees the memory of readers that nobody has used since then.
func (o *openFiles) expireReaders(before time.Time) {
	o.mu.Lock()
	all := make([]*reader, 0, len(o.readers))
	for r := range o.readers {
		all = append(all, r)
	}
	o.mu.Unlock()
	for _, r := range all {
		r.expire(before)
	}
}

// counters count since the client was made.
type counters struct {
	retries, replaced, rebuilt, badBlocks atomic.Uint64
	blocksPut, bytesPut, bytesGot         atomic.Uint64
}

// Counters are what a client has done, for metrics.
type Counters struct {
	Retries   uint64 // attempts of requests after the first
	Replaced  uint64 // spans whose disks were chosen anew, as some had failed
	Rebuilt   uint64 // reads that needed parity
	BadBlocks uint64 // blocks found missing or with a wrong checksum
	BlocksPut uint64
	BytesPut  uint64 // of blocks, parity and padding included
	BytesGot  uint64 // of blocks
}

// Counters returns what this client has done since it was made.
func (c *Client) Counters() Counters {
	n := &c.count
	return Counters{
		Retries: n.retries.Load(), Replaced: n.replaced.Load(), Rebuilt: n.rebuilt.Load(),
		BadBlocks: n.badBlocks.Load(), BlocksPut: n.blocksPut.Load(),
		BytesPut: n.bytesPut.Load(), BytesGot: n.bytesGot.Load(),
	}
}
