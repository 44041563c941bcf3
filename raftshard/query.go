package raftshard

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// Limits of answers.
const (
	// maxAnswer is about the bytes of one answer: what goes over is the last
	// item, or the names of one hash. More would hold up what shares the connection.
	maxAnswer = 1 << 20
	// maxListed is the items of one answer, and what limit 0 means.
	maxListed = 10_000
	// maxStat is the ids of one Stat.
	maxStat = 10_000
	// maxHistory is the edges of one name in one answer: the oldest ones, which are
	// those that the collector takes first.
	maxHistory = 10_000
)

// query is one query being answered.
type query struct {
	s    *Shard
	r    raftgroup.Reader
	now  eggs.Time // what the next entry's time will at least be
	made *wire.ShardAnswer
}

// Query answers from the state as of now. An error means that this node could not
// say, such as NotLeader; a refusal is in the answer.
func (s *Shard) Query(ctx context.Context, q *wire.ShardQuery) (*wire.ShardAnswer, error) {
	const op = "raftshard.Query"
	if q.Shard != uint32(s.id) {
		return &wire.ShardAnswer{Error: wire.ErrorOf(eggs.E(op, eggs.Invalid,
			fmt.Sprintf("this is shard %d, not %d", s.id, q.Shard)))}, nil
	}
	defer s.queries.Add(-1)
	if s.queries.Add(1) > maxQueries {
		return nil, s.busy(op)
	}
	view, err := s.group.Read(ctx)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	a := &query{s: s, r: view, now: s.clock(), made: &wire.ShardAnswer{}}
	if v, ok := view.Get([]byte{tableState}); ok {
		var st state
		st.decode(v)
		a.now = max(a.now, st.time)
	}
	if err := a.run(q); err != nil {
		if e, ok := err.(*eggs.Error); ok && e.Op == "" {
			e.Op = op
		}
		return &wire.ShardAnswer{Error: wire.ErrorOf(err)}, nil
	}
	s.stats.queries.Add(1)
	return a.made, nil
}

func (a *query) run(q *wire.ShardQuery) error {
	switch x := q.Query.(type) {
	case *wire.ShardQuery_Lookup:
		return a.lookup(x.Lookup)
	case *wire.ShardQuery_Stat:
		return a.stat(x.Stat)
	case *wire.ShardQuery_ReadDir:
		return a.readDir(x.ReadDir)
	case *wire.ShardQuery_GetSpans:
		return a.getSpans(x.GetSpans)
	case *wire.ShardQuery_ListTransient:
		return a.listTransient(x.ListTransient)
	case *wire.ShardQuery_ListSnapshots:
		return a.listSnapshots(x.ListSnapshots)
	case *wire.ShardQuery_ListDirs:
		return a.listDirs(x.ListDirs)
	case *wire.ShardQuery_FilesOnDisk:
		return a.filesOnDisk(x.FilesOnDisk)
	case *wire.ShardQuery_ShardStat:
		return a.shardStat()
	case *wire.ShardQuery_ListFiles:
		return a.listFiles(x.ListFiles)
	case *wire.ShardQuery_ReportBad:
		return a.reportBad(x.ReportBad)
	case *wire.ShardQuery_CheckShard:
		a.made.Answer = &wire.ShardAnswer_CheckShard{CheckShard: &wire.Faults{
			Faults: Check(a.r, a.s.id),
		}}
		return nil
	}
	return fail(eggs.Invalid, 0, "", "no query, or an unknown one")
}

// dir reads a directory, removed or not.
func (a *query) dir(id uint64) (eggs.InodeID, *DirectoryRecord, error) {
	d := eggs.InodeID(id)
	if !d.IsDir() {
		return d, nil, fail(eggs.NotDir, d, "", "")
	}
	rec, ok := load[DirectoryRecord](a.r, key1(tableDirectory, d))
	if !ok {
		return d, nil, fail(eggs.NotExist, d, "", "")
	}
	return d, rec, nil
}

func listLimit(limit uint32) int {
	if limit == 0 || limit > maxListed {
		return maxListed
	}
	return int(limit)
}

// lookup answers one current edge.
func (a *query) lookup(v *wire.Lookup) error {
	dir := eggs.InodeID(v.GetDir())
	hash := eggs.NameHash(v.GetName())
	e, ok := load[EdgeRecord](a.r, nameKey(tableEdge, dir, hash, v.GetName()))
	if !ok {
		if _, _, err := a.dir(v.GetDir()); err != nil {
			return err
		}
		return fail(eggs.NotExist, dir, v.GetName(), "")
	}
	entry := &wire.Entry{Name: v.Name, Target: e.Target, Time: e.Time, Hash: hash}
	if id := eggs.InodeID(e.Target); id.Shard() == a.s.id {
		entry.Attr = attrOf(a.r, id)
	}
	a.made.Answer = &wire.ShardAnswer_Lookup{Lookup: entry}
	return nil
}

// stat answers the attributes of inodes, id 0 for those that are not here.
func (a *query) stat(v *wire.Stat) error {
	if len(v.GetIds()) > maxStat {
		return fail(eggs.TooLarge, 0, "", fmt.Sprintf("at most %d ids", maxStat))
	}
	ids := make([]eggs.InodeID, len(v.GetIds()))
	for i, id := range v.GetIds() {
		ids[i] = eggs.InodeID(id)
	}
	attrs := attrsOf(a.r, ids)
	size := 0
	for i, at := range attrs {
		if at == nil {
			attrs[i] = &wire.Attr{}
		}
		size += attrs[i].SizeVT()
	}
	if size > 8*maxAnswer {
		return fail(eggs.TooLarge, 0, "", "the answer; ask for fewer ids")
	}
	a.made.Answer = &wire.ShardAnswer_Stat{Stat: &wire.Attrs{Attrs: attrs}}
	return nil
}

// entryOverhead is about what an entry takes in an answer beside its name and
// its attributes, in bytes.
const entryOverhead = 40

// readDir lists current entries in the order of their hashes.
func (a *query) readDir(v *wire.ReadDir) error {
	dir, d, err := a.dir(v.GetDir())
	if err != nil {
		return err
	}
	limit := listLimit(v.GetLimit())
	out := &wire.Entries{End: true, Owner: d.Owner}
	size := 0
	lo := key2(tableEdge, dir, v.GetAfter()+1)
	if v.GetAfter() == 1<<64-1 {
		lo = after(key1(tableEdge, dir))
	}
	attrSize := 0
	if v.GetAttrs() {
		attrSize = 80
	}
	arena := newArena[wire.Entry](limit)
	a.r.Scan(lo, after(key1(tableEdge, dir)), false, func(k, val []byte) bool {
		_, hash, name := splitNameKey(k)
		n := len(out.Entries)
		if (n >= limit || size > maxAnswer) && hash != out.Entries[n-1].Hash {
			out.End = false
			return false
		}
		var e EdgeRecord
		if e.UnmarshalVT(val) != nil {
			return true
		}
		entry := arena.next()
		entry.Name, entry.Target, entry.Time, entry.Hash = string(name), e.Target, e.Time, hash
		out.Entries = append(out.Entries, entry)
		size += entryOverhead + len(name) + attrSize
		return true
	})
	if v.GetAttrs() {
		a.fillAttrs(out)
	}
	a.s.stats.entries.Add(uint64(len(out.Entries)))
	a.made.Answer = &wire.ShardAnswer_ReadDir{ReadDir: out}
	return nil
}

// fillAttrs gives the entries whose target lives here their attributes, and
// shortens a listing that long attributes have made too long.
func (a *query) fillAttrs(out *wire.Entries) {
	var ids []eggs.InodeID
	var entries []*wire.Entry
	for _, e := range out.Entries {
		if id := eggs.InodeID(e.Target); id.Shard() == a.s.id {
			ids, entries = append(ids, id), append(entries, e)
		}
	}
	for i, at := range attrsOf(a.r, ids) {
		entries[i].Attr = at
	}
	size := 0
	for i, e := range out.Entries {
		if size > 2*maxAnswer && e.Hash != out.Entries[i-1].Hash {
			out.Entries, out.End = out.Entries[:i], false
			return
		}
		size += entryOverhead + len(e.Name)
		if at := e.Attr; at != nil {
			size += 80 + len(at.Symlink)
			for k, x := range at.Xattrs {
				size += len(k) + len(x)
			}
		}
	}
}

// getSpans answers the spans that touch a range of a file, and what reads their blocks.
func (a *query) getSpans(v *wire.GetSpans) error {
	id := eggs.InodeID(v.GetFile())
	f, ok := load[FileRecord](a.r, key1(tableFile, id))
	dirty := uint64(1<<64 - 1) // where a span begins that is not the file's yet
	if !ok {
		t, ok := load[TransientRecord](a.r, key1(tableTransient, id))
		if !ok {
			return fail(eggs.NotExist, id, "", "")
		}
		if !a.s.key.CheckCookie(id, v.GetCookie()) {
			return fail(eggs.Permission, id, "", "the file is under construction")
		}
		f = t.File
		if wire.SpanState(t.State) != wire.SpanState_CLEAN {
			dirty = t.File.Last
		}
	}
	end := v.GetOffset() + v.GetLength()
	if v.GetLength() == 0 || end < v.GetOffset() {
		end = 1<<64 - 1
	}
	out := &wire.Spans{Size: min(f.Size, dirty)}
	if len(f.Symlink) == 0 {
		a.collectSpans(id, v.GetOffset(), min(end, dirty), out)
	}
	a.made.Answer = &wire.ShardAnswer_GetSpans{GetSpans: out}
	return nil
}

func (a *query) collectSpans(id eggs.InodeID, offset, end uint64, out *wire.Spans) {
	// The span that holds offset is the last one that begins at or before it.
	first := offset
	a.r.Scan(key1(tableSpan, id), after(key2(tableSpan, id, offset)), true,
		func(k, _ []byte) bool {
			first = u64(k[9:])
			return false
		})
	size := 0
	a.r.Scan(key2(tableSpan, id, first), after(key1(tableSpan, id)), false,
		func(k, val []byte) bool {
			at := u64(k[9:])
			if at >= end || len(out.Spans) == eggs.MaxSpanBatch || size > maxAnswer {
				return false
			}
			rec := &SpanRecord{}
			if rec.UnmarshalVT(val) != nil {
				return true
			}
			s, ok := decodeSpan(rec)
			if !ok || at+rec.Size <= offset {
				return true
			}
			out.Spans = append(out.Spans, &wire.Span{
				Offset: at, Size: rec.Size, Crc: rec.Crc, Inline: rec.Inline,
				Locations: s.locations, Class: rec.Class,
			})
			size += len(val)
			for _, l := range s.locations {
				for _, b := range l.Blocks {
					c := &wire.Certificate{
						Disk: b.Disk, Block: b.Id, Size: blockSize(l), Crc: b.Crc,
					}
					c.Mac = a.s.key.Blocks().ReadMAC(blockCert(c))
					out.Read = append(out.Read, c)
					size += 48
				}
			}
			return true
		})
}

// listTransient lists files under construction or being destroyed.
func (a *query) listTransient(v *wire.ListTransient) error {
	due := v.GetDueBefore()
	if due == 0 {
		due = int64(a.now)
	}
	out := &wire.TransientFiles{Now: int64(a.now), End: true}
	limit, size := listLimit(v.GetLimit()), 0
	a.r.Scan(key1(tableTransient, v.GetAfter()+1), []byte{tableTransient + 1}, false,
		func(k, val []byte) bool {
			var t TransientRecord
			if t.UnmarshalVT(val) != nil || v.GetDue() && t.Deadline > due {
				return true
			}
			if len(out.Files) == limit || size > maxAnswer {
				out.End = false
				return false
			}
			out.Files = append(out.Files, &wire.TransientFile{
				Id: u64(k[1:]), Deadline: t.Deadline, Dir: t.Dir, Name: t.Name,
				Size: t.File.GetSize(), Expired: t.Deadline <= int64(a.now),
			})
			size += 48 + len(t.Name)
			return true
		})
	a.made.Answer = &wire.ShardAnswer_ListTransient{ListTransient: out}
	return nil
}

// listDirs lists directories, or those with work for the collector.
func (a *query) listDirs(v *wire.ListDirs) error {
	table := byte(tableDirectory)
	if v.GetDue() {
		table = tableDirDue
	}
	out := &wire.Dirs{}
	out.Ids, out.End = a.ids(table, nil, v.GetAfter(), listLimit(v.GetLimit()))
	a.made.Answer = &wire.ShardAnswer_ListDirs{ListDirs: out}
	return nil
}

// filesOnDisk lists files with blocks on a disk, and how many each.
func (a *query) filesOnDisk(v *wire.FilesOnDisk) error {
	out := &wire.DiskFiles{End: true}
	limit := listLimit(v.GetLimit())
	a.r.Scan(key2(tableDisk, v.GetDisk(), v.GetAfter()+1), after(key1(tableDisk, v.GetDisk())), false,
		func(k, val []byte) bool {
			if len(out.Files) == limit {
				out.End = false
				return false
			}
			n := uint32(0)
			if len(val) == 4 {
				n = binary.BigEndian.Uint32(val)
			}
			out.Files, out.Blocks = append(out.Files, u64(k[9:])), append(out.Blocks, n)
			return true
		})
	a.made.Answer = &wire.ShardAnswer_FilesOnDisk{FilesOnDisk: out}
	return nil
}

// ids lists the ids at the end of keys that begin with table and prefix.
func (a *query) ids(table byte, prefix []byte, past uint64, limit int) (ids []uint64, end bool) {
	p := append([]byte{table}, prefix...)
	lo := append(slices.Clone(p), key1(0, past+1)[1:]...)
	end = true
	a.r.Scan(lo, after(p), false, func(k, _ []byte) bool {
		if len(ids) == limit {
			end = false
			return false
		}
		ids = append(ids, u64(k[len(p):]))
		return true
	})
	return ids, end
}

// shardStat answers how much there is.
func (a *query) shardStat() error {
	var st state
	if v, ok := a.r.Get([]byte{tableState}); ok {
		st.decode(v)
	}
	a.made.Answer = &wire.ShardAnswer_ShardStat{ShardStat: &wire.ShardStatAnswer{
		Directories: st.directories, Files: st.files, Transient: st.transient, Edges: st.edges,
		SnapshotEdges: st.snapshots, Spans: st.spans, Blocks: st.blocks,
		Sessions: sessions.Count(a.r),
	}}
	return nil
}
