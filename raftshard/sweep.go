package raftshard

import (
	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// doSweep runs a collector's verb.
func (a *apply) doSweep(v *wire.Verb) (*wire.Result, string, error) {
	switch x := v.Verb.(type) {
	case *wire.Verb_RemoveSnapshotEdge:
		return verb("RemoveSnapshotEdge", x.RemoveSnapshotEdge, a.removeSnapshotEdge)
	case *wire.Verb_CondemnSpan:
		return verb("CondemnSpan", x.CondemnSpan, a.condemnSpan)
	case *wire.Verb_RemoveSpan:
		return verb("RemoveSpan", x.RemoveSpan, a.removeSpan)
	case *wire.Verb_RemoveFile:
		return verb("RemoveFile", x.RemoveFile, a.removeFile)
	case *wire.Verb_RemoveDirectory:
		return verb("RemoveDirectory", x.RemoveDirectory, a.removeDirectory)
	case *wire.Verb_SwapSpan:
		return verb("SwapSpan", x.SwapSpan, a.swapSpan)
	}
	return nil, "Apply", fail(eggs.Invalid, 0, "", "the verb needs a fence, or is unknown")
}

// history is what a name in a directory, removed or not, has of past edges.
func (a *apply) history(dir uint64, name string) (place, error) {
	id, rec, err := a.dir(dir)
	if err != nil {
		return place{}, err
	}
	if err := eggs.CheckName(name); err != nil {
		return place{}, fail(eggs.KindOf(err), id, name, "")
	}
	return place{dir: id, rec: rec, name: name, hash: eggs.NameHash(name)}, nil
}

// pastEdge returns a past edge if it is what the caller believes it to be.
func (a *apply) pastEdge(p *place, t int64, target uint64, owned bool) error {
	s, ok := load[SnapshotRecord](a.tx, snapshotKey(p.dir, p.hash, p.name, eggs.Time(t)))
	switch {
	case !ok:
		return p.fail(eggs.NotExist, "no such past edge")
	case s.Target != target || s.Owned != owned:
		return p.fail(eggs.Conflict, "the past edge is another")
	}
	return nil
}

// removeSnapshotEdge forgets a past edge; a file that it owned becomes transient.
func (a *apply) removeSnapshotEdge(v *wire.RemoveSnapshotEdge) (*wire.Result, error) {
	p, err := a.history(v.Dir, v.Name)
	if err != nil {
		return nil, err
	}
	if err := a.pastEdge(&p, v.Time, v.Target, v.Owned); err != nil {
		return nil, err
	}
	if v.Owned {
		target := eggs.InodeID(v.Target)
		if target.Shard() != a.m.shard {
			return nil, p.fail(eggs.CrossDir, "the file is another shard's")
		}
		a.makeOrphan(target, p.dir, p.name)
	}
	a.forget(&p, eggs.Time(v.Time))
	return nil, nil
}

// forget removes a past edge. If that leaves two deletion markers in a row, the
// later one goes too: it says nothing.
func (a *apply) forget(p *place, t eggs.Time) {
	a.dropSnapshot(p, t)
	before, _ := a.neighbour(p, t, true)
	next, at := a.neighbour(p, t, false)
	if before != nil && before.Target == 0 && next != nil && next.Target == 0 {
		a.dropSnapshot(p, at)
	}
	a.dirs.touch(a.tx, p.dir)
}

func (a *apply) dropSnapshot(p *place, t eggs.Time) {
	a.tx.Delete(snapshotKey(p.dir, p.hash, p.name, t))
	p.rec.Snapshots--
	a.state.snapshots--
}

// neighbour returns the past edge of the name next to time t.
func (a *apply) neighbour(p *place, t eggs.Time, earlier bool) (s *SnapshotRecord, at eggs.Time) {
	lo := snapshotKey(p.dir, p.hash, p.name, t)
	hi := after(snapshotPrefix(p.dir, p.hash, p.name))
	if earlier {
		lo, hi = snapshotPrefix(p.dir, p.hash, p.name), lo
	}
	a.tx.Scan(lo, hi, earlier, func(k, v []byte) bool {
		s = &SnapshotRecord{}
		if s.UnmarshalVT(v) != nil {
			s = nil
		}
		_, _, _, at = splitSnapshotKey(k)
		return false
	})
	return s, at
}

// makeOrphan makes a linked file transient, due at once. One that is gone or
// transient already stays as it is.
func (a *apply) makeOrphan(id, dir eggs.InodeID, name string) {
	f := a.files.get(a.tx, id)
	if f == nil {
		return
	}
	if len(f.Symlink) > 0 {
		f.Size = 0 // a target is not a span
	}
	a.files.put(a.tx, id, nil)
	a.transient.add(id, &TransientRecord{
		File: f, Deadline: int64(a.now), Dir: uint64(dir), Name: name,
	})
}

// expired returns a transient file past its deadline.
func (a *apply) expired(file uint64) (eggs.InodeID, *TransientRecord, error) {
	id := eggs.InodeID(file)
	t, err := a.unfinished(id)
	if err != nil {
		return id, nil, err
	}
	if eggs.Time(t.Deadline) > a.now {
		return id, nil, fail(eggs.Conflict, id, "", "the file is under construction")
	}
	return id, t, nil
}

// condemnSpan starts the removal of the last span, or says again what erases it.
func (a *apply) condemnSpan(v *wire.CondemnSpan) (*wire.Result, error) {
	id, t, err := a.expired(v.File)
	if err != nil {
		return nil, err
	}
	c := &wire.SpanCondemned{None: t.File.Spans == 0, Offset: t.File.Last}
	res := &wire.Result{Result: &wire.Result_SpanCondemned{SpanCondemned: c}}
	if c.None {
		return res, nil
	}
	s, ok := spanRecord(a.tx, id, t.File.Last)
	if !ok {
		return nil, fail(eggs.Corrupt, id, "", "the last span is missing")
	}
	if len(s.locations) == 0 {
		a.dropLast(id, t, s)
		return res, nil
	}
	if wire.SpanState(t.State) == wire.SpanState_DIRTY {
		a.tx.Delete(key1(tableUncertified, s.lowest()))
	}
	t.State = uint32(wire.SpanState_CONDEMNED)
	a.transient.touch(a.tx, id)
	mark := a.mark()
	for _, l := range s.locations {
		for _, b := range l.Blocks {
			c.Erase = append(c.Erase, &wire.Certificate{
				Disk: b.Disk, Block: b.Id, Size: blockSize(l), Mark: mark,
			})
		}
	}
	return res, nil
}

// removeSpan ends the removal of a CONDEMNED span whose blocks are erased.
func (a *apply) removeSpan(v *wire.RemoveSpan) (*wire.Result, error) {
	id, t, err := a.expired(v.File)
	if err != nil {
		return nil, err
	}
	if t.File.Spans == 0 || v.Offset != t.File.Last ||
		wire.SpanState(t.State) != wire.SpanState_CONDEMNED {
		return nil, fail(eggs.Conflict, id, "", "not the condemned span")
	}
	s, ok := spanRecord(a.tx, id, t.File.Last)
	if !ok {
		return nil, fail(eggs.Corrupt, id, "", "the last span is missing")
	}
	if err := proves(id, s.blocks(), v.Proofs); err != nil {
		return nil, err
	}
	if a.listed(a.entry.Unproven) {
		return nil, fail(eggs.Permission, id, "", "wrong proof")
	}
	a.dropLast(id, t, s)
	return nil, nil
}

// removeFile forgets an expired transient file without spans.
func (a *apply) removeFile(v *wire.RemoveFile) (*wire.Result, error) {
	id, t, err := a.expired(v.File)
	if err != nil {
		return nil, err
	}
	if t.File.Spans != 0 {
		return nil, fail(eggs.Conflict, id, "", "the file has spans")
	}
	a.transient.put(a.tx, id, nil)
	return nil, nil
}

// removeDirectory forgets a removed directory without edges.
func (a *apply) removeDirectory(v *wire.RemoveDirectory) (*wire.Result, error) {
	id, d, err := a.dir(v.Dir)
	if err != nil {
		return nil, err
	}
	if !removed(id, d) {
		return nil, fail(eggs.Conflict, id, "", "the directory is not removed")
	}
	if a.some(tableEdge, id) || a.some(tableSnapshot, id) {
		return nil, fail(eggs.NotEmpty, id, "", "")
	}
	a.dirs.put(a.tx, id, nil)
	return nil, nil
}

// some reports whether a table has a key of the directory.
func (a *apply) some(table byte, dir eggs.InodeID) bool { return some(a.tx, table, dir) }

func some(r raftgroup.Reader, table byte, dir eggs.InodeID) (found bool) {
	prefix := key1(table, dir)
	r.Scan(prefix, after(prefix), false, func(_, _ []byte) bool {
		found = true
		return false
	})
	return found
}
