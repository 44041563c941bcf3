package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"eggsfs/client"
	"eggsfs/eggs"
)

// Mkdir makes a directory.
func (f *fileSystem) Mkdir(
	_ <-chan struct{}, in *gofuse.MkdirIn, name string, out *gofuse.EntryOut,
) gofuse.Status {
	dir := f.inode(in.NodeId)
	o := f.options(&in.InHeader, in.Mode)
	if f.inherits(dir) {
		o.Mode |= modeSetGID
	}
	q := f.dirs.ask()
	a, err := f.client.Mkdir(f.ctx, dir, name, o)
	f.dirs.forget(dir)
	if err != nil {
		return statusOf(err)
	}
	f.client.Prepare(a.ID)
	f.dirs.put(q, &a, f.config.DirTimeout)
	f.entry(out, &a)
	return gofuse.OK
}

// Symlink makes a symlink.
func (f *fileSystem) Symlink(
	_ <-chan struct{}, in *gofuse.InHeader, target, name string, out *gofuse.EntryOut,
) gofuse.Status {
	dir := f.inode(in.NodeId)
	a, err := f.client.Symlink(f.ctx, dir, name, target, f.options(in, 0o777))
	f.dirs.forget(dir)
	if err != nil {
		return statusOf(err)
	}
	f.entry(out, &a)
	return gofuse.OK
}

// Mknod makes an empty file, published at once: there is no close to wait for.
func (f *fileSystem) Mknod(
	_ <-chan struct{}, in *gofuse.MknodIn, name string, out *gofuse.EntryOut,
) gofuse.Status {
	if t := in.Mode & syscall.S_IFMT; t != syscall.S_IFREG && t != 0 {
		return gofuse.EPERM
	}
	at := place{f.inode(in.NodeId), name}
	o := f.options(&in.InHeader, in.Mode)
	o.Exclusive = true
	w, err := f.client.Create(f.ctx, at.dir, at.name, o)
	if err == nil {
		if _, err = w.Close(f.ctx); err != nil {
			w.Abort()
		}
		f.dirs.forget(at.dir)
	}
	var a client.Attr
	if err == nil {
		a, err = f.client.Stat(f.ctx, w.ID())
	}
	if err != nil {
		return statusOf(err)
	}
	f.seen.put(a.ID, at)
	f.entry(out, &a)
	return gofuse.OK
}

// Link is refused: a file has one name.
func (f *fileSystem) Link(<-chan struct{}, *gofuse.LinkIn, string, *gofuse.EntryOut) gofuse.Status {
	return gofuse.EPERM
}

// Unlink removes a name: a draft's, a finished file's, or both.
func (f *fileSystem) Unlink(_ <-chan struct{}, in *gofuse.InHeader, name string) gofuse.Status {
	at := place{f.inode(in.NodeId), name}
	d, over := f.drafts.visible(at, in.Pid)
	if d != nil && !over {
		d.io.Lock() // a publish in progress ends first
		if s := d.state(); s.dirty || s.id == 0 {
			f.drafts.gone(at, nil)
			d.scrap()
			d.io.Unlock()
			return gofuse.OK
		}
		d.io.Unlock()
	}
	err := f.client.Unlink(f.ctx, at.dir, name, 0)
	f.dirs.forget(at.dir)
	if err != nil && (d == nil || eggs.KindOf(err) != eggs.NotExist) {
		return statusOf(err)
	}
	f.drafts.gone(at, nil)
	f.opened.moved(at, place{})
	return gofuse.OK
}

// Rmdir removes an empty directory; one in which this mount is making a file is not empty.
func (f *fileSystem) Rmdir(cancel <-chan struct{}, in *gofuse.InHeader, name string) gofuse.Status {
	dir := f.inode(in.NodeId)
	if !f.drafts.none() {
		ctx, done := f.await(cancel, in.Pid)
		defer done()
		e, err := f.client.Lookup(ctx, dir, name)
		if err != nil {
			return statusOf(err)
		}
		if len(f.drafts.in(e.Target)) > 0 {
			return gofuse.Status(syscall.ENOTEMPTY)
		}
	}
	defer f.dirs.forget(dir)
	return statusOf(f.client.Rmdir(f.ctx, dir, name))
}

// Rename renames a finished file or a directory, or the name that a draft will have.
func (f *fileSystem) Rename(
	cancel <-chan struct{}, in *gofuse.RenameIn, oldName, newName string,
) gofuse.Status {
	noReplace := in.Flags&unix.RENAME_NOREPLACE != 0
	if in.Flags&^unix.RENAME_NOREPLACE != 0 {
		return gofuse.EINVAL // an exchange would have to be atomic over two names
	}
	from, to := place{f.inode(in.NodeId), oldName}, place{f.inode(in.Newdir), newName}
	if len(newName) > eggs.MaxName {
		return gofuse.Status(syscall.ENAMETOOLONG)
	}
	if d, over := f.drafts.visible(from, in.Pid); d != nil {
		if from.dir != to.dir {
			return gofuse.EXDEV
		}
		if !over {
			d.io.Lock()
			defer d.io.Unlock()
			if s := d.state(); s.dirty && s.at == from {
				return f.renameDraft(cancel, in.Pid, d, to, noReplace)
			}
		}
	}
	if noReplace {
		if d, _ := f.drafts.visible(to, in.Pid); d != nil {
			return gofuse.Status(syscall.EEXIST)
		}
	}
	err := f.client.Rename(f.ctx, from.dir, oldName, to.dir, newName, noReplace)
	f.dirs.forget(from.dir, to.dir)
	if err != nil {
		return statusOf(err)
	}
	if from != to {
		f.drafts.moved(from, to)
		f.opened.moved(from, to)
	}
	return gofuse.OK
}

// renameDraft changes the name that a draft of a new name will have. Other mounts see
// neither the old name nor the new one before it is published. io is held.
func (f *fileSystem) renameDraft(
	cancel <-chan struct{}, pid uint32, d *draft, to place, noReplace bool,
) gofuse.Status {
	ctx, done := f.await(cancel, pid)
	defer done()
	e, err := f.client.Lookup(ctx, to.dir, to.name)
	there := err == nil
	if err != nil && eggs.KindOf(err) != eggs.NotExist {
		return statusOf(err)
	}
	if there && e.Target.IsDir() {
		return gofuse.EISDIR
	}
	other, _ := f.drafts.visible(to, pid)
	if noReplace && (there || other != nil && other != d) {
		return gofuse.Status(syscall.EEXIST)
	}
	f.drafts.gone(to, d)
	ds := f.drafts
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.move(d, to)
	d.over = there
	return gofuse.OK
}
