package raftshard

import (
	"encoding/binary"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// message is a generated record.
type message interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

// encode returns the bytes of m. Generated code fails only when m changes meanwhile.
func encode(m message) []byte {
	b := make([]byte, m.SizeVT())
	n, err := m.MarshalToSizedBufferVT(b)
	if err != nil {
		return nil
	}
	return b[len(b)-n:]
}

// records are the inodes of one table that an entry has to do with. They are
// written once, at its end, so that what comes and goes within an entry,
// such as a small file's construction, costs nothing.
type records[T any, R interface {
	*T
	message
}] struct {
	table byte
	slots []slot[T]
}

type slot[T any] struct {
	id     eggs.InodeID
	rec    *T   // nil: there is none
	stored bool // there was one before the entry
	due    bool // of a directory: its due key was there before the entry
	dirty  bool
}

func (r *records[T, R]) reset(table byte) { r.table, r.slots = table, r.slots[:0] }

// get returns the record of id, or nil. The caller may change it after touch.
func (r *records[T, R]) get(tx raftgroup.Reader, id eggs.InodeID) *T { return r.slot(tx, id).rec }

// put makes rec the record of id; nil removes it.
func (r *records[T, R]) put(tx raftgroup.Reader, id eggs.InodeID, rec *T) {
	s := r.slot(tx, id)
	s.rec, s.dirty = rec, true
}

// add makes rec the record of id, of which the caller knows that there is none.
func (r *records[T, R]) add(id eggs.InodeID, rec *T) {
	for i := range r.slots {
		if r.slots[i].id == id {
			r.slots[i].rec, r.slots[i].dirty = rec, true
			return
		}
	}
	r.slots = append(r.slots, slot[T]{id: id, rec: rec, dirty: true})
}

// touch says that the record of id, which get returned, changes.
func (r *records[T, R]) touch(tx raftgroup.Reader, id eggs.InodeID) { r.slot(tx, id).dirty = true }

// slot finds or loads; an entry has to do with a few inodes, so it just looks.
func (r *records[T, R]) slot(tx raftgroup.Reader, id eggs.InodeID) *slot[T] {
	for i := range r.slots {
		if r.slots[i].id == id {
			return &r.slots[i]
		}
	}
	s := slot[T]{id: id}
	if rec, ok := load[T, R](tx, key1(r.table, id)); ok {
		s.rec, s.stored = rec, true
		if d, ok := any(rec).(*DirectoryRecord); ok {
			s.due = dirDue(id, d)
		}
	}
	r.slots = append(r.slots, s)
	return &r.slots[len(r.slots)-1]
}

// load reads a record. One that cannot be read is as good as none: the store
// has checked its checksum, so only a program of another format wrote it.
func load[T any, R interface {
	*T
	message
}](r raftgroup.Reader, key []byte) (*T, bool) {
	v, ok := r.Get(key)
	if !ok {
		return nil, false
	}
	rec := new(T)
	if R(rec).UnmarshalVT(v) != nil {
		return nil, false
	}
	return rec, true
}

// write stores what changed and counts what came and went.
func (r *records[T, R]) write(tx raftgroup.Tx, count *uint64) {
	for i := range r.slots {
		s := &r.slots[i]
		if !s.dirty {
			continue
		}
		switch {
		case s.rec != nil:
			tx.Set(key1(r.table, s.id), encode(R(s.rec)))
		case s.stored:
			tx.Delete(key1(r.table, s.id))
		}
		if s.stored && s.rec == nil {
			*count--
		} else if !s.stored && s.rec != nil {
			*count++
		}
	}
}

// flush writes the inodes, and keeps the collector's index of directories.
func (a *apply) flush() {
	a.dirs.write(a.tx, &a.state.directories)
	a.files.write(a.tx, &a.state.files)
	a.transient.write(a.tx, &a.state.transient)
	for i := range a.dirs.slots {
		s := &a.dirs.slots[i]
		due := s.rec != nil && dirDue(s.id, s.rec)
		switch {
		case due && !s.due:
			a.tx.Set(key1(tableDirDue, s.id), nil)
		case !due && s.due:
			a.tx.Delete(key1(tableDirDue, s.id))
		}
	}
}

// dirDue reports whether the collector may have something to do in a directory.
func dirDue(id eggs.InodeID, d *DirectoryRecord) bool {
	return d.Snapshots > 0 || removed(id, d)
}

func removed(id eggs.InodeID, d *DirectoryRecord) bool { return d.Owner == 0 && id != eggs.Root }

// dir returns a directory of this shard.
func (a *apply) dir(id uint64) (eggs.InodeID, *DirectoryRecord, error) {
	d := eggs.InodeID(id)
	switch {
	case !d.Valid():
		return d, nil, fail(eggs.Invalid, d, "", "not an inode's id")
	case !d.IsDir():
		return d, nil, fail(eggs.NotDir, d, "", "")
	case d.Shard() != a.m.shard:
		return d, nil, fail(eggs.Invalid, d, "", "the directory is another shard's")
	}
	rec := a.dirs.get(a.tx, d)
	if rec == nil {
		return d, nil, fail(eggs.NotExist, d, "", "")
	}
	return d, rec, nil
}

// liveDir returns a directory that is not removed.
func (a *apply) liveDir(id uint64) (eggs.InodeID, *DirectoryRecord, error) {
	d, rec, err := a.dir(id)
	if err == nil && removed(d, rec) {
		err = fail(eggs.ReadOnly, d, "", "the directory is removed")
	}
	return d, rec, err
}

// place is a name in a live directory.
type place struct {
	dir  eggs.InodeID
	rec  *DirectoryRecord
	name string
	hash uint64
}

func (a *apply) place(dir uint64, name string) (place, error) {
	id, rec, err := a.liveDir(dir)
	if err != nil {
		return place{}, err
	}
	if err := eggs.CheckName(name); err != nil {
		return place{}, fail(eggs.KindOf(err), id, name, "")
	}
	return place{dir: id, rec: rec, name: name, hash: eggs.NameHash(name)}, nil
}

func (p *place) fail(kind eggs.Kind, text string) error { return fail(kind, p.dir, p.name, text) }

// nextID steps the counter to the next id of the kind that is this shard's:
// one in 256 is.
func (a *apply) nextID(kind eggs.InodeKind) eggs.InodeID {
	for {
		a.state.file++
		if id := eggs.MakeInodeID(kind, a.state.file); id.Shard() == a.m.shard {
			return id
		}
	}
}

// nextBlock hands out a block id.
func (a *apply) nextBlock() eggs.BlockID {
	id := eggs.MakeBlockID(a.m.shard, a.state.block)
	a.state.block++
	return id
}

// mark returns H, the lowest block id in any uncertified span: no block below
// it is to be written any more. Without one it is the next id.
func (a *apply) mark() uint64 {
	h := uint64(eggs.MakeBlockID(a.m.shard, a.state.block))
	a.tx.Scan([]byte{tableUncertified}, []byte{tableUncertified + 1}, false,
		func(k, _ []byte) bool {
			h = min(h, u64(k[1:]))
			return false
		})
	return h
}

// spanRecord reads a span with its locations.
func spanRecord(r raftgroup.Reader, file eggs.InodeID, offset uint64) (*span, bool) {
	rec, ok := load[SpanRecord](r, key2(tableSpan, file, offset))
	if !ok {
		return nil, false
	}
	return decodeSpan(rec)
}

// span is a SpanRecord with its locations taken apart.
type span struct {
	SpanRecord *SpanRecord
	locations  []*wire.Location
}

func decodeSpan(rec *SpanRecord) (*span, bool) {
	s := &span{SpanRecord: rec}
	for _, b := range rec.Locations {
		l := &wire.Location{}
		if l.UnmarshalVT(b) != nil {
			return nil, false
		}
		s.locations = append(s.locations, l)
	}
	return s, true
}

func (s *span) encode() []byte {
	s.SpanRecord.Locations = s.SpanRecord.Locations[:0]
	for _, l := range s.locations {
		s.SpanRecord.Locations = append(s.SpanRecord.Locations, encode(l))
	}
	return encode(s.SpanRecord)
}

// blocks returns the blocks of all locations.
func (s *span) blocks() (all []*wire.Block) {
	for _, l := range s.locations {
		all = append(all, l.Blocks...)
	}
	return all
}

// lowest returns the lowest id of the span's blocks: they were handed out in order.
func (s *span) lowest() uint64 { return s.locations[0].Blocks[0].Id }

func blockSize(l *wire.Location) uint32 { return l.Stripes * l.CellSize }

// countBlocks adds n for each block of s to the index that repair reads.
func (a *apply) countBlocks(file eggs.InodeID, blocks []*wire.Block, add bool) {
	for _, b := range blocks {
		k := key2(tableDisk, b.Disk, file)
		var n uint32
		if v, ok := a.tx.Get(k); ok && len(v) == 4 {
			n = binary.BigEndian.Uint32(v)
		}
		if add {
			n++
		} else if n > 0 {
			n--
		}
		if n == 0 {
			a.tx.Delete(k)
		} else {
			a.tx.Set(k, binary.BigEndian.AppendUint32(nil, n))
		}
	}
}
