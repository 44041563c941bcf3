package raftshard

import (
	"eggsfs/eggs"
	"eggsfs/wire"
)

// edge returns the current edge of a name, or nil.
func (a *apply) edge(p *place) *EdgeRecord {
	e, _ := load[EdgeRecord](a.tx, nameKey(tableEdge, p.dir, p.hash, p.name))
	return e
}

// unlocked fails with Locked when another transaction holds the edge.
func (a *apply) unlocked(p *place, e *EdgeRecord) error {
	if e.Locked != 0 && e.Locked != a.req.Fence.GetTransaction() {
		return p.fail(eggs.Locked, "")
	}
	return nil
}

// putEdge makes or changes the current edge; fresh says that there was none.
func (a *apply) putEdge(p *place, e *EdgeRecord, fresh bool) {
	a.tx.Set(nameKey(tableEdge, p.dir, p.hash, p.name), encode(e))
	if fresh {
		p.rec.Entries++
		a.state.edges++
	}
}

// changed sets the times of a directory whose edges changed.
func (a *apply) changed(p *place, t eggs.Time) {
	p.rec.Mtime, p.rec.Ctime = int64(t), int64(t)
	a.dirs.touch(a.tx, p.dir)
}

// bury makes the current edge a past one. The caller removes or overwrites it.
func (a *apply) bury(p *place, e *EdgeRecord, owned bool) {
	a.putSnapshot(p, eggs.Time(e.Time), &SnapshotRecord{Target: e.Target, Owned: owned})
}

func (a *apply) putSnapshot(p *place, t eggs.Time, s *SnapshotRecord) {
	a.tx.Set(snapshotKey(p.dir, p.hash, p.name, t), encode(s))
	p.rec.Snapshots++
	a.state.snapshots++
}

// vacate takes the current edge away: a past edge and a deletion marker at t.
func (a *apply) vacate(p *place, e *EdgeRecord, owned bool, t eggs.Time) {
	a.bury(p, e, owned)
	a.tx.Delete(nameKey(tableEdge, p.dir, p.hash, p.name))
	p.rec.Entries--
	a.state.edges--
	a.putSnapshot(p, t, &SnapshotRecord{})
	a.changed(p, t)
}

// occupy gives the name to target at a.now. A file that has it is buried as
// owned and returned; a directory never is overwritten.
func (a *apply) occupy(p *place, target eggs.InodeID, old *EdgeRecord) (replaced uint64) {
	if old != nil {
		a.bury(p, old, true)
		replaced = old.Target
	}
	a.putEdge(p, &EdgeRecord{Target: uint64(target), Time: int64(a.now)}, old == nil)
	a.changed(p, a.now)
	return replaced
}

// unlink turns the current edge of a file or symlink into history.
func (a *apply) unlink(v *wire.Unlink) (*wire.Result, error) {
	p, err := a.place(v.Dir, v.Name)
	if err != nil {
		return nil, err
	}
	e := a.edge(&p)
	if e == nil {
		return nil, p.fail(eggs.NotExist, "")
	}
	if err := a.unlocked(&p, e); err != nil {
		return nil, err
	}
	switch {
	case v.Target != 0 && v.Target != e.Target:
		return nil, p.fail(eggs.Conflict, "the name is another inode's now")
	case eggs.InodeID(e.Target).IsDir():
		return nil, p.fail(eggs.IsDir, "")
	}
	a.vacate(&p, e, true, a.now)
	return &wire.Result{Result: &wire.Result_Unlinked{
		Unlinked: &wire.Unlinked{Target: e.Target, Time: int64(a.now)},
	}}, nil
}

// rename moves a name within its directory.
func (a *apply) rename(v *wire.Rename) (*wire.Result, error) {
	from, err := a.place(v.Dir, v.From)
	if err != nil {
		return nil, err
	}
	to, err := a.place(v.Dir, v.To)
	if err != nil {
		return nil, err
	}
	src := a.edge(&from)
	if src == nil {
		return nil, from.fail(eggs.NotExist, "")
	}
	if err := a.unlocked(&from, src); err != nil {
		return nil, err
	}
	if v.Target != 0 && v.Target != src.Target {
		return nil, from.fail(eggs.Conflict, "the name is another inode's now")
	}
	if v.From == v.To {
		if v.NoReplace {
			return nil, to.fail(eggs.Exist, "")
		}
		return nil, nil
	}
	dst := a.edge(&to)
	if err := a.mayReplace(&to, dst, eggs.InodeID(src.Target), v.NoReplace); err != nil {
		return nil, err
	}
	// The new name is a nanosecond older than the end of the old one, so that no
	// picture of the past lacks both.
	a.occupy(&to, eggs.InodeID(src.Target), dst)
	a.vacate(&from, src, false, a.tick())
	return nil, nil
}

// mayReplace says whether target may have the name that dst has now.
func (a *apply) mayReplace(p *place, dst *EdgeRecord, target eggs.InodeID, absent bool) error {
	if dst == nil {
		if absent {
			return a.taken(p)
		}
		return nil
	}
	if err := a.unlocked(p, dst); err != nil {
		return err
	}
	there := eggs.InodeID(dst.Target)
	switch {
	case absent:
		return p.fail(eggs.Exist, "")
	case target.IsDir() && there.IsDir():
		return p.fail(eggs.Exist, "a directory replaces nothing")
	case target.IsDir():
		return p.fail(eggs.NotDir, "a directory replaces nothing")
	case there.IsDir():
		return p.fail(eggs.IsDir, "")
	}
	return nil
}

// symlink makes a symlink and its edge.
func (a *apply) symlink(v *wire.Symlink) (*wire.Result, error) {
	p, err := a.place(v.Dir, v.Name)
	if err != nil {
		return nil, err
	}
	if err := checkSymlink(v.Target); err != nil {
		return nil, err
	}
	if err := a.mayReplace(&p, a.edge(&p), 0, true); err != nil {
		return nil, err
	}
	id := a.nextID(eggs.KindSymlink)
	mtime := v.Mtime
	if mtime == 0 {
		mtime = int64(a.now)
	}
	a.files.add(id, &FileRecord{
		Size: uint64(len(v.Target)), Mode: 0o777, Uid: v.Uid, Gid: v.Gid,
		Mtime: mtime, Atime: mtime, Ctime: int64(a.now), Symlink: v.Target,
	})
	a.occupy(&p, id, nil)
	a.endReservation(&p)
	return &wire.Result{Result: &wire.Result_SymlinkMade{
		SymlinkMade: &wire.SymlinkMade{Id: uint64(id), Time: int64(a.now)},
	}}, nil
}

// undelete gives the file of an owned past edge a name again. The past edge stays, but
// the new one owns the file: whoever wanted to collect it finds another edge.
func (a *apply) undelete(v *wire.Undelete) (*wire.Result, error) {
	from, err := a.place(v.Dir, v.Name)
	if err != nil {
		return nil, err
	}
	to, err := a.place(v.Dir, v.To)
	if err != nil {
		return nil, err
	}
	if err := a.pastEdge(&from, v.Time, v.Target, true); err != nil {
		return nil, err
	}
	if err := a.mayReplace(&to, a.edge(&to), 0, true); err != nil {
		return nil, err
	}
	a.tx.Set(snapshotKey(from.dir, from.hash, from.name, eggs.Time(v.Time)),
		encode(&SnapshotRecord{Target: v.Target}))
	a.occupy(&to, eggs.InodeID(v.Target), nil)
	a.endReservation(&to)
	return &wire.Result{Result: &wire.Result_Linked{
		Linked: &wire.Linked{Time: int64(a.now)},
	}}, nil
}

// endReservation drops this session's own reservation of a name that it has now.
func (a *apply) endReservation(p *place) {
	if _, mine := a.reservation(p); mine {
		a.dropReservation(p)
	}
}
