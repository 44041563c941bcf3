package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/erasure"
)

// gathering is one read of a part of one span: which bytes of which blocks
// are wanted, and which blocks have proved bad.
type gathering struct {
	r   *reader
	s   *span
	in  int64  // of the span
	p   []byte // goes there
	mu  sync.Mutex
	bad map[int]error // by block: why it cannot be used
	// lost are those of bad that are not where they should be, unless they have moved.
	lost []int
}

// tell reports the blocks that are lost.
func (g *gathering) tell() {
	for _, b := range g.lost {
		g.r.c.badBlock(g.r.id, g.s, b, g.bad[b])
	}
	g.lost = nil
}

// piece is a range of a block, of whole pages when it is read.
type piece struct {
	block    int
	from, to uint32
}

// fill reads what is wanted. Kinds: Unavailable when so many disks are out of
// reach that waiting may help, Corrupt or IO when fewer than D blocks are good.
func (g *gathering) fill(ctx context.Context) error {
	missing := g.readData(ctx, g.wanted())
	if ctx.Err() != nil && len(missing) > 0 {
		return late(ctx, false, nil)
	}
	if len(missing) > 0 {
		if err := g.rebuild(ctx, missing); err != nil {
			return err
		}
	}
	g.tell()
	if g.in == 0 && int64(len(g.p)) == g.s.size && erasure.CRC(g.p) != g.s.crc {
		return g.salvage(ctx)
	}
	return nil
}

// wanted lists the pieces of data blocks; mirrors take turns by block id.
func (g *gathering) wanted() []piece {
	d := int(g.s.layout.Parity.D)
	if d == 1 {
		first := int(g.s.certs[0].Block>>8) % len(g.s.certs)
		from := uint32(g.in)
		return []piece{{first, from, from + uint32(len(g.p))}}
	}
	var pieces [eggs.MaxParity]piece
	for e := range g.s.layout.Extents(g.in, int64(len(g.p))) {
		q := &pieces[e.Block]
		if q.to == 0 {
			*q = piece{e.Block, e.Offset, e.Offset + e.Length}
			continue
		}
		q.to = e.Offset + e.Length // later cells lie further back in the same block
	}
	var out []piece
	for _, q := range pieces[:d] {
		if q.to > 0 {
			out = append(out, q)
		}
	}
	return out
}

// readData reads pieces at the same time and returns those it did not get.
// Disks that are known to be out of reach are not asked while there are others.
func (g *gathering) readData(ctx context.Context, want []piece) (missing []piece) {
	pic := g.r.c.see()
	var ask []piece
	for _, q := range want {
		if g.avoided(pic, q.block) {
			missing = append(missing, q)
			continue
		}
		ask = append(ask, q)
	}
	if len(missing) > int(g.s.layout.Parity.P) {
		ask, missing = want, nil
	}
	get := func(q piece) {
		err := g.get(ctx, q, func(at uint32, pages []byte) { g.place(q.block, at, pages) })
		if err != nil {
			g.mu.Lock()
			missing = append(missing, q)
			g.mu.Unlock()
		}
	}
	if len(ask) == 1 {
		get(ask[0])
		return missing
	}
	var wg sync.WaitGroup
	for _, q := range ask {
		wg.Go(func() { get(q) })
	}
	wg.Wait()
	return missing
}

// avoided reports whether a block's disk is better not asked.
func (g *gathering) avoided(pic *picture, block int) bool {
	d := certOf(g.s.certs[block])
	return !pic.reachable(d) || g.r.c.bad.unreadable(d)
}

// get reads one piece and notes why it failed.
func (g *gathering) get(ctx context.Context, q piece, sink func(at uint32, pages []byte)) error {
	cert := g.s.certs[q.block]
	err := g.r.c.getBlock(ctx, cert, q.from, q.to-q.from, sink)
	if err == nil {
		g.r.c.bad.answered(certOf(cert))
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	g.mu.Lock()
	g.bad[q.block] = err
	g.mu.Unlock()
	switch kind := eggs.KindOf(err); {
	case kind == eggs.Unavailable:
		g.r.c.bad.noRead(certOf(cert))
	case kind == eggs.NotExist && time.Since(g.s.fetched) > spanTrust:
		g.r.forget(g.s) // it may have moved since
	case kind == eggs.NotExist:
		g.mu.Lock()
		g.lost = append(g.lost, q.block)
		g.mu.Unlock()
	default:
		g.r.c.badBlock(g.r.id, g.s, q.block, err)
	}
	return err
}

// place copies bytes of a data block to where they belong in p. Several
// blocks' bytes never go to the same place.
func (g *gathering) place(block int, at uint32, data []byte) {
	l := g.s.layout
	if l.Parity.D == 1 {
		block = 0
	}
	for len(data) > 0 {
		run := min(int(l.CellSize-at%l.CellSize), len(data))
		from := l.SpanOffset(block, at) - g.in // in p
		part := data[:run]
		data, at = data[run:], at+uint32(run)
		if from < 0 {
			part = part[min(-from, int64(len(part))):]
			from = 0
		}
		if from < int64(len(g.p)) {
			copy(g.p[from:], part)
		}
	}
}

// rebuild makes the missing pieces out of D other blocks.
func (g *gathering) rebuild(ctx context.Context, missing []piece) error {
	g.r.c.count.rebuilt.Add(1)
	from, to := missing[0].from, missing[0].to
	want := make([]int, 0, len(missing))
	for _, q := range missing {
		from, to = min(from, q.from), max(to, q.to)
		want = append(want, q.block)
	}
	from, to = erasure.PageRange(from, to-from)
	blocks, release, err := g.collect(ctx, want, from, to)
	defer release()
	if err != nil {
		return err
	}
	if err := erasure.Rebuild(g.s.layout, blocks, want); err != nil {
		return err
	}
	for _, b := range want {
		g.place(b, from, blocks[b])
	}
	return nil
}

// collect reads [from, to) of D good blocks. Those that failed are not asked
// again, those to be avoided last. release frees what it returns.
func (g *gathering) collect(ctx context.Context, want []int, from, to uint32) (
	blocks [][]byte, release func(), err error,
) {
	need := int(g.s.layout.Parity.D)
	blocks = make([][]byte, len(g.s.certs))
	var bufs []*erasure.Buffer
	release = func() {
		for _, b := range bufs {
			b.Release()
		}
	}
	order := g.order(want)
	for need > 0 {
		if len(order) < need {
			return nil, release, g.tooFew(need)
		}
		var wg sync.WaitGroup
		for _, b := range order[:need] {
			buf := erasure.NewBuffer(int(to - from))
			bufs = append(bufs, buf)
			wg.Go(func() {
				err := g.get(ctx, piece{b, from, to}, func(at uint32, pages []byte) {
					copy(buf.Bytes[at-from:], pages)
				})
				if err == nil {
					blocks[b] = buf.Bytes
				}
			})
		}
		wg.Wait()
		if ctx.Err() != nil {
			return nil, release, late(ctx, false, nil)
		}
		asked := order[:need]
		order = order[need:]
		for _, b := range asked {
			if blocks[b] != nil {
				need--
			}
		}
	}
	return blocks, release, nil
}

// order lists the blocks to rebuild from, without those that failed: avoided
// ones last, and behind them the wanted ones, which were avoided as well.
func (g *gathering) order(want []int) []int {
	pic := g.r.c.see()
	wanted := make(map[int]bool, len(want))
	for _, b := range want {
		wanted[b] = true
	}
	var good, avoided, last []int
	for b := range g.s.certs {
		switch {
		case g.bad[b] != nil:
		case wanted[b]:
			last = append(last, b)
		case g.avoided(pic, b):
			avoided = append(avoided, b)
		default:
			good = append(good, b)
		}
	}
	return append(append(good, avoided...), last...)
}

// tooFew says why a span cannot be read.
func (g *gathering) tooFew(missing int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all error
	kind := eggs.Kind(eggs.Other)
	for _, err := range g.bad {
		all = errors.Join(all, err)
		switch k := eggs.KindOf(err); {
		case k == eggs.Unavailable || kind == eggs.Unavailable:
			kind = eggs.Unavailable
		case k == eggs.Corrupt || kind == eggs.Corrupt:
			kind = eggs.Corrupt
		default:
			kind = eggs.IO
		}
	}
	if kind == eggs.Other {
		kind = eggs.Unavailable // avoided ones only
	}
	return &eggs.Error{Op: "client.ReadAt", Inode: g.r.id, Kind: kind, Err: fmt.Errorf(
		"span at %d of %s lacks %d good blocks: %w", g.s.off, g.s.layout.Parity, missing, all)}
}

// salvage fills p, the whole span, from blocks whose own checksum is right: each
// page was good by itself, but some block is not the one that was written.
func (g *gathering) salvage(ctx context.Context) error {
	size := g.s.layout.BlockSize()
	d := int(g.s.layout.Parity.D)
	blocks := make([][]byte, len(g.s.certs))
	good := 0
	var want []int
	for b := range blocks {
		whole := make([]byte, size)
		err := g.get(ctx, piece{b, 0, size}, func(at uint32, pages []byte) { copy(whole[at:], pages) })
		if err == nil && erasure.CRC(whole) != g.s.crcs[b] {
			err = eggs.E("client.ReadAt", eggs.Corrupt, "a block holds other bytes than were written")
			g.bad[b] = err
			g.r.c.badBlock(g.r.id, g.s, b, err)
		}
		if err == nil {
			blocks[b] = whole
			good++
		} else if b < d {
			want = append(want, b)
		}
	}
	if good < d {
		return g.tooFew(d - good)
	}
	if err := erasure.Rebuild(g.s.layout, blocks, want); err != nil {
		return err
	}
	for b := range d {
		g.place(b, 0, blocks[b])
	}
	if found := erasure.CRC(g.p); found != g.s.crc {
		return &eggs.Error{Op: "client.ReadAt", Inode: g.r.id, Kind: eggs.Corrupt, Err: fmt.Errorf(
			"span at %d: checksum %08x, wanted %08x", g.s.off, found, g.s.crc)}
	}
	return nil
}

// badBlock counts and tells of a block that is missing or wrong.
func (c *Client) badBlock(file eggs.InodeID, s *span, block int, err error) {
	c.count.badBlocks.Add(1)
	c.reportBad(file, s, block)
	c.log.Warn("a block is bad, its bytes are rebuilt", "file", file, "offset", s.off,
		"disk", certOf(s.certs[block]), "block", eggs.BlockID(s.certs[block].Block), "err", err)
}
