package wire

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"eggsfs/eggs"
)

// Limits of frames.
const (
	// MaxBody is the bytes of one body: a listing or the spans of a batch with
	// their certificates fit several times over; a longer one holds up the others.
	MaxBody = 16 << 20
	// MaxHello is the bytes of the first frame: all that a stranger's claim can cost.
	MaxHello = 4 << 10

	headerBytes = 16
	lenBytes    = 4        // not counted by the length itself
	readBuffer  = 32 << 10 // bytes: dozens of small frames a read; one buffer a connection
)

type frameType uint8

const (
	frameVoid frameType = iota
	frameHello
	frameRequest
	frameReply
	frameFailure
	frameCancel
	frameItem
	frameEnd
	frameCredit
	framePing
	framePong
	frameGoodbye
	frameTypes // one more than the greatest
)

const flagDeadline = 1

// header is the fixed part of a frame.
type header struct {
	kind   frameType
	flags  uint8
	method Method
	id     uint64
	size   int // bytes of the body
}

// appendFrame appends a frame whose body is prefix and then m (either may be nil).
func appendFrame(b []byte, h header, prefix []byte, m Message) ([]byte, error) {
	size := 0
	if m != nil {
		size = m.SizeVT()
	}
	if len(prefix)+size > MaxBody {
		return b, eggs.E("wire.Send", eggs.TooLarge, fmt.Sprintf(
			"a message of %d bytes; the limit is %d", size, MaxBody))
	}
	at := len(b)
	total := headerBytes + len(prefix) + size
	b = grow(b, total)[:at+total]
	f := b[at:]
	binary.LittleEndian.PutUint32(f, uint32(total-lenBytes))
	f[4], f[5] = byte(h.kind), h.flags
	binary.LittleEndian.PutUint16(f[6:], uint16(h.method))
	binary.LittleEndian.PutUint64(f[8:], h.id)
	copy(f[headerBytes:], prefix)
	if m != nil {
		if n, err := m.MarshalToSizedBufferVT(f[headerBytes+len(prefix):]); err != nil || n != size {
			return b[:at], &eggs.Error{Op: "wire.Send", Kind: eggs.Invalid, Err: err}
		}
	}
	return b, nil
}

// grow returns b with room for n more bytes.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	c := make([]byte, len(b), max(2*cap(b), len(b)+n, 4<<10))
	copy(c, b)
	return c
}

// frameReader cuts a stream into frames. Its errors of Kind Invalid say what
// rule the peer broke; others are the stream's.
type frameReader struct{ r *bufio.Reader }

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, readBuffer)}
}

// next reads a header. The body must then be read or skipped.
func (f *frameReader) next(limit int) (header, error) {
	b, err := f.r.Peek(headerBytes)
	if err != nil {
		return header{}, err
	}
	n := binary.LittleEndian.Uint32(b)
	h := header{
		kind:   frameType(b[4]),
		flags:  b[5],
		method: Method(binary.LittleEndian.Uint16(b[6:])),
		id:     binary.LittleEndian.Uint64(b[8:]),
		size:   int(n) - (headerBytes - lenBytes),
	}
	switch {
	case h.size < 0:
		return h, eggs.E("wire.Read", eggs.Invalid, fmt.Sprintf(
			"a frame of %d bytes is shorter than its header; this is not EggsFS's protocol", n))
	case h.size > limit:
		return h, eggs.E("wire.Read", eggs.TooLarge, fmt.Sprintf(
			"a frame of %d bytes; the limit here is %d", h.size, limit))
	case h.kind >= frameTypes:
		return h, eggs.E("wire.Read", eggs.Invalid, fmt.Sprintf("frame type %d is unknown", h.kind))
	}
	_, err = f.r.Discard(headerBytes)
	return h, err
}

// view returns the body, valid until the next call of any method. large is a
// pooled buffer to be given back with release, or nil.
func (f *frameReader) view(size int) (body []byte, large *[]byte, err error) {
	if size > readBuffer {
		large, err = f.take(size)
		return *large, large, err
	}
	body, err = f.r.Peek(size)
	if err == nil {
		// What was peeked stays in the buffer until the next read.
		_, err = f.r.Discard(size)
	}
	return body, nil, err
}

// take reads the body into a pooled buffer, to be given back with release.
func (f *frameReader) take(size int) (*[]byte, error) {
	b := obtain(size)
	_, err := io.ReadFull(f.r, *b)
	return b, err
}

func (f *frameReader) skip(size int) error {
	_, err := f.r.Discard(size)
	return err
}

// maxPooled is the largest buffer kept for reuse, in bytes: larger ones are
// rare, and would stay in the pool behind small bodies.
const maxPooled = 256 << 10

var bodies = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}

// obtain returns a pooled buffer of that length.
func obtain(size int) *[]byte {
	b := bodies.Get().(*[]byte)
	if cap(*b) < size {
		*b = make([]byte, size)
	}
	*b = (*b)[:size]
	return b
}

// release gives a buffer back; nil is none.
func release(b *[]byte) {
	if b != nil && cap(*b) <= maxPooled {
		bodies.Put(b)
	}
}
