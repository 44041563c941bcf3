package raftshard

import (
	"encoding/binary"
	"hash/crc32"

	"eggsfs/eggs"
	"eggsfs/wire"
)

func (c *checker) linked() {
	c.scan(tableFile, func(k, v []byte) {
		id, f := eggs.InodeID(u64(k[1:])), &FileRecord{}
		if !c.read(k, v, f) {
			return
		}
		c.nFiles++
		c.files[id] = &checkedFile{file: f}
		c.fileID(id)
		if (id.Kind() == eggs.KindSymlink) != (len(f.Symlink) > 0) {
			c.fault(14, "%v %v has a target of %d bytes", id.Kind(), id, len(f.Symlink))
		}
	})
}

func (c *checker) transients() {
	c.scan(tableTransient, func(k, v []byte) {
		id, t := eggs.InodeID(u64(k[1:])), &TransientRecord{}
		if !c.read(k, v, t) {
			return
		}
		c.nTransient++
		if c.files[id] != nil {
			c.fault(14, "file %v is linked and transient", id)
		} else {
			c.files[id] = &checkedFile{transient: t}
		}
		c.fileID(id)
	})
}

func (c *checker) fileID(id eggs.InodeID) {
	if !id.Valid() || id.IsDir() || id.Shard() != c.shard || id.Number() > c.state.file {
		c.fault(14, "file %v has an id that this shard did not hand out", id)
	}
}

// spans checks that spans tile their file and what their blocks are.
func (c *checker) spans() {
	c.scan(tableSpan, func(k, v []byte) {
		id, offset, rec := eggs.InodeID(u64(k[1:])), u64(k[9:]), &SpanRecord{}
		if !c.read(k, v, rec) {
			return
		}
		c.nSpans++
		s, ok := decodeSpan(rec)
		if !ok {
			c.fault(0, "the locations of file %v at %d cannot be read", id, offset)
			return
		}
		f := c.files[id]
		if f == nil {
			c.fault(17, "a span of %v, which is not there", id)
			return
		}
		if offset != f.size {
			c.fault(15, "file %v: a span at %d; the one before ends at %d", id, offset, f.size)
		}
		f.size, f.last = offset+rec.Size, offset
		f.spans++
		f.content = contentSum(f.content, offset, rec)
		c.span(id, offset, s)
	})
	for id, f := range c.files {
		c.file(id, f)
	}
}

// span checks one span and counts its blocks.
func (c *checker) span(id eggs.InodeID, offset uint64, s *span) {
	rec := s.SpanRecord
	if len(s.locations) == 0 {
		if uint64(len(rec.Inline)) != rec.Size || rec.Size == 0 ||
			crc32.Checksum(rec.Inline, castagnoli) != rec.Crc {
			c.fault(25, "file %v at %d: the inline bytes are not those recorded", id, offset)
		}
		return
	}
	for _, l := range s.locations {
		if len(l.Blocks) != int(l.D+l.P) || len(l.StripeCrcs) != int(l.Stripes) ||
			rec.Size > uint64(l.D)*uint64(blockSize(l)) {
			c.fault(25, "file %v at %d: the location makes no sense", id, offset)
		}
		var disks []uint64
		for _, b := range l.Blocks {
			c.nBlocks++
			disks = append(disks, b.Disk)
			c.disks[diskFile{b.Disk, uint64(id)}]++
			if other, ok := c.blocks[b.Id]; ok {
				c.fault(20, "block %x is in a span of %v and of %v", b.Id, other, id)
			}
			c.blocks[b.Id] = id
			block, next := eggs.BlockID(b.Id), eggs.MakeBlockID(c.shard, c.state.block)
			if block.Shard() != c.shard || block >= next {
				c.fault(20, "file %v at %d: block %v was never handed out", id, offset, block)
			}
		}
		if !goodChoice(disks, len(disks)) {
			c.fault(19, "file %v at %d: two blocks are on one disk", id, offset)
		}
	}
}

// file checks a file against its spans.
func (c *checker) file(id eggs.InodeID, f *checkedFile) {
	rec := f.file
	if rec != nil && len(rec.Symlink) > 0 {
		if f.spans > 0 || rec.Size != uint64(len(rec.Symlink)) {
			c.fault(15, "symlink %v has spans, or another size than its target", id)
		}
		return
	}
	t := f.transient
	if t != nil {
		rec = t.File
	}
	if rec.GetSize() != f.size {
		c.fault(15, "file %v has %d bytes; its spans end at %d", id, rec.GetSize(), f.size)
	}
	if rec.GetSpans() != f.spans || f.spans > 0 && rec.GetLast() != f.last {
		c.fault(15, "file %v says %d spans, the last at %d; there are %d, the last at %d",
			id, rec.GetSpans(), rec.GetLast(), f.spans, f.last)
	}
	if t == nil {
		if rec.Content != f.content {
			c.fault(18, "file %v holds other bytes than when it was linked", id)
		}
		return
	}
	switch wire.SpanState(t.State) {
	case wire.SpanState_CLEAN:
	case wire.SpanState_DIRTY:
		if s, ok := spanRecord(c.r, id, f.last); ok && len(s.blocks()) > 0 {
			c.uncertified[s.blocks()[0].Id] = [2]uint64{uint64(id), f.last}
		} else {
			c.fault(16, "file %v: its last span is uncertified and has no blocks", id)
		}
	case wire.SpanState_CONDEMNED:
		if t.Deadline > int64(c.state.time) {
			c.fault(28, "file %v is being destroyed before its deadline", id)
		}
	}
}

// indexes checks that of disks and that of uncertified spans.
func (c *checker) indexes() {
	c.scan(tableDisk, func(k, v []byte) {
		at := diskFile{u64(k[1:]), u64(k[9:])}
		if len(v) != 4 || c.disks[at] != binary.BigEndian.Uint32(v) || c.disks[at] == 0 {
			c.fault(23, "disk %016x file %016x: %x blocks are indexed; there are %d",
				at.disk, at.file, v, c.disks[at])
		}
		delete(c.disks, at)
	})
	for at, n := range c.disks {
		c.fault(23, "disk %016x file %016x: %d blocks are not indexed", at.disk, at.file, n)
	}
	c.scan(tableUncertified, func(k, v []byte) {
		at, ok := c.uncertified[u64(k[1:])]
		if !ok || len(v) != 16 || at != [2]uint64{u64(v), u64(v[8:])} {
			c.fault(45, "block %x is indexed as uncertified and is not", k[1:])
		}
		delete(c.uncertified, u64(k[1:]))
	})
	for block, at := range c.uncertified {
		c.fault(45, "block %016x of uncertified file %016x is not indexed", block, at[0])
	}
}
