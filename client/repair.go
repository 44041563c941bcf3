package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/erasure"
	"eggsfs/wire"
)

// Limits of a repair.
const (
	// scratchLife is how long what a crashed repairer left stays; it bounds how long a span may take.
	scratchLife = 5 * time.Minute
	// replaceTries is how many times other disks are asked for when some fail.
	replaceTries = 4
)

// BlockSpan is a span of blocks of a linked file, as it was when asked for.
type BlockSpan struct {
	File   eggs.InodeID
	Offset int64 // in the file, bytes
	Size   int64 // bytes of the span
	Parity eggs.Parity
	Blocks []*wire.Certificate // what reads each block: disk, id, size in bytes, checksum

	s *span
}

// BlockSize is the bytes of each block.
func (b *BlockSpan) BlockSize() int64 { return int64(b.s.layout.BlockSize()) }

// BlockSpans lists spans of a file from offset on, inline ones left out; next
// is where to go on, 0 at the end. Kind NotExist when the file is gone,
// Permission while it is under construction or being destroyed.
func (c *Client) BlockSpans(ctx context.Context, id eggs.InodeID, offset int64) (
	spans []*BlockSpan, next int64, err error,
) {
	r := &reader{c: c, id: id}
	got, size, err := r.getSpans(ctx, offset, 0)
	if err != nil {
		return nil, 0, fail("BlockSpans", id, "", err)
	}
	for _, s := range got {
		if next = s.end(); s.inline == nil {
			spans = append(spans, &BlockSpan{
				File: id, Offset: s.off, Size: s.size, Parity: s.layout.Parity, Blocks: s.certs, s: s,
			})
		}
	}
	if next >= size || len(got) == 0 {
		next = 0
	}
	return spans, next, nil
}

// Class is which disks the span wants; eggs.ClassAny: any.
func (b *BlockSpan) Class() uint8 { return uint8(b.s.class) }

// Recovered is what RecoverBlocks found.
type Recovered struct {
	Blocks map[int][]byte // by position: those asked for, and others that proved bad
	Bad    []int          // positions, not asked for, that are missing or wrong on their disks
	Copied int            // of Blocks, those that were read from their own disk
	bufs   []*erasure.Buffer
}

// Release gives the blocks' memory back.
func (r *Recovered) Release() {
	for _, b := range r.bufs {
		b.Release()
	}
	r.bufs, r.Blocks = nil, nil
}

// RecoverBlocks gets the bytes of blocks of a span by their positions: from
// their own disks when those have them, else rebuilt from others. Every block
// is checked as a whole. Kind Corrupt when fewer than D blocks are good,
// Unavailable when that is so because disks are out of reach.
func (c *Client) RecoverBlocks(ctx context.Context, b *BlockSpan, want []int) (*Recovered, error) {
	rec := &Recovered{Blocks: make(map[int][]byte)}
	g := &gathering{
		r: &reader{c: c, id: b.File}, s: b.s, bad: make(map[int]error),
	}
	blocks := make([][]byte, len(b.Blocks))
	pic := c.see()
	var first, rest []int // own copies first; what is out of reach last
	for i := range b.Blocks {
		switch wanted := slices.Contains(want, i); {
		case wanted && pic.reachable(certOf(b.Blocks[i])):
			first = append(first, i)
		case !wanted:
			rest = append(rest, i)
		}
	}
	c.wholeBlocks(ctx, g, rec, first, blocks)
	rec.Copied = len(rec.Blocks)
	if err := c.rebuildWhole(ctx, g, rec, want, rest, blocks); err != nil {
		rec.Release()
		return nil, fail("RecoverBlocks", b.File, "", err)
	}
	for i := range rec.Blocks {
		if !slices.Contains(want, i) && g.bad[i] == nil {
			delete(rec.Blocks, i) // was read to rebuild others
		}
	}
	return rec, nil
}

// rebuildWhole makes what is missing of want, and what proves bad meanwhile, out of rest.
func (c *Client) rebuildWhole(ctx context.Context, g *gathering, rec *Recovered, want, rest []int,
	blocks [][]byte,
) error {
	missing := func() (out []int) {
		for i := range blocks {
			if blocks[i] == nil && (slices.Contains(want, i) || eggs.KindOf(g.bad[i]) == eggs.Corrupt ||
				eggs.KindOf(g.bad[i]) == eggs.NotExist) {
				out = append(out, i)
			}
		}
		return out
	}
	if len(missing()) == 0 {
		return nil
	}
	pic := c.see()
	slices.SortStableFunc(rest, func(a, b int) int {
		return boolInt(g.avoided(pic, a)) - boolInt(g.avoided(pic, b))
	})
	d := int(g.s.layout.Parity.D)
	for len(rec.Blocks) < d {
		n := d - len(rec.Blocks)
		if len(rest) < n {
			return g.tooFew(n - len(rest))
		}
		c.wholeBlocks(ctx, g, rec, rest[:n], blocks)
		rest = rest[n:]
		if ctx.Err() != nil {
			return late(ctx, false, nil)
		}
	}
	lost := missing()
	for _, i := range lost {
		if !slices.Contains(want, i) {
			rec.Bad = append(rec.Bad, i)
		}
	}
	if err := erasure.Rebuild(g.s.layout, blocks, lost); err != nil {
		return err
	}
	for _, i := range lost {
		if crc := erasure.CRC(blocks[i]); crc != g.s.crcs[i] {
			return eggs.E("client.Rebuild", eggs.Corrupt, fmt.Sprintf(
				"block %d of the span at %d: checksum %08x, wanted %08x", i, g.s.off, crc, g.s.crcs[i]))
		}
		rec.Blocks[i] = blocks[i]
	}
	return nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// wholeBlocks reads blocks as a whole, all at the same time, and notes in g which are bad.
func (c *Client) wholeBlocks(ctx context.Context, g *gathering, rec *Recovered, which []int, blocks [][]byte) {
	size := g.s.layout.BlockSize()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, i := range which {
		buf := erasure.NewBuffer(int(size))
		rec.bufs = append(rec.bufs, buf)
		wg.Go(func() {
			err := c.getBlock(ctx, g.s.certs[i], 0, size, func(at uint32, pages []byte) {
				copy(buf.Bytes[at:], pages)
			})
			if err == nil && erasure.CRC(buf.Bytes) != g.s.crcs[i] {
				err = eggs.E("client.GetBlock", eggs.Corrupt, "a block holds other bytes than were written")
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				g.bad[i] = err
				return
			}
			blocks[i] = buf.Bytes
			rec.Blocks[i] = buf.Bytes
		})
	}
	wg.Wait()
}

// ReplaceBlocks puts the bytes of blocks, by position, on other disks, and
// exchanges them for the span's: in one step, if the span still has the blocks
// that b says. avoid are disks that are not to be used. The old blocks are the
// collector's. Kind Conflict when the span or its file has changed meanwhile, NoSpace when there
// is no place for them, BadDisk when disks fail.
func (c *Client) ReplaceBlocks(ctx context.Context, b *BlockSpan, blocks map[int][]byte, avoid []eggs.DiskID) error {
	at := make([]int, 0, len(blocks))
	for i := range blocks {
		at = append(at, i)
	}
	slices.Sort(at)
	most := max(1, min(eggs.MaxParity, int(eggs.MaxSpan/b.BlockSize())))
	for len(at) > 0 {
		part := at[:min(len(at), most)]
		at = at[len(part):]
		t := &transplant{c: c, b: b, at: part, blocks: blocks, avoid: slices.Clone(avoid)}
		if err := t.run(ctx); err != nil {
			return fail("ReplaceBlocks", b.File, "", err)
		}
	}
	return nil
}

// transplant is some blocks of a span on their way to other disks, through a scratch file.
type transplant struct {
	c      *Client
	b      *BlockSpan
	at     []int // positions
	blocks map[int][]byte
	avoid  []eggs.DiskID

	file   uint64 // the scratch file; 0: not made yet
	cookie []byte
	certs  []*wire.Certificate
}

func (t *transplant) run(ctx context.Context) error {
	proofs, err := t.write(ctx)
	if err == nil {
		err = t.swap(ctx, proofs)
	}
	if err != nil && t.file != 0 && eggs.KindOf(err) != eggs.Indeterminate {
		// The collector need not wait for the file to expire.
		scrap := &wire.Scrap{File: t.file, Cookie: t.cookie}
		if _, serr := t.c.Shard(ctx, t.b.File.Shard(), &wire.Verb{Verb: &wire.Verb_Scrap{Scrap: scrap}}); serr != nil {
			t.c.log.Debug("a scratch file is left to expire", "file", eggs.InodeID(t.file), "err", serr)
		}
	}
	return err
}

// write makes the new blocks durable, on other disks for as long as some fail.
func (t *transplant) write(ctx context.Context) ([]*wire.Proof, error) {
	for try := 0; ; try++ {
		if err := t.initiate(ctx); err != nil {
			return nil, err
		}
		proofs, bad, err := t.put(ctx)
		if err == nil {
			return proofs, nil
		}
		if ctx.Err() != nil {
			return nil, &eggs.Error{Op: "client.PutBlock", Kind: eggs.Canceled, Err: ctx.Err()}
		}
		if try == replaceTries {
			return nil, &eggs.Error{Op: "client.PutBlock", Kind: eggs.BadDisk, Disks: bad, Err: err}
		}
		t.avoid = append(t.avoid, bad...)
	}
}

// initiate has disks chosen: a scratch span whose blocks are the ones to replace, and nothing else.
func (t *transplant) initiate(ctx context.Context) error {
	size := uint32(t.b.BlockSize())
	init := &wire.InitiateSpan{
		File: t.file, Cookie: t.cookie, Size: uint64(len(t.at)) * uint64(size), D: uint32(len(t.at)),
		Stripes: 1, CellSize: size, Class: t.b.s.class, Replace: t.file != 0,
	}
	for i, cert := range t.b.Blocks {
		if !slices.Contains(t.at, i) {
			init.Apart = append(init.Apart, cert.Disk)
		}
	}
	for n, i := range t.at {
		crc := t.b.Blocks[i].Crc
		init.BlockCrcs = append(init.BlockCrcs, crc)
		if n == 0 {
			init.Crc = crc
		} else {
			init.Crc = erasure.CombineCRC(init.Crc, crc, int64(size))
		}
	}
	init.StripeCrcs = []uint32{init.Crc}
	for _, d := range t.avoid {
		init.Blacklist = append(init.Blacklist, uint64(d))
	}
	var verbs []*wire.Verb
	if t.file == 0 {
		verbs = append(verbs, &wire.Verb{Verb: &wire.Verb_Construct{Construct: &wire.Construct{
			Mode: 0o600, Name: "repair of " + t.b.File.String(), LifeNs: int64(scratchLife),
		}}})
	}
	verbs = append(verbs, &wire.Verb{Verb: &wire.Verb_InitiateSpan{InitiateSpan: init}})
	reply, err := t.c.Shard(ctx, t.b.File.Shard(), verbs...)
	if err != nil {
		return err
	}
	if t.file == 0 {
		made, err := resultOf[*wire.Result_Constructed](reply, 0)
		if err != nil {
			return err
		}
		t.file, t.cookie = made.Constructed.Id, made.Constructed.Cookie
	}
	got, err := resultOf[*wire.Result_SpanInitiated](reply, len(verbs)-1)
	if err != nil {
		return err
	}
	if t.certs = got.SpanInitiated.Certificates; len(t.certs) != len(t.at) {
		return eggs.E("client.ReplaceBlocks", eggs.Corrupt, "the answer has too few certificates")
	}
	return nil
}

// put writes all blocks at the same time. bad are the disks that failed.
func (t *transplant) put(ctx context.Context) (proofs []*wire.Proof, bad []eggs.DiskID, err error) {
	proofs = make([]*wire.Proof, len(t.certs))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for n, cert := range t.certs {
		wg.Go(func() {
			data := t.blocks[t.at[n]]
			proof, perr := t.c.putBlock(ctx, cert, erasure.PageCRCs(nil, data), [][]byte{data})
			proofs[n] = proof
			if perr != nil {
				mu.Lock()
				defer mu.Unlock()
				bad = append(bad, certOf(cert))
				err = errors.Join(err, perr)
			}
		})
	}
	wg.Wait()
	return proofs, bad, err
}

// swap certifies the new blocks and gives them to the span.
func (t *transplant) swap(ctx context.Context, proofs []*wire.Proof) error {
	swap := &wire.SwapSpan{
		File: uint64(t.b.File), Offset: uint64(t.b.Offset), Scratch: t.file, Cookie: t.cookie,
	}
	for _, i := range t.at {
		swap.Positions = append(swap.Positions, uint32(i))
		swap.Old = append(swap.Old, t.b.Blocks[i].Block)
	}
	certify := &wire.CertifySpan{File: t.file, Cookie: t.cookie, Proofs: proofs}
	_, err := t.c.Shard(ctx, t.b.File.Shard(),
		&wire.Verb{Verb: &wire.Verb_CertifySpan{CertifySpan: certify}},
		&wire.Verb{Verb: &wire.Verb_SwapSpan{SwapSpan: swap}})
	return err
}
