package raftshard

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// maxBlacklist bounds the disks that a writer may refuse: those that failed it.
const maxBlacklist = 1024

// addInline adds a span whose bytes live here.
func (a *apply) addInline(v *wire.AddInline) (*wire.Result, error) {
	id, t, err := a.writing(v.File)
	if err != nil {
		return nil, err
	}
	if len(v.Data) == 0 || len(v.Data) > eggs.MaxInline {
		return nil, fail(eggs.TooLarge, id, "", fmt.Sprintf(
			"%d bytes; an inline span has 1 to %d", len(v.Data), eggs.MaxInline))
	}
	if err := atEnd(id, t, v.Offset, uint64(len(v.Data))); err != nil {
		return nil, err
	}
	if crc := crc32.Checksum(v.Data, castagnoli); crc != v.Crc {
		return nil, fail(eggs.Corrupt, id, "", fmt.Sprintf(
			"the bytes' checksum is %08x; the request says %08x", crc, v.Crc))
	}
	s := &span{SpanRecord: &SpanRecord{
		Size: uint64(len(v.Data)), Crc: v.Crc, Inline: v.Data,
	}}
	a.appendSpan(id, t, s)
	a.certified(t, s)
	return nil, nil
}

// atEnd checks that a span starts where the file ends, and that the file may have it.
func atEnd(id eggs.InodeID, t *TransientRecord, offset, size uint64) error {
	switch {
	case wire.SpanState(t.State) != wire.SpanState_CLEAN:
		return fail(eggs.Conflict, id, "", "the last span is not certified")
	case offset != t.File.Size:
		return fail(eggs.Conflict, id, "", fmt.Sprintf(
			"the span starts at %d; the file ends at %d", offset, t.File.Size))
	case size > maxFile-offset:
		return fail(eggs.TooLarge, id, "", "the file")
	}
	return nil
}

// appendSpan stores a new last span. Its state is the caller's.
func (a *apply) appendSpan(id eggs.InodeID, t *TransientRecord, s *span) {
	t.File.Last = t.File.Size
	t.File.Spans++
	t.File.Size += s.SpanRecord.Size
	a.tx.Set(key2(tableSpan, id, t.File.Last), s.encode())
	a.state.spans++
	blocks := s.blocks()
	a.state.blocks += uint64(len(blocks))
	a.countBlocks(id, blocks, true)
}

// dropLast removes the last span and finds the one before.
func (a *apply) dropLast(id eggs.InodeID, t *TransientRecord, s *span) {
	a.tx.Delete(key2(tableSpan, id, t.File.Last))
	a.state.spans--
	blocks := s.blocks()
	a.state.blocks -= uint64(len(blocks))
	a.countBlocks(id, blocks, false)
	t.File.Spans--
	t.File.Size = t.File.Last
	t.State = uint32(wire.SpanState_CLEAN)
	t.File.Last = a.lastSpan(id)
	a.transient.touch(a.tx, id)
}

// lastSpan returns the offset of a file's last span, 0 when it has none.
func (a *apply) lastSpan(id eggs.InodeID) (offset uint64) {
	prefix := key1(tableSpan, id)
	a.tx.Scan(prefix, after(prefix), true, func(k, _ []byte) bool {
		offset = u64(k[9:])
		return false
	})
	return offset
}

// certified makes the last span CLEAN: its bytes are the file's from now on.
func (a *apply) certified(t *TransientRecord, s *span) {
	t.State = uint32(wire.SpanState_CLEAN)
	t.File.Content = contentSum(t.File.Content, t.File.Last, s.SpanRecord)
	t.File.Ctime = int64(a.now)
	if !t.MtimeGiven {
		t.File.Mtime = int64(a.now)
	}
}

// contentSum goes on with a checksum of what the spans of a file hold.
func contentSum(sum uint32, offset uint64, s *SpanRecord) uint32 {
	var b [20]byte
	binary.BigEndian.PutUint64(b[:], offset)
	binary.BigEndian.PutUint64(b[8:], s.Size)
	binary.BigEndian.PutUint32(b[16:], s.Crc)
	return crc32.Update(sum, castagnoli, b[:])
}

// initiateSpan starts a span of blocks.
func (a *apply) initiateSpan(v *wire.InitiateSpan) (*wire.Result, error) {
	choice := a.choice()
	id, t, err := a.writing(v.File)
	if err != nil {
		return nil, err
	}
	if err := checkSpan(id, v); err != nil {
		return nil, err
	}
	if wire.SpanState(t.State) == wire.SpanState_DIRTY && v.Offset == t.File.Last {
		s, ok := spanRecord(a.tx, id, t.File.Last)
		if !ok {
			return nil, fail(eggs.Corrupt, id, "", "the last span is missing")
		}
		if !v.Replace {
			if !sameSpan(s, v) {
				return nil, fail(eggs.Conflict, id, "", "another span was started here")
			}
			return initiated(s), nil
		}
		a.setAside(id, t, s)
	}
	if err := atEnd(id, t, v.Offset, v.Size); err != nil {
		return nil, err
	}
	if err := choice.Error.AsError(); err != nil {
		return nil, &eggs.Error{Inode: id, Kind: eggs.KindOf(err), Err: err}
	}
	if !goodChoice(choice.Disks, int(v.D+v.P)) {
		return nil, fail(eggs.Unavailable, id, "", "no disks were chosen; ask again")
	}
	s := a.newSpan(v, choice.Disks)
	a.appendSpan(id, t, s)
	t.State = uint32(wire.SpanState_DIRTY)
	a.tx.Set(key1(tableUncertified, s.lowest()), key2(tableSpan, id, t.File.Last)[1:])
	return initiated(s), nil
}

// choice returns what the leader chose for this InitiateSpan.
func (a *apply) choice() *wire.Choice {
	i := a.choices
	a.choices++
	if i < len(a.entry.Choices) && a.entry.Choices[i] != nil {
		return a.entry.Choices[i]
	}
	return &wire.Choice{}
}

func goodChoice(disks []uint64, n int) bool {
	for i, d := range disks {
		if d == 0 || slices.Contains(disks[:i], d) {
			return false
		}
	}
	return len(disks) == n
}

// newSpan gives each chosen disk a block.
func (a *apply) newSpan(v *wire.InitiateSpan, disks []uint64) *span {
	l := &wire.Location{
		D: v.D, P: v.P, Stripes: v.Stripes, CellSize: v.CellSize, StripeCrcs: v.StripeCrcs,
	}
	for i, d := range disks {
		l.Blocks = append(l.Blocks, &wire.Block{
			Disk: d, Id: uint64(a.nextBlock()), Crc: v.BlockCrcs[i],
		})
	}
	return &span{
		SpanRecord: &SpanRecord{Size: v.Size, Crc: v.Crc, Class: v.Class},
		locations:  []*wire.Location{l},
	}
}

// checkSpan checks what is wrong whatever the state.
func checkSpan(id eggs.InodeID, v *wire.InitiateSpan) error {
	bad := func(text string) error { return fail(eggs.Invalid, id, "", text) }
	switch {
	case v.D == 0 || v.D > eggs.MaxParity || v.P > eggs.MaxParity:
		return bad("parity")
	case v.Stripes == 0 || v.Stripes > eggs.MaxStripes:
		return bad("number of stripes")
	case v.CellSize == 0 || v.CellSize%eggs.CellAlign != 0 || v.CellSize > eggs.MaxBlock/v.Stripes:
		return bad("cell size")
	case v.Size == 0 || v.Size > eggs.MaxSpan || v.Size > uint64(v.D)*uint64(v.Stripes*v.CellSize):
		return bad("span size")
	case len(v.BlockCrcs) != int(v.D+v.P) || len(v.StripeCrcs) != int(v.Stripes):
		return bad("number of checksums")
	case v.Class > 255 || len(v.Blacklist) > maxBlacklist || len(v.Apart) > maxBlacklist:
		return bad("class, blacklist or disks to be apart from")
	}
	return nil
}

// sameSpan reports whether v asks again for what s is.
func sameSpan(s *span, v *wire.InitiateSpan) bool {
	l := s.locations[0]
	if s.SpanRecord.Size != v.Size || s.SpanRecord.Crc != v.Crc || s.SpanRecord.Class != v.Class ||
		l.D != v.D || l.P != v.P || l.Stripes != v.Stripes || l.CellSize != v.CellSize ||
		!slices.Equal(l.StripeCrcs, v.StripeCrcs) {
		return false
	}
	for i, b := range l.Blocks {
		if b.Crc != v.BlockCrcs[i] {
			return false
		}
	}
	return true
}

// setAside moves the DIRTY last span to a scratch file, due at once, so that its blocks are erased
// whether they were written or not.
func (a *apply) setAside(id eggs.InodeID, t *TransientRecord, s *span) {
	a.dropLast(id, t, s)
	scratch := a.nextID(eggs.KindFile)
	r := &TransientRecord{
		File:     &FileRecord{Ctime: int64(a.now), Mtime: int64(a.now), Atime: int64(a.now)},
		Deadline: int64(a.now), Dir: t.Dir, Name: t.Name,
	}
	a.appendSpan(scratch, r, s)
	r.State = uint32(wire.SpanState_DIRTY)
	a.transient.add(scratch, r)
	a.tx.Set(key1(tableUncertified, s.lowest()), key2(tableSpan, scratch, r.File.Last)[1:])
}

// initiated answers what writes the blocks; the MACs are made on the way out.
func initiated(s *span) *wire.Result {
	r := &wire.SpanInitiated{}
	for _, l := range s.locations {
		for _, b := range l.Blocks {
			r.Certificates = append(r.Certificates, &wire.Certificate{
				Disk: b.Disk, Block: b.Id, Size: blockSize(l), Crc: b.Crc,
			})
		}
	}
	return &wire.Result{Result: &wire.Result_SpanInitiated{SpanInitiated: r}}
}

// certifySpan makes the DIRTY last span CLEAN. The leader has checked the MACs.
func (a *apply) certifySpan(v *wire.CertifySpan) (*wire.Result, error) {
	id, t, err := a.writing(v.File)
	if err != nil {
		return nil, err
	}
	if t.File.Spans == 0 || v.Offset != t.File.Last ||
		wire.SpanState(t.State) == wire.SpanState_CONDEMNED {
		return nil, fail(eggs.Conflict, id, "", "not the last span")
	}
	s, ok := spanRecord(a.tx, id, t.File.Last)
	if !ok || len(s.locations) == 0 {
		return nil, fail(eggs.Conflict, id, "", "not a span of blocks")
	}
	if err := proves(id, s.blocks(), v.Proofs); err != nil {
		return nil, err
	}
	if a.listed(a.entry.Unproven) {
		return nil, fail(eggs.Permission, id, "", "wrong proof")
	}
	if wire.SpanState(t.State) == wire.SpanState_CLEAN {
		return nil, nil // again
	}
	a.tx.Delete(key1(tableUncertified, s.lowest()))
	a.certified(t, s)
	return nil, nil
}

// proves checks that there is one proof of each block, in order.
func proves(id eggs.InodeID, blocks []*wire.Block, proofs []*wire.Proof) error {
	if len(proofs) != len(blocks) {
		return fail(eggs.Invalid, id, "", fmt.Sprintf(
			"%d proofs for %d blocks", len(proofs), len(blocks)))
	}
	for i, p := range proofs {
		if p.GetDisk() != blocks[i].Disk || p.GetBlock() != blocks[i].Id {
			return fail(eggs.Conflict, id, "", fmt.Sprintf("proof %d is of another block", i))
		}
	}
	return nil
}
