package raftshard

import (
	"slices"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// swapSpan gives a linked file's span blocks of a scratch span with the same
// bytes, if it still has those that they are to replace. What they replace is
// CONDEMNED at once, so that it cannot be swapped back.
func (a *apply) swapSpan(v *wire.SwapSpan) (*wire.Result, error) {
	scratch, t, err := a.writing(v.Scratch)
	if err != nil {
		return nil, err
	}
	file := eggs.InodeID(v.File)
	if a.files.get(a.tx, file) == nil {
		return nil, fail(eggs.Conflict, file, "", "not a linked file")
	}
	s, ok := spanRecord(a.tx, file, v.Offset)
	if !ok || len(s.locations) == 0 {
		return nil, fail(eggs.NotExist, file, "", "no span of blocks there")
	}
	if t.File.Spans == 0 || wire.SpanState(t.State) != wire.SpanState_CLEAN {
		return nil, fail(eggs.Conflict, scratch, "", "its last span is not CLEAN")
	}
	n, ok := spanRecord(a.tx, scratch, t.File.Last)
	if !ok || len(n.locations) == 0 {
		return nil, fail(eggs.Conflict, scratch, "", "its last span has no blocks")
	}
	l, m := s.locations[0], n.locations[0]
	if err := swappable(file, l, m, v); err != nil {
		return nil, err
	}
	a.countBlocks(file, s.blocks(), false)
	a.countBlocks(scratch, n.blocks(), false)
	for i, p := range v.Positions {
		l.Blocks[p], m.Blocks[i] = m.Blocks[i], l.Blocks[p]
	}
	a.countBlocks(file, s.blocks(), true)
	a.countBlocks(scratch, n.blocks(), true)
	a.tx.Set(key2(tableSpan, file, v.Offset), s.encode())
	a.tx.Set(key2(tableSpan, scratch, t.File.Last), n.encode())
	t.State, t.Deadline = uint32(wire.SpanState_CONDEMNED), int64(a.now)
	return nil, nil
}

// swappable checks that the blocks of m hold the bytes of those of l at the
// positions, that those are the ones the caller read, and that l's disks stay distinct.
func swappable(id eggs.InodeID, l, m *wire.Location, v *wire.SwapSpan) error {
	if len(v.Positions) == 0 || len(v.Positions) != len(m.Blocks) || len(m.Blocks) > len(l.Blocks) {
		return fail(eggs.Invalid, id, "", "the scratch span has another number of blocks")
	}
	if len(v.Old) != len(v.Positions) {
		return fail(eggs.Invalid, id, "", "the old blocks are not named")
	}
	if blockSize(l) != blockSize(m) {
		return fail(eggs.Conflict, id, "", "the blocks differ in size")
	}
	disks := make([]uint64, len(l.Blocks))
	for i, b := range l.Blocks {
		disks[i] = b.Disk
	}
	for i, p := range v.Positions {
		if p >= uint32(len(l.Blocks)) || slices.Contains(v.Positions[:i], p) {
			return fail(eggs.Invalid, id, "", "the positions")
		}
		if l.Blocks[p].Id != v.Old[i] {
			return fail(eggs.Conflict, id, "", "the blocks are others than were read")
		}
		if l.Blocks[p].Crc != m.Blocks[i].Crc {
			return fail(eggs.Conflict, id, "", "the blocks differ in checksum")
		}
		disks[p] = m.Blocks[i].Disk
	}
	if !goodChoice(disks, len(l.Blocks)) {
		return fail(eggs.Conflict, id, "", "two blocks would be on one disk")
	}
	return nil
}
