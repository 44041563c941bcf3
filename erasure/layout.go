package erasure

import (
	"fmt"
	"iter"

	"eggsfs/eggs"
)

// Layout is how one span is cut. Use Plan or Of to make one; those check it.
type Layout struct {
	Size     int64 // bytes of the span, without padding
	Parity   eggs.Parity
	Stripes  uint8
	CellSize uint32 // bytes of one block in one stripe
}

// Plan cuts a span of size bytes into cells of about cell bytes: never more
// (rounded up to eggs.CellAlign), unless that would take more than
// eggs.MaxStripes stripes, and fewer where it saves padding.
//
// It fails with Kind Invalid or TooLarge if size, p or cell is out of bounds:
// those come from a policy, so the fault is the caller's.
func Plan(size int64, p eggs.Parity, cell uint32) (Layout, error) {
	const op = "erasure.Plan"
	if err := checkShape(op, size, p); err != nil {
		return Layout{}, err
	}
	if cell == 0 || cell > eggs.MaxBlock {
		return Layout{}, eggs.E(op, eggs.Invalid, fmt.Sprintf("cells of %d bytes", cell))
	}
	c := roundUp(int64(cell), eggs.CellAlign)
	d := int64(p.D)
	stripes := min(ceilDiv(size, d*c), eggs.MaxStripes)
	c = roundUp(ceilDiv(size, d*stripes), eggs.CellAlign)
	stripes = ceilDiv(size, d*c) // rounding the cell up may have emptied the last ones
	return Layout{Size: size, Parity: p, Stripes: uint8(stripes), CellSize: uint32(c)}, nil
}

// Of returns the layout of a location of a span of size bytes. It fails with
// Kind Invalid if the location cannot hold a span of that size.
func Of(size int64, loc *eggs.Location) (Layout, error) {
	l := Layout{Size: size, Parity: loc.Parity, Stripes: loc.Stripes, CellSize: loc.CellSize}
	return l, l.Check()
}

// Check fails with Kind Invalid or TooLarge unless the layout is one that Plan could make
// of some cell size, or one with more padding than Plan would give.
func (l Layout) Check() error {
	const op = "erasure.Layout.Check"
	if err := checkShape(op, l.Size, l.Parity); err != nil {
		return err
	}
	if l.Stripes == 0 || l.Stripes > eggs.MaxStripes ||
		l.CellSize == 0 || l.CellSize%eggs.CellAlign != 0 ||
		int64(l.Stripes)*int64(l.CellSize) > eggs.MaxBlock || l.Size > l.Padded() {
		return eggs.E(op, eggs.Invalid, fmt.Sprintf("%d stripes of cells of %d bytes, %s, for %d bytes",
			l.Stripes, l.CellSize, l.Parity, l.Size))
	}
	return nil
}

func checkShape(op string, size int64, p eggs.Parity) error {
	switch {
	case size <= 0:
		return eggs.E(op, eggs.Invalid, fmt.Sprintf("span of %d bytes", size))
	case size > eggs.MaxSpan:
		return eggs.E(op, eggs.TooLarge, fmt.Sprintf("span of %d bytes, at most %d", size, eggs.MaxSpan))
	case p.D == 0 || p.D > eggs.MaxParity || p.P > eggs.MaxParity:
		return eggs.E(op, eggs.Invalid, "parity "+p.String())
	}
	return nil
}

// BlockSize returns the bytes of each block.
func (l Layout) BlockSize() uint32 { return uint32(l.Stripes) * l.CellSize }

// Padded returns the bytes of the span with its padding: D blocks. A buffer with
// this capacity is encoded without copying anything.
func (l Layout) Padded() int64 { return int64(l.Parity.D) * int64(l.BlockSize()) }

// StripeSize returns the bytes of the span in one stripe, padding included.
func (l Layout) StripeSize() int64 { return int64(l.Parity.D) * int64(l.CellSize) }

// Extent is a run of a span's bytes that lie side by side in one data block.
type Extent struct {
	Block  int    // 0 to D-1
	Offset uint32 // in the block
	Length uint32 // bytes
	Span   int64  // offset of the first byte in the span
}

// Locate returns where byte off of the span is: its data block, the offset in
// that, and how many bytes from off on follow there before the next block's turn or
// the end of the span. off must be in [0, Size).
func (l Layout) Locate(off int64) (block int, offset uint32, run int64) {
	d, cell := int64(l.Parity.D), int64(l.CellSize)
	index := off / cell // of the cell, in the order of the span
	in := off % cell
	run = cell - in
	if d == 1 {
		run = l.Size - off
	}
	return int(index % d), uint32(index/d*cell + in), min(run, l.Size-off)
}

// Extents yields the runs that [off, off+n) of the span consists of, in order.
// What is beyond Size is left out.
func (l Layout) Extents(off, n int64) iter.Seq[Extent] {
	return func(yield func(Extent) bool) {
		end := min(off+n, l.Size)
		for off >= 0 && off < end {
			b, o, run := l.Locate(off)
			run = min(run, end-off)
			if !yield(Extent{Block: b, Offset: o, Length: uint32(run), Span: off}) {
				return
			}
			off += run
		}
	}
}

// SpanOffset is the inverse of Locate: where byte offset of a data block
// belongs in the span. The result is Size or more when the byte is padding.
func (l Layout) SpanOffset(block int, offset uint32) int64 {
	stripe, in := int64(offset/l.CellSize), int64(offset%l.CellSize)
	return (stripe*int64(l.Parity.D)+int64(block))*int64(l.CellSize) + in
}

// PageRange widens [offset, offset+length) of a block to whole pages.
func PageRange(offset, length uint32) (from, to uint32) {
	from = offset / eggs.PageSize * eggs.PageSize
	return from, uint32(roundUp(int64(offset)+int64(length), eggs.PageSize))
}

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }

func roundUp(a, unit int64) int64 { return ceilDiv(a, unit) * unit }
