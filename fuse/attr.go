package fuse

import (
	"strings"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"eggsfs/client"
	"eggsfs/eggs"
)

// tick is the shortest time-out: the kernel rounds it up to its clock's next tick. It
// lets the stat(2) that caused a look-up use the attributes that came with the name.
const tick = time.Nanosecond

// ioSize is st_blksize: what cp and cat read and write at once.
const ioSize = mib

func typeBits(id eggs.InodeID) uint32 {
	switch id.Kind() {
	case eggs.KindDirectory:
		return syscall.S_IFDIR
	case eggs.KindSymlink:
		return syscall.S_IFLNK
	}
	return syscall.S_IFREG
}

// fill writes attributes as the kernel wants them.
func (f *fileSystem) fill(out *gofuse.Attr, a *client.Attr) {
	f.groups.see(a)
	out.Ino = f.node(a.ID)
	out.Mode = a.Mode&0o7777 | typeBits(a.ID)
	out.Uid, out.Gid = a.UID, a.GID
	out.Size = uint64(a.Size)
	out.Blocks = (out.Size + 511) / 512
	out.Blksize = ioSize
	out.Nlink = 1 // of a directory: how many subdirectories there are is not known
	out.Atime, out.Atimensec = stamp(a.Atime)
	out.Mtime, out.Mtimensec = stamp(a.Mtime)
	out.Ctime, out.Ctimensec = stamp(a.Ctime)
	if a.ID.Kind() == eggs.KindSymlink {
		out.Mode = 0o777 | syscall.S_IFLNK
	}
}

func stamp(t eggs.Time) (sec uint64, nsec uint32) {
	s := t.Std()
	return uint64(s.Unix()), uint32(s.Nanosecond())
}

// entry fills the answer to a look-up.
func (f *fileSystem) entry(out *gofuse.EntryOut, a *client.Attr) {
	f.fill(&out.Attr, a)
	out.NodeId = f.node(a.ID)
	out.Generation = 1
	if a.ID.IsDir() {
		out.SetEntryTimeout(f.config.DirTimeout)
		out.SetAttrTimeout(max(f.config.DirTimeout, tick))
		return
	}
	out.SetEntryTimeout(f.config.FileTimeout)
	out.SetAttrTimeout(max(f.config.FileTimeout, tick))
}

func (f *fileSystem) timeout(id eggs.InodeID) time.Duration {
	if id.IsDir() {
		return f.config.DirTimeout
	}
	return f.config.FileTimeout
}

// draftEntry fills the answer to a look-up that found a draft; the kernel keeps none of it.
func (f *fileSystem) draftEntry(out *gofuse.EntryOut, d *draft) {
	a := d.snapshot()
	f.fill(&out.Attr, &a)
	out.NodeId = f.node(a.ID)
	out.Generation = 1
	out.SetAttrTimeout(tick)
}

// Lookup finds a name.
func (f *fileSystem) Lookup(
	cancel <-chan struct{}, in *gofuse.InHeader, name string, out *gofuse.EntryOut,
) gofuse.Status {
	if len(name) > eggs.MaxName {
		return gofuse.Status(syscall.ENAMETOOLONG)
	}
	at := place{f.inode(in.NodeId), name}
	if !f.drafts.none() {
		if d, _ := f.drafts.visible(at, in.Pid); d != nil {
			f.draftEntry(out, d)
			return gofuse.OK
		}
	}
	ctx, done := f.await(cancel, in.Pid)
	defer done()
	q := f.dirs.ask()
	e, err := f.client.Lookup(ctx, at.dir, name)
	if err == nil && e.Attr == nil {
		var a client.Attr
		a, err = f.client.Stat(ctx, e.Target)
		e.Attr = &a
	}
	if err != nil {
		if eggs.KindOf(err) == eggs.NotExist && f.config.NegativeTimeout > 0 {
			out.SetEntryTimeout(f.config.NegativeTimeout)
			return gofuse.OK // node 0: absent, and for how long
		}
		return statusOf(err)
	}
	if e.Target.IsDir() {
		f.dirs.put(q, e.Attr, f.config.DirTimeout)
	} else {
		f.seen.put(e.Target, at)
	}
	f.entry(out, e.Attr)
	return gofuse.OK
}

// attrOf asks for the attributes behind a node of the kernel.
func (f *fileSystem) attrOf(cancel <-chan struct{}, in *gofuse.InHeader) (client.Attr, error) {
	id := f.inode(in.NodeId)
	d := f.drafts.node(id)
	if d != nil {
		s := d.state()
		if s.dirty || s.id == 0 {
			return d.snapshot(), nil
		}
		id = s.id
	}
	ctx, done := f.await(cancel, in.Pid)
	defer done()
	q := f.dirs.ask()
	a, err := f.client.Stat(ctx, id)
	if err == nil && d != nil {
		a.ID = d.node
	}
	if err == nil {
		f.dirs.put(q, &a, f.config.DirTimeout)
	}
	return a, err
}

// GetAttr answers stat(2).
func (f *fileSystem) GetAttr(cancel <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	if f.knownDir(f.inode(in.NodeId), out) {
		return gofuse.OK
	}
	a, err := f.attrOf(cancel, &in.InHeader)
	if err != nil {
		return statusOf(err)
	}
	f.attrOut(out, &a)
	return gofuse.OK
}

func (f *fileSystem) attrOut(out *gofuse.AttrOut, a *client.Attr) {
	f.fill(&out.Attr, a)
	out.SetTimeout(f.timeout(a.ID))
	if f.unlinked(a.ID) {
		out.Nlink = 0
	}
}

// unlinked reports whether this mount took the name of an open file away.
func (f *fileSystem) unlinked(id eggs.InodeID) bool {
	if d := f.drafts.node(id); d != nil {
		return !d.state().linked
	}
	return f.opened.isGone(id)
}

// SetAttr answers chmod, chown, utimensat and truncate.
func (f *fileSystem) SetAttr(cancel <-chan struct{}, in *gofuse.SetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	id := f.inode(in.NodeId)
	var h *handle
	if fh, ok := in.GetFh(); ok {
		h = f.handles.get(fh)
	}
	d := f.drafts.node(id)
	if h != nil && h.draft != nil {
		d = h.draft
	}
	if size, ok := in.GetSize(); ok {
		if d == nil || h == nil && !d.state().dirty {
			return gofuse.EROFS
		}
		if size > maxSize {
			return gofuse.EINVAL
		}
		if err := d.truncate(h, int64(size), in.Pid); err != nil {
			return statusOf(err)
		}
	}
	s, err := f.changes(in, id, d)
	if err != nil {
		return statusOf(err)
	}
	var a client.Attr
	switch {
	case s == (client.SetAttr{}):
		in.InHeader.NodeId = f.node(id)
		a, err = f.attrOf(cancel, &in.InHeader)
	case d != nil:
		a, err = d.setAttr(f.ctx, s)
	default:
		a, err = f.client.SetAttr(f.ctx, id, s)
		f.dirs.forget(id)
	}
	if err != nil {
		return statusOf(err)
	}
	f.attrOut(out, &a)
	return gofuse.OK
}

// changes reads what a request wants changed, apart from the size.
func (f *fileSystem) changes(in *gofuse.SetAttrIn, id eggs.InodeID, d *draft) (client.SetAttr, error) {
	var s client.SetAttr
	if mode, ok := in.GetMode(); ok {
		s.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		s.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		s.GID = &gid
	}
	if in.Valid&gofuse.FATTR_MTIME != 0 {
		if s.MtimeNow = in.Valid&gofuse.FATTR_MTIME_NOW != 0; !s.MtimeNow {
			s.Mtime = timeOf(in.Mtime, in.Mtimensec)
		}
	}
	if in.Valid&gofuse.FATTR_ATIME != 0 {
		if s.AtimeNow = in.Valid&gofuse.FATTR_ATIME_NOW != 0; !s.AtimeNow {
			s.Atime = timeOf(in.Atime, in.Atimensec)
		}
	}
	owner := s.UID != nil || s.GID != nil
	if (owner || in.Valid&gofuse.FATTR_KILL_SUIDGID != 0) && s.Mode == nil && !id.IsDir() {
		return s, f.dropSetID(&s, id, d)
	}
	return s, nil
}

// dropSetID clears the set-id bits, as a change of owner or content does on any system. The
// kernel leaves that to the file system (HANDLE_KILLPRIV_V2), which spares it a question
// with every write.
func (f *fileSystem) dropSetID(s *client.SetAttr, id eggs.InodeID, d *draft) error {
	var a client.Attr
	if d != nil && d.state().dirty {
		a = d.snapshot()
	} else {
		var err error
		if a, err = f.client.Stat(f.ctx, id); err != nil {
			return err
		}
	}
	if mode := withoutSetID(a.Mode); mode != a.Mode {
		s.Mode = &mode
	}
	return nil
}

// withoutSetID keeps set-group-id on a file that its group may not run: there it means locking.
func withoutSetID(mode uint32) uint32 {
	mode &^= modeSetUID
	if mode&0o010 != 0 {
		mode &^= modeSetGID
	}
	return mode
}

func timeOf(sec uint64, nsec uint32) *eggs.Time {
	t := eggs.TimeOf(time.Unix(int64(sec), int64(nsec)))
	return &t
}

// Readlink returns a symlink's target.
func (f *fileSystem) Readlink(cancel <-chan struct{}, in *gofuse.InHeader) ([]byte, gofuse.Status) {
	a, err := f.attrOf(cancel, in)
	if err != nil {
		return nil, statusOf(err)
	}
	if a.ID.Kind() != eggs.KindSymlink {
		return nil, gofuse.EINVAL
	}
	return []byte(a.Symlink), gofuse.OK
}

// userXattr reports whether an attribute is one that is kept. The others are of the
// kernel's own machinery, or need a privilege that has no meaning across machines.
func userXattr(name string) bool { return strings.HasPrefix(name, "user.") }

// GetXAttr reads an extended attribute.
func (f *fileSystem) GetXAttr(
	cancel <-chan struct{}, in *gofuse.InHeader, name string, dest []byte,
) (uint32, gofuse.Status) {
	if !userXattr(name) {
		return 0, gofuse.ENODATA // asked with the first write to a file: must not cost a request
	}
	a, err := f.attrOf(cancel, in)
	if err != nil {
		return 0, statusOf(err)
	}
	value, ok := a.Xattrs[name]
	if !ok {
		return 0, gofuse.ENODATA
	}
	if len(dest) < len(value) {
		return uint32(len(value)), gofuse.ERANGE
	}
	return uint32(copy(dest, value)), gofuse.OK
}

// ListXAttr lists the names of extended attributes, each with a NUL.
func (f *fileSystem) ListXAttr(cancel <-chan struct{}, in *gofuse.InHeader, dest []byte) (uint32, gofuse.Status) {
	a, err := f.attrOf(cancel, in)
	if err != nil {
		return 0, statusOf(err)
	}
	var names []byte
	for name := range a.Xattrs {
		names = append(append(names, name...), 0)
	}
	if len(dest) < len(names) {
		return uint32(len(names)), gofuse.ERANGE
	}
	return uint32(copy(dest, names)), gofuse.OK
}

// SetXAttr sets an extended attribute.
func (f *fileSystem) SetXAttr(
	_ <-chan struct{}, in *gofuse.SetXAttrIn, name string, value []byte,
) gofuse.Status {
	if !userXattr(name) {
		return gofuse.ENOTSUP
	}
	create, replace := in.Flags&unix.XATTR_CREATE != 0, in.Flags&unix.XATTR_REPLACE != 0
	id := f.inode(in.NodeId)
	if d := f.drafts.node(id); d != nil {
		return xattrStatus(d.setXattr(name, append([]byte{}, value...), create, replace))
	}
	defer f.dirs.forget(id)
	return xattrStatus(f.client.SetXattr(f.ctx, id, name, append([]byte{}, value...), create, replace))
}

// RemoveXAttr removes an extended attribute.
func (f *fileSystem) RemoveXAttr(_ <-chan struct{}, in *gofuse.InHeader, name string) gofuse.Status {
	if !userXattr(name) {
		return gofuse.ENOTSUP
	}
	id := f.inode(in.NodeId)
	if d := f.drafts.node(id); d != nil {
		return xattrStatus(d.removeXattr(name))
	}
	defer f.dirs.forget(id)
	return xattrStatus(f.client.RemoveXattr(f.ctx, id, name))
}

// xattrStatus is statusOf with the words that xattr(7) has for two of the kinds.
func xattrStatus(err error) gofuse.Status {
	switch eggs.KindOf(err) {
	case eggs.TooLarge:
		return gofuse.Status(syscall.ENOSPC)
	case eggs.NotExist:
		return gofuse.ENODATA
	}
	return statusOf(err)
}

// setXattr keeps an attribute until the file is published, or sets it then.
func (d *draft) setXattr(name string, value []byte, create, replace bool) error {
	d.io.Lock()
	defer d.io.Unlock()
	if s := d.state(); !s.dirty {
		return d.fs.client.SetXattr(d.fs.ctx, s.id, name, value, create, replace)
	}
	d.meta.Lock()
	defer d.meta.Unlock()
	_, there := d.xattrs[name]
	size := len(name) + len(value)
	for k, v := range d.xattrs {
		if k != name {
			size += len(k) + len(v)
		}
	}
	fail := func(k eggs.Kind) error {
		return &eggs.Error{Op: "fuse.setxattr", Inode: d.node, Name: name, Kind: k}
	}
	switch {
	case create && there:
		return fail(eggs.Exist)
	case replace && !there:
		return fail(eggs.NotExist)
	case size > eggs.MaxXattrBytes:
		return fail(eggs.TooLarge)
	}
	if d.xattrs == nil {
		d.xattrs = map[string][]byte{}
	}
	d.xattrs[name] = value
	return nil
}

func (d *draft) removeXattr(name string) error {
	d.io.Lock()
	defer d.io.Unlock()
	if s := d.state(); !s.dirty {
		return d.fs.client.RemoveXattr(d.fs.ctx, s.id, name)
	}
	d.meta.Lock()
	defer d.meta.Unlock()
	if _, ok := d.xattrs[name]; !ok {
		return &eggs.Error{Op: "fuse.removexattr", Inode: d.node, Name: name, Kind: eggs.NotExist}
	}
	delete(d.xattrs, name)
	return nil
}
