package erasure

import (
	"math/bits"
	"sync"
)

// Buffer is memory from a pool. A span's worth of fresh memory costs more in
// page faults than everything else that is done with it.
type Buffer struct {
	Bytes []byte // of the length asked for; what is in it is left from its last use
}

// pools hold buffers by capacity: four steps for each power of two, so that at
// most a fifth of a buffer is idle.
var pools [256]sync.Pool

// bufferClass returns the class that serves n bytes, and its capacity.
func bufferClass(n int) (class, capacity int) {
	const least = 4096 // bytes; below this a pool saves nothing
	n = max(n, least)
	shift := max(bits.Len(uint(n-1))-3, 0) // the three highest bits give the step
	steps := (n + 1<<shift - 1) >> shift
	return shift<<2 | (steps-1)&3, steps << shift
}

// NewBuffer returns a buffer of n bytes.
func NewBuffer(n int) *Buffer {
	class, capacity := bufferClass(n)
	if b, ok := pools[class].Get().(*Buffer); ok {
		b.Bytes = b.Bytes[:n]
		return b
	}
	return &Buffer{Bytes: make([]byte, n, capacity)}
}

// Release gives the buffer back. Nobody may use its bytes any more. A nil
// Buffer has nothing to release.
func (b *Buffer) Release() {
	if b == nil || cap(b.Bytes) == 0 {
		return
	}
	class, capacity := bufferClass(cap(b.Bytes))
	if capacity == cap(b.Bytes) {
		pools[class].Put(b)
	}
}
