package raftgroup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"syscall"
	"time"

	"eggsfs/eggs"
)

// bbolt trusts its pages: only the two meta pages have a checksum, a damaged page ends in a
// panic, at open even in a goroutine of bbolt's own, and a damaged newest meta page silently in
// the state before the last commit. So before bbolt sees the file, this walks over all of its
// pages and checks that they form two trees of sorted keys. What the values hold, their
// checksums say.

// The parts of a bolt file.
const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltHeader     = 16 // bytes before a page's elements
	boltElement    = 16
	boltBranch     = 0x01
	boltLeaf       = 0x02
	boltMeta       = 0x04
	boltNoFreelist = ^uint64(0)
	boltMinPage    = 1 << 10
	boltMaxPage    = 1 << 16
	boltMaxDepth   = 32
)

var errBolt = fmt.Errorf("damaged bolt file: %w", eggs.Corrupt)

// boltWalk checks a file.
type boltWalk struct {
	file  *os.File
	page  int64  // size of a page
	pages uint64 // the file has this many
	seen  []bool
}

// boltPage is what a page's header says, with the page's bytes.
type boltPage struct {
	id   uint64
	kind uint16
	n    int
	data []byte
}

// checkLogFile checks the structure of the file, when no other process has it open.
func checkLogFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for end := time.Now().Add(logLockTimeout); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break // closing the file lets go of it
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w: another process has the file open", eggs.InUse)
		}
	}
	w := &boltWalk{file: f}
	root, err := w.metas()
	if err != nil {
		return err
	}
	buckets := 0
	return w.walk(root, nil, nil, 0, func(flags uint32, key, value []byte) error {
		buckets++
		if flags != 1 || string(key) != []string{"conf", "logs", ""}[min(buckets-1, 2)] {
			return fmt.Errorf("%w: bucket %q", errBolt, key)
		}
		return w.bucket(value)
	})
}

// metas checks both meta pages and returns the root page of the newer one.
func (w *boltWalk) metas() (uint64, error) {
	var root, txid uint64
	w.page = int64(os.Getpagesize()) // what bbolt makes files with
	for i := range int64(2) {
		b := make([]byte, 128)
		if _, err := w.file.ReadAt(b, i*w.page); err != nil {
			return 0, fmt.Errorf("%w: meta page %d: %w", errBolt, i, err)
		}
		m := b[boltHeader:]
		h := fnv.New64a()
		h.Write(m[:56])
		if binary.LittleEndian.Uint64(b) != uint64(i) || binary.LittleEndian.Uint16(b[8:]) != boltMeta ||
			binary.LittleEndian.Uint32(m) != boltMagic || binary.LittleEndian.Uint32(m[4:]) != boltVersion ||
			binary.LittleEndian.Uint64(m[56:]) != h.Sum64() {
			return 0, fmt.Errorf("%w: meta page %d, offset %d: wrong checksum", errBolt, i, i*w.page)
		}
		if size := int64(binary.LittleEndian.Uint32(m[8:])); size != w.page {
			return 0, fmt.Errorf("%w: made with pages of %d bytes, this system has %d", eggs.Unsupported,
				size, w.page)
		}
		if id := binary.LittleEndian.Uint64(m[48:]); id >= txid {
			txid, root, w.pages = id, binary.LittleEndian.Uint64(m[16:]), binary.LittleEndian.Uint64(m[40:])
			if free := binary.LittleEndian.Uint64(m[32:]); free != boltNoFreelist {
				return 0, fmt.Errorf("%w: a freelist at page %d", errBolt, free)
			}
		}
	}
	size, err := w.file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if w.pages > uint64(size/w.page) {
		return 0, fmt.Errorf("%w: %d pages of %d are missing at the end", errBolt,
			w.pages-uint64(size/w.page), w.pages)
	}
	w.seen = make([]bool, w.pages)
	return root, nil
}

// read reads a page and what overflows it, and checks its header.
func (w *boltWalk) read(id uint64) (*boltPage, error) {
	if id < 2 || id >= w.pages {
		return nil, fmt.Errorf("%w: page %d of %d", errBolt, id, w.pages)
	}
	b := make([]byte, w.page)
	if _, err := w.file.ReadAt(b, int64(id)*w.page); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	over := uint64(binary.LittleEndian.Uint32(b[12:]))
	if id+over >= w.pages {
		return nil, fmt.Errorf("%w: page %d overflows into %d pages", errBolt, id, over)
	}
	for i := id; i <= id+over; i++ {
		if w.seen[i] {
			return nil, fmt.Errorf("%w: page %d is used twice", errBolt, i)
		}
		w.seen[i] = true
	}
	if over > 0 {
		b = append(b, make([]byte, int64(over)*w.page)...)
		if _, err := w.file.ReadAt(b[w.page:], int64(id+1)*w.page); err != nil {
			return nil, fmt.Errorf("page %d: %w", id, err)
		}
	}
	return parsePage(id, b)
}

// parsePage checks a page's header; id is 0 for a page inside a value.
func parsePage(id uint64, b []byte) (*boltPage, error) {
	if len(b) < boltHeader {
		return nil, fmt.Errorf("%w: page %d has %d bytes", errBolt, id, len(b))
	}
	p := &boltPage{
		id: id, kind: binary.LittleEndian.Uint16(b[8:]),
		n: int(binary.LittleEndian.Uint16(b[10:])), data: b,
	}
	found := binary.LittleEndian.Uint64(b)
	if found != id || p.kind != boltBranch && p.kind != boltLeaf ||
		boltHeader+p.n*boltElement > len(b) || p.kind == boltBranch && p.n == 0 {
		return nil, fmt.Errorf("%w: page %d: its header says page %d, kind %d, %d elements", errBolt, id,
			found, p.kind, p.n)
	}
	return p, nil
}

// slice returns n bytes of the page from an element's offset on.
func (p *boltPage) slice(element int, pos, n uint32) ([]byte, error) {
	from := uint64(boltHeader+element*boltElement) + uint64(pos)
	if from < uint64(boltHeader+p.n*boltElement) || from+uint64(n) > uint64(len(p.data)) {
		return nil, fmt.Errorf("%w: page %d, element %d: %d bytes at offset %d", errBolt, p.id, element,
			n, from)
	}
	return p.data[from : from+uint64(n)], nil
}

// walk checks the tree below a page, whose keys must be in [lo, hi), and calls f for its pairs.
func (w *boltWalk) walk(id uint64, lo, hi []byte, depth int,
	f func(flags uint32, key, value []byte) error,
) error {
	p, err := w.read(id)
	if err != nil {
		return err
	}
	if p.kind == boltLeaf {
		return p.leaf(lo, hi, f)
	}
	if depth > boltMaxDepth {
		return fmt.Errorf("%w: page %d is %d deep", errBolt, id, depth)
	}
	keys := make([][]byte, p.n+1)
	keys[p.n] = hi
	for i := range p.n {
		e := p.data[boltHeader+i*boltElement:]
		keys[i], err = p.slice(i, binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:]))
		if err != nil {
			return err
		}
		if err := p.inOrder(i, keys[i], lo, hi); err != nil {
			return err
		}
		lo = keys[i]
	}
	for i := range p.n {
		e := p.data[boltHeader+i*boltElement:]
		if err := w.walk(binary.LittleEndian.Uint64(e[8:]), keys[i], keys[i+1], depth+1, f); err != nil {
			return err
		}
	}
	return nil
}

// inOrder checks that the key follows lo, which is that of the element before or, for the
// first element, of the page above, and is below hi.
func (p *boltPage) inOrder(i int, key, lo, hi []byte) error {
	order := bytes.Compare(lo, key)
	if i > 0 && order >= 0 || i == 0 && order > 0 || hi != nil && bytes.Compare(key, hi) >= 0 {
		return fmt.Errorf("%w: page %d, element %d: key %x is out of order", errBolt, p.id, i, key)
	}
	return nil
}

// leaf checks a leaf page.
func (p *boltPage) leaf(lo, hi []byte, f func(flags uint32, key, value []byte) error) error {
	for i := range p.n {
		e := p.data[boltHeader+i*boltElement:]
		pos, klen := binary.LittleEndian.Uint32(e[4:]), binary.LittleEndian.Uint32(e[8:])
		vlen := binary.LittleEndian.Uint32(e[12:])
		if uint64(klen)+uint64(vlen) > uint64(len(p.data)) {
			return fmt.Errorf("%w: page %d, element %d: %d and %d bytes", errBolt, p.id, i, klen, vlen)
		}
		pair, err := p.slice(i, pos, klen+vlen)
		if err != nil {
			return err
		}
		key := pair[:klen]
		if err := p.inOrder(i, key, lo, hi); err != nil {
			return err
		}
		if err := f(binary.LittleEndian.Uint32(e), key, pair[klen:]); err != nil {
			return err
		}
		lo = key
	}
	return nil
}

// bucket checks the tree of a bucket, from the value that names its root page, or holds it.
func (w *boltWalk) bucket(value []byte) error {
	if len(value) < 16 {
		return fmt.Errorf("%w: a bucket of %d bytes", errBolt, len(value))
	}
	plain := func(flags uint32, key, _ []byte) error {
		if flags != 0 || len(key) != 8 {
			return fmt.Errorf("%w: key %x has flags %x", errBolt, key, flags)
		}
		return nil
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return w.walk(root, nil, nil, 0, plain)
	}
	p, err := parsePage(0, value[16:])
	if err != nil {
		return err
	}
	if p.kind != boltLeaf || binary.LittleEndian.Uint32(p.data[12:]) != 0 {
		return fmt.Errorf("%w: a page of kind %d inside a bucket", errBolt, p.kind)
	}
	return p.leaf(nil, nil, plain)
}
