package erasure

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/reedsolomon"

	"eggsfs/eggs"
)

// Encoded is a span ready to be sent: the cells of each block in stripe order,
// and every checksum there is of them.
type Encoded struct {
	Layout     Layout
	Blocks     [][][]byte // block → its cells; data cells alias the span's buffer
	PageCRCs   [][]byte   // block → its pages' checksums, 4 bytes each, little end first
	BlockCRCs  []uint32
	StripeCRCs []uint32
	CRC        uint32 // of the span's Size bytes

	parity, tail *Buffer
}

// Release gives the parity cells' memory back. Blocks may not be used after it.
func (e *Encoded) Release() {
	e.parity.Release()
	e.tail.Release()
	e.parity, e.tail, e.Blocks = nil, nil, nil
}

// roundBytes is what is encoded of each cell at a time: small enough for the
// cells of a wide stripe to stay in a processor's cache between their checksum
// and their code, large enough that a round's own cost does not show.
const roundBytes = 32 << 10

// Encode cuts data, the span's bytes, as l says. If data has capacity for
// l.Padded() bytes the padding is written there (bytes beyond len(data) are
// overwritten with zeros); if not, the last cells are copied.
// The caller must leave data alone until the blocks are sent, and then Release.
//
// It fails with Kind Invalid if l and data do not fit each other.
func Encode(l Layout, data []byte) (*Encoded, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	if int64(len(data)) != l.Size {
		return nil, eggs.E("erasure.Encode", eggs.Invalid,
			fmt.Sprintf("%d bytes for a layout of %d", len(data), l.Size))
	}
	n := l.Parity.Blocks()
	e := &Encoded{
		Layout:     l,
		Blocks:     make([][][]byte, n),
		PageCRCs:   make([][]byte, n),
		BlockCRCs:  make([]uint32, n),
		StripeCRCs: make([]uint32, l.Stripes),
	}
	if l.Parity.D > 1 && l.Parity.P > 0 {
		e.parity = NewBuffer(int(l.Parity.P) * int(l.BlockSize()))
	}
	e.slice(data)
	own := n // mirrors share the cells and checksums of block 0
	if l.Parity.D == 1 {
		own = 1
	}
	tables := make([]byte, own*int(l.BlockSize())/eggs.PageSize*4)
	for b := range own {
		size := len(tables) / own
		e.PageCRCs[b] = tables[b*size : b*size : (b+1)*size]
	}
	if err := e.encodeStripes(own); err != nil {
		e.Release()
		return nil, err
	}
	for b := own; b < n; b++ {
		e.Blocks[b], e.PageCRCs[b], e.BlockCRCs[b] = e.Blocks[0], e.PageCRCs[0], e.BlockCRCs[0]
	}
	return e, nil
}

// slice makes the cells.
func (e *Encoded) slice(data []byte) {
	l, cell := e.Layout, int(e.Layout.CellSize)
	d := int(l.Parity.D)
	whole := len(data) / cell // cells without padding
	var tail []byte
	if rest := int(l.Padded()) - whole*cell; rest > 0 {
		if int64(cap(data)) >= l.Padded() {
			tail = data[whole*cell : l.Padded()]
			clear(tail[len(data)-whole*cell:])
		} else {
			e.tail = NewBuffer(rest)
			tail = e.tail.Bytes
			clear(tail[copy(tail, data[whole*cell:]):])
		}
	}
	cells := make([][]byte, l.Parity.Blocks()*int(l.Stripes))
	for b := range e.Blocks {
		e.Blocks[b] = cells[b*int(l.Stripes) : (b+1)*int(l.Stripes)]
		for s := range e.Blocks[b] {
			i := s*d + b
			switch {
			case b >= d && e.parity == nil: // a mirror
				e.Blocks[b][s] = nil
			case b >= d:
				at := ((b-d)*int(l.Stripes) + s) * cell
				e.Blocks[b][s] = e.parity.Bytes[at : at+cell : at+cell]
			case i < whole:
				e.Blocks[b][s] = data[i*cell : (i+1)*cell : (i+1)*cell]
			default:
				at := (i - whole) * cell
				e.Blocks[b][s] = tail[at : at+cell : at+cell]
			}
		}
	}
}

// encodeStripes fills the parity cells and all checksums of the first own blocks.
func (e *Encoded) encodeStripes(own int) error {
	l, cell := e.Layout, int64(e.Layout.CellSize)
	d := int(l.Parity.D)
	var code reedsolomon.Encoder
	if e.parity != nil {
		var err error
		if code, err = coder(l.Parity); err != nil {
			return err
		}
	}
	byCell := shiftBy(cell)
	sums := make([]cellSum, own)
	round := make([][]byte, own)
	for s := range int(l.Stripes) {
		for b := range sums {
			real := cell
			if b < d {
				real = min(max(l.Size-int64(s*d+b)*cell, 0), cell)
			}
			sums[b] = cellSum{left: real, table: e.PageCRCs[b]}
		}
		for at := int64(0); at < cell; at += roundBytes {
			end := min(at+roundBytes, cell)
			for b := range round {
				round[b] = e.Blocks[b][s][at:end]
			}
			for b := range d {
				sums[b].add(round[b])
			}
			if code != nil {
				if err := code.Encode(round); err != nil {
					return &eggs.Error{Op: "erasure.Encode", Kind: eggs.Invalid, Err: err}
				}
			}
			for b := d; b < own; b++ {
				sums[b].add(round[b])
			}
		}
		for b := range sums {
			c := &sums[b]
			e.PageCRCs[b] = c.table
			e.BlockCRCs[b] = product(e.BlockCRCs[b], byCell) ^ c.padded
			if b < d {
				e.StripeCRCs[s] = product(e.StripeCRCs[s], byCell) ^ c.padded
				e.CRC = CombineCRC(e.CRC, c.real, c.reals)
			}
		}
	}
	return nil
}

// cellSum runs over the pages of one cell.
type cellSum struct {
	left   int64  // bytes to come that are not padding
	reals  int64  // bytes seen that are not padding
	real   uint32 // checksum of those
	padded uint32 // checksum of all
	table  []byte
}

func (c *cellSum) add(pages []byte) {
	for ; len(pages) > 0; pages = pages[eggs.PageSize:] {
		page := zeroPageCRC
		switch {
		case c.left >= eggs.PageSize:
			page = CRC(pages[:eggs.PageSize])
			c.real = combinePage(c.real, page)
			c.reals += eggs.PageSize
			c.left -= eggs.PageSize
		case c.left > 0:
			part := CRC(pages[:c.left])
			page = ZerosCRC(part, eggs.PageSize-c.left)
			c.real = CombineCRC(c.real, part, c.left)
			c.reals += c.left
			c.left = 0
		}
		c.padded = combinePage(c.padded, page)
		c.table = binary.LittleEndian.AppendUint32(c.table, page)
	}
}

// coders holds a reedsolomon.Encoder for each eggs.Parity in use: making one costs
// more than coding a small span. There are at most MaxParity² of them.
var coders sync.Map

func coder(p eggs.Parity) (reedsolomon.Encoder, error) {
	if c, ok := coders.Load(p); ok {
		return c.(reedsolomon.Encoder), nil
	}
	// One goroutine: spans are coded side by side already. The inverses of
	// matrices are kept only where losses are few enough to repeat.
	c, err := reedsolomon.New(int(p.D), int(p.P), reedsolomon.WithMaxGoroutines(1),
		reedsolomon.WithInversionCache(p.Blocks() <= 16))
	if err != nil {
		return nil, &eggs.Error{Op: "erasure.coder", Name: p.String(), Kind: eggs.Invalid, Err: err}
	}
	kept, _ := coders.LoadOrStore(p, c)
	return kept.(reedsolomon.Encoder), nil
}
