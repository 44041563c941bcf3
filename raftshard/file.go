package raftshard

import (
	"bytes"
	"hash/crc32"
	"math"
	"sort"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// ConstructionLife is how long a file under construction stays when nothing
// is done to it, in nanoseconds of the group's time. Longer keeps what crashed writers left;
// shorter takes a file from a writer that thinks.
const ConstructionLife eggs.Time = 2 * 3600 * 1e9

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// construct starts a file.
func (a *apply) construct(v *wire.Construct) (*wire.Result, error) {
	id := eggs.InodeID(v.Id)
	if v.Name != "" {
		if err := eggs.CheckName(v.Name); err != nil {
			return nil, fail(eggs.KindOf(err), id, v.Name, "")
		}
	}
	if id == 0 {
		id = a.nextID(eggs.KindFile)
	} else if err := a.takeLeased(id); err != nil {
		return nil, err
	}
	mtime, atime := v.Mtime, v.Atime
	if mtime == 0 {
		mtime = int64(a.now)
	}
	if atime == 0 {
		atime = int64(a.now)
	}
	r := &TransientRecord{
		File: &FileRecord{
			Mode: v.Mode & 0o7777, Uid: v.Uid, Gid: v.Gid,
			Mtime: mtime, Atime: atime, Ctime: int64(a.now),
		},
		Dir: v.Dir, Name: v.Name, MtimeGiven: v.Mtime != 0,
	}
	if v.LifeNs > 0 && eggs.Time(v.LifeNs) < ConstructionLife {
		r.Life = v.LifeNs
	}
	r.Deadline = int64(a.now + life(r))
	a.transient.add(id, r) // the id was never used
	a.made = id
	return &wire.Result{Result: &wire.Result_Constructed{
		Constructed: &wire.Constructed{Id: uint64(id), Deadline: r.Deadline},
	}}, nil
}

// life is how far a change moves the deadline.
func life(t *TransientRecord) eggs.Time {
	if t.Life > 0 {
		return eggs.Time(t.Life)
	}
	return ConstructionLife
}

// writing returns the file under construction that a verb names, 0 being the
// one that this request made, if its holder may change it. Its deadline moves on.
func (a *apply) writing(file uint64) (eggs.InodeID, *TransientRecord, error) {
	id := eggs.InodeID(file)
	if id == 0 {
		id = a.made
	}
	t, err := a.unfinished(id)
	if err != nil {
		return id, nil, err
	}
	if file != 0 && a.listed(a.entry.Denied) {
		return id, nil, fail(eggs.Permission, id, "", "wrong cookie")
	}
	if eggs.Time(t.Deadline) <= a.now {
		return id, nil, fail(eggs.Expired, id, "", "")
	}
	t.Deadline = int64(a.now + life(t))
	a.transient.touch(a.tx, id)
	return id, t, nil
}

// unfinished returns a transient file.
func (a *apply) unfinished(id eggs.InodeID) (*TransientRecord, error) {
	if !id.Valid() || id.IsDir() {
		return nil, fail(eggs.Invalid, id, "", "not the id of a file under construction")
	}
	t := a.transient.get(a.tx, id)
	if t != nil {
		return t, nil
	}
	if a.files.get(a.tx, id) != nil {
		return nil, fail(eggs.ReadOnly, id, "", "the file is finished")
	}
	return nil, fail(eggs.NotExist, id, "", "")
}

// linkFile makes the whole file appear under its name.
func (a *apply) linkFile(v *wire.LinkFile) (*wire.Result, error) {
	id, t, err := a.writing(v.File)
	if err != nil {
		return nil, err
	}
	if wire.SpanState(t.State) != wire.SpanState_CLEAN {
		return nil, fail(eggs.Conflict, id, "", "the last span is not certified")
	}
	if d := eggs.InodeID(v.Dir); d.Valid() && d.Shard() != a.m.shard {
		return nil, fail(eggs.CrossDir, d, v.Name, "the directory is another shard's")
	}
	p, err := a.place(v.Dir, v.Name)
	if err != nil {
		return nil, err
	}
	old := a.edge(&p)
	if err := a.mayReplace(&p, old, id, v.IfAbsent); err != nil {
		return nil, err
	}
	replaced := a.occupy(&p, id, old)
	a.endReservation(&p)
	t.File.Ctime = int64(a.now)
	a.files.add(id, t.File) // it was transient, so it is not there
	a.transient.put(a.tx, id, nil)
	return &wire.Result{Result: &wire.Result_Linked{
		Linked: &wire.Linked{Time: int64(a.now), Replaced: replaced},
	}}, nil
}

// scrap gives a file under construction to the collector.
func (a *apply) scrap(v *wire.Scrap) (*wire.Result, error) {
	_, t, err := a.writing(v.File)
	if err != nil {
		return nil, err
	}
	t.Deadline = int64(a.now)
	return nil, nil
}

// The bits of SetAttr.set.
const (
	setMode = 1 << iota
	setUID
	setGID
	setMtime
	setAtime
	setMtimeNow
	setAtimeNow
	setAll = 1<<iota - 1
)

// attributes are what SetAttr and SetXattr change of any inode.
type attributes struct {
	mode, uid, gid *uint32
	mtime, atime   *int64
	ctime          *int64
	xattrs         *[]*Xattr
}

// attributes returns where an inode's attributes are, and says that they change.
func (a *apply) attributes(id uint64) (*attributes, error) {
	i := eggs.InodeID(id)
	if i.IsDir() {
		_, d, err := a.liveDir(id)
		if err != nil {
			return nil, err
		}
		a.dirs.touch(a.tx, i)
		return &attributes{
			&d.Mode, &d.Uid, &d.Gid, &d.Mtime, &d.Atime, &d.Ctime, &d.Xattrs,
		}, nil
	}
	if i == 0 {
		i = a.made
	}
	f := a.files.get(a.tx, i)
	if f == nil {
		_, t, err := a.writing(id)
		if err != nil {
			return nil, err
		}
		f = t.File
	} else {
		a.files.touch(a.tx, i)
	}
	return &attributes{
		&f.Mode, &f.Uid, &f.Gid, &f.Mtime, &f.Atime, &f.Ctime, &f.Xattrs,
	}, nil
}

// setAttr changes attributes of any inode of the shard.
func (a *apply) setAttr(v *wire.SetAttr) (*wire.Result, error) {
	if v.Set&^setAll != 0 {
		return nil, fail(eggs.Invalid, eggs.InodeID(v.Id), "", "unknown attributes")
	}
	at, err := a.attributes(v.Id)
	if err != nil || v.Set == 0 {
		return nil, err
	}
	if v.Set&setMode != 0 {
		*at.mode = v.Mode & 0o7777
	}
	if v.Set&setUID != 0 {
		*at.uid = v.Uid
	}
	if v.Set&setGID != 0 {
		*at.gid = v.Gid
	}
	if v.Set&setMtime != 0 {
		*at.mtime = v.Mtime
	}
	if v.Set&setAtime != 0 {
		*at.atime = v.Atime
	}
	if v.Set&setMtimeNow != 0 {
		*at.mtime = int64(a.now)
	}
	if v.Set&setAtimeNow != 0 {
		*at.atime = int64(a.now)
	}
	*at.ctime = int64(a.now)
	id := eggs.InodeID(v.Id)
	if id == 0 {
		id = a.made
	}
	if v.Set&(setMtime|setMtimeNow) != 0 && !id.IsDir() {
		if t := a.transient.get(a.tx, id); t != nil {
			t.MtimeGiven = true
		}
	}
	return nil, nil
}

// setXattr sets or removes one extended attribute.
func (a *apply) setXattr(v *wire.SetXattr) (*wire.Result, error) {
	id := eggs.InodeID(v.Id)
	if v.Name == "" || len(v.Name) > eggs.MaxXattrName || bytes.IndexByte([]byte(v.Name), 0) >= 0 {
		return nil, fail(eggs.Invalid, id, "", "the attribute's name")
	}
	at, err := a.attributes(v.Id)
	if err != nil {
		return nil, err
	}
	all := *at.xattrs
	i := sort.Search(len(all), func(i int) bool { return all[i].Name >= v.Name })
	there := i < len(all) && all[i].Name == v.Name
	switch {
	case there && v.Create:
		return nil, fail(eggs.Exist, id, v.Name, "")
	case !there && (v.Replace || v.Remove):
		return nil, fail(eggs.NotExist, id, v.Name, "")
	case v.Remove:
		all = append(all[:i], all[i+1:]...)
	case there:
		all[i].Value = v.Value
	default:
		all = append(all, nil)
		copy(all[i+1:], all[i:])
		all[i] = &Xattr{Name: v.Name, Value: v.Value}
	}
	size := 0
	for _, x := range all {
		size += len(x.Name) + len(x.Value)
	}
	if size > eggs.MaxXattrBytes {
		return nil, fail(eggs.TooLarge, id, v.Name, "the attributes of one inode")
	}
	*at.xattrs = all
	*at.ctime = int64(a.now)
	return nil, nil
}

func checkSymlink(target []byte) error {
	switch {
	case len(target) == 0 || bytes.IndexByte(target, 0) >= 0:
		return fail(eggs.Invalid, 0, "", "the symlink's target")
	case len(target) > eggs.MaxSymlink:
		return fail(eggs.NameTooLong, 0, "", "the symlink's target")
	}
	return nil
}

// maxFile is the bytes of a file: what an offset of the kernel's can name.
const maxFile = math.MaxInt64
