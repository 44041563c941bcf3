package client

import (
	"context"
	"io"
	"slices"
	"sort"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/erasure"
	"eggsfs/wire"
)

// Limits of readers.
const (
	spanAhead   = 1 << 30          // bytes of a file whose spans are asked for at a time
	spanKeep    = 4096             // spans remembered of one file; a kilobyte each
	spanTrust   = 5 * time.Second  // a span this fresh is not asked for again for a lost block
	readPart    = 4 << 20          // bytes read at a time: a rebuild holds D times a D-th of it
	readerIdle  = 20 * time.Second // read-ahead that nobody came for is freed
	refetchMost = 8                // times that one read follows a span to other disks
)

// reader is a Reader.
type reader struct {
	c      *Client
	id     eggs.InodeID
	cookie []byte
	size   int64
	ctx    context.Context
	cancel context.CancelFunc

	smu   sync.Mutex
	spans []*span // by offset, not overlapping
	fetch chan struct{}

	ahead readAhead
}

// span is one span of a file, with what reads its blocks.
type span struct {
	off, size int64
	crc       uint32
	inline    []byte // the bytes, when it has no blocks
	layout    erasure.Layout
	certs     []*wire.Certificate
	crcs      []uint32 // of whole blocks
	class     uint32   // of disks, as asked for
	fetched   time.Time
}

func (s *span) end() int64 { return s.off + s.size }

// Open opens a finished file for reading.
func (c *Client) Open(ctx context.Context, id eggs.InodeID) (Reader, error) {
	if id.Kind() != eggs.KindFile {
		kind := eggs.Invalid
		if id.IsDir() {
			kind = eggs.IsDir
		}
		return nil, fail("Open", id, "", kind)
	}
	r := newReader(c, id, nil, 0)
	spans, size, err := r.getSpans(ctx, 0, spanAhead)
	if err != nil {
		r.cancel()
		return nil, fail("Open", id, "", err)
	}
	r.size = size
	r.keep(spans)
	c.files.addReader(r)
	return r, nil
}

// newReader makes a reader of size bytes; cookie is needed while the file is being made.
func newReader(c *Client, id eggs.InodeID, cookie []byte, size int64) *reader {
	r := &reader{c: c, id: id, cookie: cookie, size: size, fetch: make(chan struct{}, 1)}
	r.ctx, r.cancel = context.WithCancel(c.ctx)
	r.ahead.r = r
	return r
}

// Size is the file's.
func (r *reader) Size() int64 { return r.size }

// Close ends the reader; reads under way fail.
func (r *reader) Close() error {
	r.cancel()
	r.c.files.removeReader(r)
	r.ahead.clear()
	return nil
}

// ReadAt reads len(p) bytes, or up to the end of the file and io.EOF.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fail("ReadAt", r.id, "", eggs.Invalid)
	}
	var end error
	if off >= r.size {
		return 0, io.EOF
	}
	if int64(len(p)) > r.size-off {
		p, end = p[:r.size-off], io.EOF
	}
	ctx, cancel := r.c.limit(r.ctx)
	defer cancel()
	n, err := r.ahead.read(ctx, p, off)
	if err != nil {
		return n, fail("ReadAt", r.id, "", err)
	}
	return n, end
}

func (r *reader) expire(before time.Time) { r.ahead.expire(before) }

// direct fills p from off on, without read-ahead. What it fills is good.
func (r *reader) direct(ctx context.Context, p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		s, err := r.span(ctx, off+int64(n))
		if err != nil {
			return n, err
		}
		in := off + int64(n) - s.off
		part := p[n:min(int64(len(p)), int64(n)+min(s.size-in, readPart))]
		if s.inline != nil {
			copy(part, s.inline[in:])
		} else if err := r.patient(ctx, s, in, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// patient fills p from in on of a span. It follows the span when its blocks
// have moved, and waits for disks that are out of reach: until ctx is over
// while a node is down, since it may come back with them, else for goneAfter.
func (r *reader) patient(ctx context.Context, s *span, in int64, p []byte) error {
	pause := 20 * time.Millisecond
	moved := 0
	begin := time.Now()
	for {
		g := &gathering{r: r, s: s, in: in, p: p, bad: make(map[int]error)}
		err := g.fill(ctx)
		if err == nil {
			return nil
		}
		next, ferr := r.refetch(ctx, s)
		if ferr == nil && !sameBlocks(s, next) && moved < refetchMost {
			s = next
			moved++
			continue
		}
		g.tell()
		if eggs.KindOf(err) != eggs.Unavailable {
			return err
		}
		if time.Since(begin) > goneAfter && r.c.see().allAlive() {
			return &eggs.Error{Op: "client.ReadAt", Kind: eggs.IO, Err: err}
		}
		select {
		case <-ctx.Done():
			return &eggs.Error{Op: "client.ReadAt", Kind: eggs.IO, Err: err}
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Second)
	}
}

// goneAfter is how long a read waits for disks that no living node serves: a
// disk that moved to another node is announced within this time.
const goneAfter = 3 * time.Second

func sameBlocks(a, b *span) bool {
	if a.inline != nil || b.inline != nil || len(a.certs) != len(b.certs) || a.off != b.off {
		return false
	}
	for i := range a.certs {
		if a.certs[i].Block != b.certs[i].Block || a.certs[i].Disk != b.certs[i].Disk {
			return false
		}
	}
	return true
}

// span returns the span that holds byte off, from memory or from the shard.
func (r *reader) span(ctx context.Context, off int64) (*span, error) {
	if s := r.known(off); s != nil {
		return s, nil
	}
	select { // one asks, the others find the answer
	case r.fetch <- struct{}{}:
	case <-ctx.Done():
		return nil, late(ctx, false, nil)
	}
	defer func() { <-r.fetch }()
	if s := r.known(off); s != nil {
		return s, nil
	}
	spans, _, err := r.getSpans(ctx, off, spanAhead)
	if err != nil {
		return nil, err
	}
	r.keep(spans)
	for _, s := range spans {
		if s.off <= off && off < s.end() {
			return s, nil
		}
	}
	return nil, eggs.E("client.GetSpans", eggs.Corrupt, "the shard knows no span there")
}

func (r *reader) known(off int64) *span {
	r.smu.Lock()
	defer r.smu.Unlock()
	i := sort.Search(len(r.spans), func(i int) bool { return r.spans[i].end() > off })
	if i < len(r.spans) && r.spans[i].off <= off {
		return r.spans[i]
	}
	return nil
}

// keep remembers spans, in place of those they overlap.
func (r *reader) keep(spans []*span) {
	if len(spans) == 0 {
		return
	}
	lo, hi := spans[0].off, spans[len(spans)-1].end()
	r.smu.Lock()
	defer r.smu.Unlock()
	if len(r.spans)+len(spans) > spanKeep {
		r.spans = nil
	}
	out := make([]*span, 0, len(r.spans)+len(spans))
	i := 0
	for ; i < len(r.spans) && r.spans[i].end() <= lo; i++ {
		out = append(out, r.spans[i])
	}
	out = append(out, spans...)
	for ; i < len(r.spans); i++ {
		if r.spans[i].off >= hi {
			out = append(out, r.spans[i])
		}
	}
	r.spans = out
}

// forget has a span asked for again when it is next read.
func (r *reader) forget(s *span) {
	r.smu.Lock()
	defer r.smu.Unlock()
	if i := slices.Index(r.spans, s); i >= 0 {
		r.spans = slices.Delete(slices.Clone(r.spans), i, i+1)
	}
}

// refetch asks where a span's blocks are now.
func (r *reader) refetch(ctx context.Context, s *span) (*span, error) {
	spans, _, err := r.getSpans(ctx, s.off, 1)
	if err != nil {
		return nil, err
	}
	r.keep(spans)
	for _, n := range spans {
		if n.off == s.off && n.size == s.size {
			return n, nil
		}
	}
	return nil, eggs.E("client.GetSpans", eggs.Corrupt, "the span is gone")
}

// getSpans asks for the spans that touch [off, off+length), in order.
func (r *reader) getSpans(ctx context.Context, off, length int64) ([]*span, int64, error) {
	ans, err := r.c.Query(ctx, &wire.ShardQuery{
		Shard: uint32(r.shard()),
		Query: &wire.ShardQuery_GetSpans{GetSpans: &wire.GetSpans{
			File:   uint64(r.id),
			Offset: uint64(off), Length: uint64(length), Cookie: r.cookie,
		}},
	})
	if err != nil {
		return nil, 0, err
	}
	got := ans.GetGetSpans()
	certs := got.GetRead()
	var out []*span
	for _, w := range got.GetSpans() {
		s, n, err := spanOf(w, certs)
		if err != nil {
			return nil, 0, err
		}
		certs = certs[n:]
		if k := len(out); k > 0 && out[k-1].end() != s.off {
			return nil, 0, eggs.E("client.GetSpans", eggs.Corrupt, "spans do not follow each other")
		}
		out = append(out, s)
	}
	return out, int64(got.GetSize()), nil
}

// shard is where the file's spans are.
func (r *reader) shard() eggs.ShardID { return r.id.Shard() }

// spanOf converts a span; it takes n of the certificates.
func spanOf(w *wire.Span, certs []*wire.Certificate) (s *span, n int, err error) {
	s = &span{off: int64(w.Offset), size: int64(w.Size), crc: w.Crc, class: w.Class, fetched: time.Now()}
	bad := func(text string) (*span, int, error) {
		return nil, 0, eggs.E("client.GetSpans", eggs.Corrupt, text)
	}
	if len(w.Locations) == 0 {
		if int64(len(w.Inline)) != s.size || erasure.CRC(w.Inline) != w.Crc || s.size == 0 {
			return bad("an inline span's checksum is wrong")
		}
		s.inline = w.Inline
		return s, 0, nil
	}
	loc := w.Locations[0]
	s.layout = erasure.Layout{
		Size: s.size, Stripes: uint8(loc.Stripes), CellSize: loc.CellSize,
		Parity: eggs.Parity{D: uint8(loc.D), P: uint8(loc.P)},
	}
	if err := s.layout.Check(); err != nil {
		return bad(err.Error())
	}
	n = s.layout.Parity.Blocks()
	if len(loc.Blocks) != n || len(certs) < n {
		return bad("a span with too few blocks or certificates")
	}
	s.certs = certs[:n:n]
	for i, b := range loc.Blocks {
		if s.certs[i].Block != b.Id || s.certs[i].Disk != b.Disk {
			return bad("a certificate for another block")
		}
		s.crcs = append(s.crcs, b.Crc)
	}
	for _, other := range w.Locations[1:] { // certificates of further copies follow
		n += len(other.Blocks)
	}
	if len(certs) < n {
		return bad("too few certificates")
	}
	return s, n, nil
}
