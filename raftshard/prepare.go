package raftshard

import (
	"context"
	"fmt"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// Limits of a request. An entry is held in memory by every replica, and a
// batch of them is one frame between them.
const (
	MaxVerbs        = 1024    // verbs
	MaxRequestBytes = 2 << 20 // bytes: a batch of small files, or 32 inline spans
)

// checkRequest refuses what makes no sense whatever the state.
func checkRequest(shard eggs.ShardID, r *wire.ShardRequest) error {
	const op = "raftshard.Do"
	switch {
	case r.Shard != uint32(shard):
		return eggs.E(op, eggs.Invalid, fmt.Sprintf("this is shard %d, not %d", shard, r.Shard))
	case len(r.Verbs) > MaxVerbs:
		return eggs.E(op, eggs.TooLarge, fmt.Sprintf(
			"%d verbs; the limit is %d", len(r.Verbs), MaxVerbs))
	case r.Session == 0 && r.Fence == nil && len(r.Verbs) > 1:
		return eggs.E(op, eggs.BadSession, "only OpenSession, alone, needs none")
	}
	return nil
}

// preparation is the leader's half of a change: it looks at the clock, the disks and
// the key, and writes what it saw into the entry.
type preparation struct {
	view   glance
	key    *auth.Key
	blocks Blocks
	entry  *wire.ShardEntry
	req    *wire.ShardRequest
	made   eggs.InodeID                   // the file constructed last; 0: its id is not known yet
	fresh  func() (raftgroup.View, error) // a view as of now, for what view does not show yet
}

// glance is a view of what this replica has applied, opened when first needed:
// most requests need none.
type glance struct {
	group Group
	view  raftgroup.View
}

func (g *glance) reader() raftgroup.Reader {
	if g.view == nil {
		g.view = g.group.Local()
	}
	return g.view
}

func (g *glance) close() {
	if g.view != nil {
		g.view.Close()
	}
}

func (p *preparation) run() {
	for i, v := range p.req.Verbs {
		p.verb(uint32(i), v)
	}
}

func (p *preparation) verb(i uint32, v *wire.Verb) {
	switch x := v.GetVerb().(type) {
	case *wire.Verb_Construct:
		p.made = eggs.InodeID(x.Construct.GetId())
	case *wire.Verb_AddInline:
		p.cookie(i, x.AddInline.GetFile(), x.AddInline.GetCookie())
	case *wire.Verb_InitiateSpan:
		p.cookie(i, x.InitiateSpan.GetFile(), x.InitiateSpan.GetCookie())
		p.entry.Choices = append(p.entry.Choices, p.choose(x.InitiateSpan))
	case *wire.Verb_CertifySpan:
		p.cookie(i, x.CertifySpan.GetFile(), x.CertifySpan.GetCookie())
		if !p.written(x.CertifySpan) {
			p.entry.Unproven = append(p.entry.Unproven, i)
		}
	case *wire.Verb_LinkFile:
		p.cookie(i, x.LinkFile.GetFile(), x.LinkFile.GetCookie())
	case *wire.Verb_Scrap:
		p.cookie(i, x.Scrap.GetFile(), x.Scrap.GetCookie())
	case *wire.Verb_SetAttr:
		p.cookie(i, x.SetAttr.GetId(), x.SetAttr.GetCookie())
	case *wire.Verb_SetXattr:
		p.cookie(i, x.SetXattr.GetId(), x.SetXattr.GetCookie())
	case *wire.Verb_SwapSpan:
		p.cookie(i, x.SwapSpan.GetScratch(), x.SwapSpan.GetCookie())
	case *wire.Verb_RemoveSpan:
		if !p.erased(x.RemoveSpan) {
			p.entry.Unproven = append(p.entry.Unproven, i)
		}
	}
}

// cookie lists the verb as denied unless its cookie is the file's. Apply looks
// at that only where a cookie is needed.
func (p *preparation) cookie(i uint32, file uint64, cookie []byte) {
	if file != 0 && !p.key.CheckCookie(eggs.InodeID(file), cookie) {
		p.entry.Denied = append(p.entry.Denied, i)
	}
}

// file returns the file that a verb names.
func (p *preparation) file(id uint64) eggs.InodeID {
	if id == 0 {
		return p.made
	}
	return eggs.InodeID(id)
}

// choose picks disks for a span, unless the view shows that it was started before.
func (p *preparation) choose(v *wire.InitiateSpan) *wire.Choice {
	if v == nil || checkSpan(0, v) != nil {
		return nil // apply refuses it
	}
	id := p.file(v.File)
	c := BlockChoice{
		File: id, Parity: eggs.Parity{D: uint8(v.D), P: uint8(v.P)},
		BlockSize: v.Stripes * v.CellSize, Class: uint8(v.Class),
	}
	for _, d := range v.Blacklist {
		c.Blacklist = append(c.Blacklist, eggs.DiskID(d))
	}
	for _, d := range v.Apart {
		c.Apart = append(c.Apart, eggs.DiskID(d))
	}
	if t, s := p.lastSpan(id); s != nil {
		if wire.SpanState(t.State) == wire.SpanState_DIRTY && v.Offset == t.File.Last &&
			!v.Replace && sameSpan(s, v) {
			return nil
		}
		for _, b := range s.blocks() {
			c.Prefer = append(c.Prefer, eggs.DiskID(b.Disk))
		}
	}
	disks, err := p.blocks.Choose(c)
	if err != nil {
		return &wire.Choice{Error: wire.ErrorOf(err)}
	}
	choice := &wire.Choice{}
	for _, d := range disks {
		choice.Disks = append(choice.Disks, uint64(d))
	}
	return choice
}

// lastSpan returns the last span of a file under construction, nil when the
// view shows none.
func (p *preparation) lastSpan(id eggs.InodeID) (*TransientRecord, *span) {
	if id == 0 {
		return nil, nil
	}
	t, ok := load[TransientRecord](p.view.reader(), key1(tableTransient, id))
	if !ok || t.File.GetSpans() == 0 {
		return nil, nil
	}
	s, ok := spanRecord(p.view.reader(), id, t.File.Last)
	if !ok {
		return nil, nil
	}
	return t, s
}

// written reports whether the proofs are those of the span's blocks. Apply
// checks that the span at that place still has the blocks that they name; what a block id
// stands for never changes.
func (p *preparation) written(v *wire.CertifySpan) bool {
	id := p.file(v.GetFile())
	s, ok := spanRecord(p.view.reader(), id, v.GetOffset())
	if !ok {
		// A new leader may not have applied yet what its predecessor answered.
		view, err := p.fresh()
		if err != nil {
			return false
		}
		defer view.Close()
		if s, ok = spanRecord(view, id, v.GetOffset()); !ok {
			return false
		}
	}
	blocks := p.key.Blocks()
	i := 0
	for _, l := range s.locations {
		for _, b := range l.Blocks {
			if i >= len(v.Proofs) || v.Proofs[i].GetDisk() != b.Disk ||
				v.Proofs[i].GetBlock() != b.Id || !blocks.CheckWriteProof(auth.BlockCert{
				Disk: eggs.DiskID(b.Disk), Block: eggs.BlockID(b.Id),
				Size: blockSize(l), CRC: b.Crc,
			}, v.Proofs[i].Mac) {
				return false
			}
			i++
		}
	}
	return i == len(v.Proofs)
}

// erased reports whether each proof is a disk's word that the block it names is erased,
// or the disk will never give its word.
func (p *preparation) erased(v *wire.RemoveSpan) bool {
	blocks := p.key.Blocks()
	for _, f := range v.GetProofs() {
		if len(f.GetMac()) == 0 && p.blocks.Retired(eggs.DiskID(f.GetDisk())) {
			continue
		}
		if !blocks.CheckEraseProof(auth.BlockCert{
			Disk: eggs.DiskID(f.GetDisk()), Block: eggs.BlockID(f.GetBlock()),
		}, f.GetMac()) {
			return false
		}
	}
	return true
}

// seal makes the cookies and MACs of an answer, which the log does not hold.
func seal(key *auth.Key, reply *wire.ShardReply) *wire.ShardReply {
	for _, r := range reply.GetResults() {
		switch x := r.GetResult().(type) {
		case *wire.Result_Constructed:
			x.Constructed.Cookie = key.Cookie(eggs.InodeID(x.Constructed.Id))
		case *wire.Result_SpanInitiated:
			for _, c := range x.SpanInitiated.Certificates {
				c.Mac = key.Blocks().WriteMAC(blockCert(c))
			}
		case *wire.Result_SpanCondemned:
			for _, c := range x.SpanCondemned.Erase {
				c.Mac = key.Blocks().EraseMAC(blockCert(c))
			}
		}
	}
	return reply
}

func blockCert(c *wire.Certificate) auth.BlockCert {
	return auth.BlockCert{
		Disk: eggs.DiskID(c.Disk), Block: eggs.BlockID(c.Block),
		Size: c.Size, CRC: c.Crc, Mark: c.Mark,
	}
}

// sessionAnswer returns the answer that a request was given before, if it is remembered.
func (s *Shard) sessionAnswer(g *glance, req *wire.ShardRequest) *wire.ShardReply {
	if req.Session == 0 || req.Fence != nil || s.machine.begun.fresh(req.Session, req.Sequence) {
		return nil
	}
	b, ok := sessions.Look(g.reader(), req.Session, req.Sequence)
	if !ok {
		return nil
	}
	reply := &wire.ShardReply{}
	if reply.UnmarshalVT(b) != nil {
		return nil
	}
	return reply
}

// prepare makes the entry of a request, or returns the answer that it was given before.
func (s *Shard) prepare(
	ctx context.Context, req *wire.ShardRequest,
) (*wire.ShardReply, []byte, error) {
	p := preparation{
		view: glance{group: s.group}, key: s.key, blocks: s.blocks, req: req,
		entry: &wire.ShardEntry{
			Clock: int64(s.clock()), Version: FormatVersion, Request: req,
		},
		fresh: func() (raftgroup.View, error) { return s.group.Read(ctx) },
	}
	defer p.view.close()
	if reply := s.sessionAnswer(&p.view, req); reply != nil {
		return reply, nil, nil
	}
	p.run()
	if n := p.entry.SizeVT(); n > MaxRequestBytes {
		return nil, nil, eggs.E("raftshard.Do", eggs.TooLarge, fmt.Sprintf(
			"the request has %d bytes; the limit is %d", n, MaxRequestBytes))
	}
	return nil, encode(p.entry), nil
}
