package fuse

import (
	"errors"
	"io"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"eggsfs/client"
	"eggsfs/eggs"
)

// claimTime is how long a draft waits for the OPEN that follows the ESTALE which made it.
const claimTime = 10 * time.Second

// Create makes a file and opens it.
func (f *fileSystem) Create(
	_ <-chan struct{}, in *gofuse.CreateIn, name string, out *gofuse.CreateOut,
) gofuse.Status {
	if len(name) > eggs.MaxName {
		return gofuse.Status(syscall.ENAMETOOLONG)
	}
	at := place{f.inode(in.NodeId), name}
	exclusive := in.Flags&unix.O_EXCL != 0
	if d, _ := f.drafts.visible(at, in.Pid); d != nil {
		if exclusive {
			return gofuse.Status(syscall.EEXIST)
		}
		return f.joinCreate(d, in, out)
	}
	o := f.options(&in.InHeader, in.Mode)
	o.Exclusive = exclusive
	d, err := f.newDraft(at, o, false, in.Pid)
	if err != nil {
		return statusOf(err)
	}
	f.attach(d, &handle{node: d.node, flags: in.Flags, publishes: true}, &out.OpenOut)
	f.draftEntry(&out.EntryOut, d)
	return gofuse.OK
}

// joinCreate opens a draft that another process of this mount began a moment ago.
func (f *fileSystem) joinCreate(d *draft, in *gofuse.CreateIn, out *gofuse.CreateOut) gofuse.Status {
	if st := f.join(d, d.node, in.Flags, in.Pid, &out.OpenOut); !st.Ok() {
		return st
	}
	f.draftEntry(&out.EntryOut, d)
	return gofuse.OK
}

// attach gives a handle to the kernel; the draft counts it already.
func (f *fileSystem) attach(d *draft, h *handle, out *gofuse.OpenOut) {
	h.draft = d
	d.io.Lock()
	d.claim(h)
	d.io.Unlock()
	out.Fh = f.handles.add(h)
	out.OpenFlags = gofuse.FOPEN_KEEP_CACHE // all writes pass through the kernel's inode
	if h.node != d.node {
		out.OpenFlags = gofuse.FOPEN_DIRECT_IO // the pages of that inode are the old file's
	}
}

// join opens a draft once more. node is the kernel's inode, which may be that of
// the file to be replaced.
func (f *fileSystem) join(
	d *draft, node eggs.InodeID, flags, pid uint32, out *gofuse.OpenOut,
) gofuse.Status {
	h := &handle{node: node, flags: flags, publishes: flags&unix.O_ACCMODE != unix.O_RDONLY}
	h.publishes = h.publishes || flags&unix.O_TRUNC != 0
	ds := f.drafts
	ds.mu.Lock()
	if !d.dirty {
		ds.mu.Unlock()
		return gofuse.Status(syscall.ESTALE) // published meanwhile: the kernel looks again
	}
	first := d.stale != 0 && d.handles == 0
	d.handles++
	ds.mu.Unlock()
	if flags&unix.O_TRUNC != 0 && !first {
		if err := d.truncate(h, 0, pid); err != nil {
			d.release(h)
			return statusOf(err)
		}
	}
	f.attach(d, h, out)
	return gofuse.OK
}

// Open opens a file: a draft, a finished one for reading, or one to be replaced.
func (f *fileSystem) Open(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	id := f.inode(in.NodeId)
	writes := in.Flags&unix.O_ACCMODE != unix.O_RDONLY
	d := f.drafts.node(id)
	if d != nil {
		s := d.state()
		if s.dirty {
			return f.join(d, id, in.Flags, in.Pid, out)
		}
		if s.id != 0 {
			id = s.id
		}
	}
	switch {
	case in.Flags&unix.O_TRUNC != 0:
		return f.replace(cancel, in, id, out)
	case writes:
		return gofuse.EROFS
	}
	h := &handle{
		node: f.inode(in.NodeId), flags: in.Flags,
		reader: &lazyReader{ctx: f.ctx, client: f.client, id: id},
	}
	if at, ok := f.seen.get(id); ok {
		f.opened.add(id, at)
		h.counted = true
	}
	out.Fh = f.handles.add(h)
	out.OpenFlags = gofuse.FOPEN_KEEP_CACHE | gofuse.FOPEN_NOFLUSH
	return gofuse.OK
}

// replace starts the new version that an OPEN with O_TRUNC begins, under an id of its
// own, and answers ESTALE so that the kernel looks the name up again and finds that id.
// The kernel does not when the file was opened through /proc/PID/fd: the second OPEN of
// the old id then gets the new version all the same.
func (f *fileSystem) replace(
	cancel <-chan struct{}, in *gofuse.OpenIn, id eggs.InodeID, out *gofuse.OpenOut,
) gofuse.Status {
	at, ok := f.seen.get(id)
	if !ok {
		return gofuse.Status(syscall.ESTALE)
	}
	if d := f.claimed(at, id, in.Pid); d != nil {
		return f.join(d, f.inode(in.NodeId), in.Flags, in.Pid, out)
	}
	ctx, done := f.await(cancel, in.Pid)
	defer done()
	a, err := f.client.Stat(ctx, id)
	if err != nil {
		return statusOf(err)
	}
	o := client.CreateOptions{Mode: withoutSetID(a.Mode), UID: a.UID, GID: a.GID}
	d, err := f.newDraft(at, o, true, in.Pid)
	if err != nil {
		return statusOf(err)
	}
	d.meta.Lock()
	d.xattrs = a.Xattrs
	d.meta.Unlock()
	f.drafts.mu.Lock()
	d.stale = id
	d.handles-- // none yet
	f.drafts.mu.Unlock()
	time.AfterFunc(claimTime, d.abandon)
	return gofuse.Status(syscall.ESTALE)
}

// claimed finds the draft that an earlier OPEN of the same thread made for the file.
func (f *fileSystem) claimed(at place, id eggs.InodeID, pid uint32) *draft {
	f.drafts.mu.RLock()
	defer f.drafts.mu.RUnlock()
	for _, d := range f.drafts.byPlace[at] {
		if d.stale == id && d.opener == pid && d.handles == 0 && d.dirty {
			return d
		}
	}
	return nil
}

// abandon ends a draft that nobody opened.
func (d *draft) abandon() {
	d.io.Lock()
	defer d.io.Unlock()
	d.end()
}

// Read reads from a finished file or a draft.
func (f *fileSystem) Read(
	_ <-chan struct{}, in *gofuse.ReadIn, buf []byte,
) (gofuse.ReadResult, gofuse.Status) {
	h := f.handles.get(in.Fh)
	if h == nil {
		return nil, gofuse.EBADF
	}
	if h.draft != nil {
		n, err := h.draft.read(buf, int64(in.Offset), h.mayWrite())
		if err != nil {
			return nil, statusOf(err)
		}
		return gofuse.ReadResultData(buf[:n]), gofuse.OK
	}
	if h.reader == nil {
		return nil, gofuse.EBADF
	}
	n, err := h.reader.ReadAt(buf, int64(in.Offset))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, statusOf(err)
	}
	return gofuse.ReadResultData(buf[:n]), gofuse.OK
}

// Write writes to a draft, or starts the next version of what was published of it.
func (f *fileSystem) Write(_ <-chan struct{}, in *gofuse.WriteIn, data []byte) (uint32, gofuse.Status) {
	h := f.handles.get(in.Fh)
	if h == nil || h.draft == nil {
		return 0, gofuse.EBADF
	}
	if err := h.draft.write(h, data, int64(in.Offset), in.Pid); err != nil {
		return 0, statusOf(err)
	}
	if in.WriteFlags&gofuse.WRITE_KILL_SUIDGID != 0 {
		h.draft.dropSetID()
	}
	return uint32(len(data)), gofuse.OK
}

func (d *draft) dropSetID() {
	d.meta.Lock()
	defer d.meta.Unlock()
	d.attr.Mode = withoutSetID(d.attr.Mode)
}

// Flush is a close(2) of one descriptor.
func (f *fileSystem) Flush(_ <-chan struct{}, in *gofuse.FlushIn) gofuse.Status {
	h := f.handles.get(in.Fh)
	if h == nil || h.draft == nil || !h.publishes {
		return gofuse.OK
	}
	return statusOf(h.draft.flush(h, in.Pid))
}

// Release is the end of an open file description.
func (f *fileSystem) Release(_ <-chan struct{}, in *gofuse.ReleaseIn) {
	h := f.handles.remove(in.Fh)
	if h == nil {
		return
	}
	if h.draft != nil {
		h.draft.release(h)
	}
	if h.reader != nil {
		if h.counted {
			f.opened.remove(h.reader.id)
		}
		h.reader.close()
	}
}

// Fsync reports an error of an earlier write. It cannot make a file durable that has
// no name before its close, so it does not wait.
func (f *fileSystem) Fsync(_ <-chan struct{}, in *gofuse.FsyncIn) gofuse.Status {
	h := f.handles.get(in.Fh)
	if h == nil || h.draft == nil {
		return gofuse.OK
	}
	h.draft.io.Lock()
	defer h.draft.io.Unlock()
	return statusOf(h.draft.err)
}

// Fallocate makes a file longer, or a part of it zeros.
func (f *fileSystem) Fallocate(_ <-chan struct{}, in *gofuse.FallocateIn) gofuse.Status {
	h := f.handles.get(in.Fh)
	if h == nil || h.draft == nil {
		return gofuse.EROFS
	}
	const known = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE
	if in.Mode&^known != 0 || in.Offset+in.Length > maxSize || in.Offset+in.Length < in.Offset {
		return gofuse.ENOTSUP
	}
	return statusOf(h.draft.allocate(h, in))
}

func (d *draft) allocate(h *handle, in *gofuse.FallocateIn) error {
	if in.Mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
		if err := d.zero(h, int64(in.Offset), int64(in.Length), in.Pid); err != nil {
			return err
		}
	}
	end := int64(in.Offset + in.Length)
	d.io.Lock()
	size := d.body.size
	d.io.Unlock()
	if in.Mode&unix.FALLOC_FL_KEEP_SIZE == 0 && end > size {
		return d.truncate(h, end, in.Pid)
	}
	return nil
}

func (d *draft) zero(h *handle, off, n int64, pid uint32) error {
	d.io.Lock()
	defer d.io.Unlock()
	if err := d.change(h, pid); err != nil {
		return err
	}
	if err := d.body.zero(off, n); err != nil {
		return d.damaged(err)
	}
	d.touched()
	return nil
}
