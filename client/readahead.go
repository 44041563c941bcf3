package client

import (
	"context"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/erasure"
)

// Limits of read-ahead.
const (
	chunkSize       = 1 << 20   // bytes fetched at a time: a cell of the default policy
	windowMax       = 16        // chunks ahead of a sequential reader: some 10 ms of a fast network
	readAheadBudget = 192 << 20 // bytes of all readers of one client
	nearBy          = 512 << 10 // bytes: the kernel sends a stream's reads slightly out of order
	smallFile       = 256 << 10 // bytes: such a file is fetched whole at the first read
	runReads        = 3         // reads in order that make a run, and
	runBytes        = 256 << 10 // bytes that make one
)

// readAhead is a reader's memory of what comes next.
type readAhead struct {
	r *reader

	mu     sync.Mutex
	chunks map[int64]*chunk // by index in the file
	high   int64            // end of the furthest read of this run
	reads  int              // of this run
	run    int64            // bytes of this run
	used   time.Time
	closed bool
}

// chunk is one piece of the file, fetched or being fetched.
type chunk struct {
	ready chan struct{}
	err   error
	buf   *erasure.Buffer
	users int   // that wait or copy; mu
	taken int64 // bytes copied out
	cost  int64 // bytes of budget that it holds
	gone  bool  // not in the map any more; mu
}

// read fills p from off on, a chunk's worth at a time: what was taken is dropped on the way.
func (a *readAhead) read(ctx context.Context, p []byte, off int64) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = a.step(ctx, p[n:min(len(p), n+chunkSize)], off+int64(n))
		n += k
	}
	return n, err
}

func (a *readAhead) step(ctx context.Context, p []byte, off int64) (int, error) {
	if !a.sequential(off, int64(len(p))) {
		if n, ok := a.peek(p, off); ok {
			return n, nil
		}
		return a.r.direct(ctx, p, off)
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		index := at / chunkSize
		c, fetch := a.hold(index)
		if c == nil { // no memory to spare
			k, err := a.r.direct(ctx, p[n:min(len(p), n+chunkSize)], at)
			n += k
			if err != nil {
				return n, err
			}
			continue
		}
		if fetch {
			a.prefetch(index + 1)
			a.fill(c, index)
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			a.release(index, c, 0)
			return n, late(ctx, false, nil)
		}
		if err := c.err; err != nil {
			a.release(index, c, chunkSize)
			return n, err
		}
		k := copy(p[n:], c.buf.Bytes[at-index*chunkSize:])
		n += k
		a.release(index, c, int64(k))
	}
	a.prefetch((off + int64(n)) / chunkSize)
	return n, nil
}

// sequential notes a read and reports whether it continues a run.
func (a *readAhead) sequential(off, n int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used = time.Now()
	if a.r.size <= smallFile {
		return a.r.size > eggs.PageSize
	}
	if off >= a.high-nearBy && off <= a.high+nearBy {
		a.run += n
		a.reads++
	} else {
		a.run, a.reads, a.high = n, 1, 0
	}
	a.high = max(a.high, off+n)
	return a.reads >= runReads || a.reads > 1 && a.run >= runBytes || n >= chunkSize
}

// peek serves a read from one fetched chunk.
func (a *readAhead) peek(p []byte, off int64) (int, bool) {
	index := off / chunkSize
	a.mu.Lock()
	c := a.chunks[index]
	if c == nil {
		a.mu.Unlock()
		return 0, false
	}
	select {
	case <-c.ready:
	default:
		a.mu.Unlock()
		return 0, false
	}
	in := off - index*chunkSize
	if c.err != nil || in+int64(len(p)) > int64(len(c.buf.Bytes)) {
		a.mu.Unlock()
		return 0, false
	}
	c.users++
	a.mu.Unlock()
	n := copy(p, c.buf.Bytes[in:])
	a.release(index, c, int64(n))
	return n, true
}

// hold returns a chunk for use, nil when there is no memory for it. fetch: the caller fills it.
func (a *readAhead) hold(index int64) (c *chunk, fetch bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.chunks[index]; c != nil {
		c.users++
		return c, false
	}
	c = a.newChunk(index)
	if c != nil {
		c.users++
	}
	return c, true
}

// newChunk makes an empty chunk if the budget allows it. mu is held.
func (a *readAhead) newChunk(index int64) *chunk {
	if a.closed {
		return nil
	}
	size := min(chunkSize, a.r.size-index*chunkSize)
	budget := &a.r.c.budget
	if budget.Add(-size) < 0 {
		budget.Add(size)
		return nil
	}
	c := &chunk{ready: make(chan struct{}), buf: erasure.NewBuffer(int(size)), cost: size}
	if a.chunks == nil {
		a.chunks = make(map[int64]*chunk)
	}
	a.chunks[index] = c
	return c
}

// fill fetches a chunk.
func (a *readAhead) fill(c *chunk, index int64) {
	ctx, cancel := a.r.c.limit(a.r.ctx)
	defer cancel()
	_, c.err = a.r.direct(ctx, c.buf.Bytes, index*chunkSize)
	close(c.ready)
}

// prefetch starts to fetch what follows index, more for a longer run, and
// drops what lies behind.
func (a *readAhead) prefetch(index int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	window := min(windowMax, a.run/chunkSize+1)
	for i := index; i < index+window && i*chunkSize < a.r.size; i++ {
		if a.chunks[i] != nil {
			continue
		}
		c := a.newChunk(i)
		if c == nil {
			break
		}
		c.users++
		if !a.r.c.spawn(func() {
			a.fill(c, i)
			a.release(i, c, 0)
		}) {
			c.err = eggs.E("client.ReadAt", eggs.Canceled, "the client is closed")
			close(c.ready)
			c.users--
			a.drop(i, c)
			break
		}
	}
	low := (a.high - nearBy) / chunkSize
	for i, c := range a.chunks {
		if i < low || i > a.high/chunkSize+windowMax {
			a.drop(i, c)
		}
	}
}

// release ends a use; a chunk that failed or was taken whole goes.
func (a *readAhead) release(index int64, c *chunk, taken int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.users--
	c.taken += taken
	failed := false
	select {
	case <-c.ready:
		failed = c.err != nil
	default:
	}
	switch {
	case c.gone:
		a.free(c)
	case failed, c.taken >= int64(len(c.buf.Bytes)) && a.r.size > smallFile:
		a.drop(index, c)
	}
}

// drop takes a chunk out; its memory goes with its last user. mu is held.
func (a *readAhead) drop(index int64, c *chunk) {
	delete(a.chunks, index)
	c.gone = true
	a.free(c)
}

// free gives the memory of a chunk back that nobody uses. mu is held.
func (a *readAhead) free(c *chunk) {
	if c.users > 0 || c.buf == nil {
		return
	}
	c.buf.Release()
	c.buf = nil
	a.r.c.budget.Add(c.cost)
}

// clear drops everything, for good.
func (a *readAhead) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	for i, c := range a.chunks {
		a.drop(i, c)
	}
}

// expire drops everything if nobody has read since then.
func (a *readAhead) expire(before time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.used.After(before) {
		return
	}
	a.run, a.reads = 0, 0
	for i, c := range a.chunks {
		a.drop(i, c)
	}
}
