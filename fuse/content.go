package fuse

import (
	"errors"
	"io"
	"sync/atomic"

	"eggsfs/client"
	"eggsfs/eggs"
)

// limits are what the contents of one mount share.
type limits struct {
	fileMemory  int64
	totalMemory int64
	spillDir    string
	spillMax    int64

	memory atomic.Int64 // bytes of buffers
	spill  atomic.Int64 // bytes of local files
}

const (
	// fillMax is the largest gap, in bytes, that is filled with zeros when a
	// program that otherwise appends skips over it.
	fillMax = mib
	// maxHole is how many bytes one write or truncate may leave unwritten: they are
	// sent as zeros, and a close that takes hours helps nobody.
	maxHole = 64 << 30
	// maxSize is the largest file: the kernel's own limit.
	maxSize = 1<<63 - 1
)

// content is the bytes of a draft; see the package comment. The caller serialises.
//
// Bytes from end to size are zeros that nobody wrote yet. Without an overlay, what
// is below end lies in buf, or in sent when that is set.
type content struct {
	lim    *limits
	size   int64
	end    int64
	buf    []byte
	sent   client.Writer
	over   *overlay
	random bool // something was written twice
}

func (c *content) limit() int64 {
	if c.lim.memory.Load() > c.lim.totalMemory {
		return smallMemory
	}
	return c.lim.fileMemory
}

// resize changes the buffer's length and keeps the books of its capacity.
func (c *content) resize(n int) {
	if n <= cap(c.buf) {
		old := len(c.buf)
		c.buf = c.buf[:n]
		if n > old {
			clear(c.buf[old:])
		}
		return
	}
	room := n
	if len(c.buf) > 0 {
		room = max(n, min(2*cap(c.buf), int(c.lim.fileMemory)))
	}
	c.lim.memory.Add(int64(room - cap(c.buf)))
	grown := make([]byte, n, room)
	copy(grown, c.buf)
	c.buf = grown
}

// drop frees memory and local files.
func (c *content) drop() {
	c.lim.memory.Add(-int64(cap(c.buf)))
	c.buf = nil
	if c.over != nil {
		c.over.close()
		c.over = nil
	}
	c.sent = nil
}

// write puts p at off. writer gives the writer to stream to.
func (c *content) write(p []byte, off int64, writer func() (client.Writer, error)) error {
	to := off + int64(len(p))
	if off < 0 || to < off || off-c.size > maxHole {
		return eggs.E("fuse.write", eggs.TooLarge, "the hole is too large")
	}
	if len(p) == 0 {
		return nil
	}
	if off < c.end {
		c.random = true
	}
	switch {
	case c.over != nil:
	case c.sent != nil:
		if off >= c.end && off-c.end <= fillMax {
			return c.append(p, off)
		}
	case to <= max(c.limit(), int64(len(c.buf))):
		if to > int64(len(c.buf)) {
			c.resize(int(to))
		}
		copy(c.buf[off:], p)
		c.end = max(c.end, to)
		c.size = max(c.size, to)
		return nil
	case !c.random && off >= c.end && off-c.end <= fillMax:
		w, err := writer()
		if err != nil {
			return err
		}
		if err := writeAll(w, c.buf); err != nil {
			return err
		}
		c.lim.memory.Add(-int64(cap(c.buf)))
		c.buf, c.sent = nil, w
		return c.append(p, off)
	}
	if err := c.lay(); err != nil {
		return err
	}
	if err := c.over.write(p, off); err != nil {
		return err
	}
	c.size = max(c.size, to)
	return nil
}

// append streams p, after zeros up to off.
func (c *content) append(p []byte, off int64) error {
	if err := c.fill(off); err != nil {
		return err
	}
	if err := writeAll(c.sent, p); err != nil {
		return err
	}
	c.end += int64(len(p))
	c.size = max(c.size, c.end)
	return nil
}

var zeros [64 << 10]byte

// fill streams zeros up to off.
func (c *content) fill(off int64) error {
	for c.end < off {
		n := min(off-c.end, int64(len(zeros)))
		if err := writeAll(c.sent, zeros[:n]); err != nil {
			return err
		}
		c.end += n
	}
	return nil
}

func writeAll(w client.Writer, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	n, err := w.Write(p)
	if err == nil && n < len(p) {
		err = &eggs.Error{Op: "fuse.write", Inode: w.ID(), Kind: eggs.IO, Err: io.ErrShortWrite}
	}
	return err
}

// lay makes what is there the base of an overlay.
func (c *content) lay() error {
	if c.over != nil {
		return nil
	}
	o := &overlay{lim: c.lim}
	if c.sent != nil {
		o.base, o.baseLen = c.sent, c.end
	} else if len(c.buf) > 0 {
		if err := o.write(c.buf[:c.end], 0); err != nil {
			o.close()
			return err
		}
	}
	c.lim.memory.Add(-int64(cap(c.buf)))
	c.buf, c.sent, c.over = nil, nil, o
	return nil
}

// truncate cuts, or extends with zeros.
func (c *content) truncate(size int64) error {
	if size-c.size > maxHole {
		return eggs.E("fuse.truncate", eggs.TooLarge, "the hole is too large")
	}
	if size == 0 && c.over != nil && c.over.base == nil {
		c.over.close()
		c.over, c.end = nil, 0
	}
	switch {
	case c.over != nil:
		if err := c.over.truncate(size); err != nil {
			return err
		}
	case size >= c.end:
	case c.sent != nil:
		if err := c.lay(); err != nil {
			return err
		}
		if err := c.over.truncate(size); err != nil {
			return err
		}
	default:
		c.resize(int(size))
		c.end = size
	}
	c.size = size
	return nil
}

// zero makes a range zeros, without making the file longer.
func (c *content) zero(off, n int64) error {
	n = min(n, c.size-off)
	if off < 0 || n <= 0 || c.over == nil && off >= c.end {
		return nil
	}
	if c.over == nil && c.sent == nil {
		clear(c.buf[off:min(off+n, c.end)])
		return nil
	}
	if err := c.lay(); err != nil {
		return err
	}
	return c.over.zero(off, n)
}

// read fills p from off and returns how many bytes there are.
func (c *content) read(p []byte, off int64) (int, error) {
	if off >= c.size {
		return 0, nil
	}
	p = p[:min(int64(len(p)), c.size-off)]
	if c.over != nil {
		return len(p), c.over.read(p, off)
	}
	have := p[:max(0, min(int64(len(p)), c.end-off))]
	clear(p[len(have):])
	if c.sent != nil {
		return len(p), readFull(c.sent, have, off)
	}
	if len(have) > 0 {
		copy(have, c.buf[off:])
	}
	return len(p), nil
}

// readFull reads exactly p; to find less is corruption, not an end.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return &eggs.Error{Op: "fuse.read", Kind: eggs.IO, Err: io.ErrUnexpectedEOF}
	}
	return err
}

// send gives w what it has not got yet.
func (c *content) send(w client.Writer) error {
	if c.over != nil {
		buf := make([]byte, min(c.size, mib))
		for off := int64(0); off < c.size; {
			p := buf[:min(c.size-off, int64(len(buf)))]
			if err := c.over.read(p, off); err != nil {
				return err
			}
			if err := writeAll(w, p); err != nil {
				return err
			}
			off += int64(len(p))
		}
		return nil
	}
	if c.sent == nil {
		if err := writeAll(w, c.buf[:c.end]); err != nil {
			return err
		}
		if c.end == c.size {
			return nil
		}
		tail := content{lim: c.lim, sent: w, end: c.end}
		return tail.fill(c.size)
	}
	return c.fill(c.size)
}

// published makes base, the published file, what further changes build on. What is
// in memory stays there.
func (c *content) published(base io.ReaderAt) {
	if c.over == nil && c.sent == nil {
		return
	}
	size := c.size
	c.drop()
	c.size, c.end = size, size
	c.over = &overlay{lim: c.lim, base: base, baseLen: size}
}
