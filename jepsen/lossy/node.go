package lossy

import (
	"context"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// node is an inode as the kernel knows it.
type node struct {
	fs.Inode
	m *FS
	i *inode
}

// handle is one open file.
type handle struct {
	n    *node
	f    *os.File
	sync bool // opened with O_SYNC or O_DSYNC
}

var (
	_ fs.NodeLookuper   = (*node)(nil)
	_ fs.NodeCreater    = (*node)(nil)
	_ fs.NodeMkdirer    = (*node)(nil)
	_ fs.NodeUnlinker   = (*node)(nil)
	_ fs.NodeRmdirer    = (*node)(nil)
	_ fs.NodeRenamer    = (*node)(nil)
	_ fs.NodeLinker     = (*node)(nil)
	_ fs.NodeReaddirer  = (*node)(nil)
	_ fs.NodeGetattrer  = (*node)(nil)
	_ fs.NodeSetattrer  = (*node)(nil)
	_ fs.NodeOpener     = (*node)(nil)
	_ fs.NodeFsyncer    = (*node)(nil)
	_ fs.NodeStatfser   = (*node)(nil)
	_ fs.NodeAllocater  = (*node)(nil)
	_ fs.FileReader     = (*handle)(nil)
	_ fs.FileWriter     = (*handle)(nil)
	_ fs.FileReleaser   = (*handle)(nil)
	_ fs.FileFlusher    = (*handle)(nil)
	_ fs.FileGetattrer  = (*handle)(nil)
	_ fs.FileAllocater  = (*handle)(nil)
	_ fs.InodeEmbedder  = (*node)(nil)
	_ fs.NodeOpendirer  = (*node)(nil)
	_ fs.NodeGetxattrer = (*node)(nil)
)

func (n *node) where() string { return n.Path(nil) }

func (n *node) meet(ctx context.Context, call Calls) syscall.Errno {
	return n.m.meet(ctx, call, n.where)
}

func (i *inode) attr(out *fuse.Attr) {
	i.mu.Lock()
	size := i.size
	i.mu.Unlock()
	out.Ino, out.Mode, out.Size, out.Nlink = i.id, i.mode|i.kind(), uint64(size), uint32(max(i.links, 1))
	out.Blocks, out.Blksize = uint64(size+511)/512, page
	out.SetTimes(&i.mtime, &i.mtime, &i.mtime)
}

func (i *inode) kind() uint32 {
	if i.dir {
		return syscall.S_IFDIR
	}
	return syscall.S_IFREG
}

// child is the kernel's inode for i. The caller holds the tree's mutex.
func (n *node) child(ctx context.Context, i *inode, out *fuse.EntryOut) *fs.Inode {
	i.attr(&out.Attr)
	out.SetEntryTimeout(time.Hour)
	out.SetAttrTimeout(time.Hour)
	return n.NewInode(ctx, &node{m: n.m, i: i}, fs.StableAttr{Mode: i.kind(), Ino: i.id})
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.m.t.mu.Lock()
	defer n.m.t.mu.Unlock()
	i := n.i.now[name]
	if i == nil {
		return nil, syscall.ENOENT
	}
	return n.child(ctx, i, out), 0
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (
	*fs.Inode, fs.FileHandle, uint32, syscall.Errno,
) {
	if e := n.meet(ctx, Names); e != 0 {
		return nil, nil, 0, e
	}
	t := n.m.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.i.now[name] != nil {
		return nil, nil, 0, syscall.EEXIST
	}
	i := t.make(false, mode)
	f, err := os.OpenFile(t.path(i), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, nil, 0, fs.ToErrno(err)
	}
	t.bind(n.i, name, i, nil)
	i.refs++
	child := n.child(ctx, i, out)
	h := &handle{child.Operations().(*node), f, flags&(syscall.O_SYNC|syscall.O_DSYNC) != 0}
	return child, h, fuse.FOPEN_KEEP_CACHE, 0
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (
	*fs.Inode, syscall.Errno,
) {
	if e := n.meet(ctx, Names); e != 0 {
		return nil, e
	}
	n.m.t.mu.Lock()
	defer n.m.t.mu.Unlock()
	if n.i.now[name] != nil {
		return nil, syscall.EEXIST
	}
	i := n.m.t.make(true, mode)
	n.m.t.bind(n.i, name, i, nil)
	return n.child(ctx, i, out), 0
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno { return n.remove(ctx, name) }

func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno { return n.remove(ctx, name) }

func (n *node) remove(ctx context.Context, name string) syscall.Errno {
	if e := n.meet(ctx, Names); e != 0 && e != syscall.ENOSPC { // to remove needs no room
		return e
	}
	n.m.t.mu.Lock()
	defer n.m.t.mu.Unlock()
	i := n.i.now[name]
	if i == nil {
		return syscall.ENOENT
	}
	if i.dir && len(i.now) > 0 {
		return syscall.ENOTEMPTY
	}
	n.m.t.bind(n.i, name, nil, nil)
	return 0
}

func (n *node) Rename(ctx context.Context, name string, to fs.InodeEmbedder, toName string,
	flags uint32,
) syscall.Errno {
	if e := n.meet(ctx, Names); e != 0 {
		return e
	}
	n.m.t.mu.Lock()
	defer n.m.t.mu.Unlock()
	dir := to.EmbeddedInode().Operations().(*node).i
	i, target := n.i.now[name], dir.now[toName]
	switch {
	case flags&^unix.RENAME_NOREPLACE != 0:
		return syscall.ENOTSUP
	case i == nil:
		return syscall.ENOENT
	case target == i:
		return 0
	case target != nil && flags&unix.RENAME_NOREPLACE != 0:
		return syscall.EEXIST
	case target != nil && target.dir && len(target.now) > 0:
		return syscall.ENOTEMPTY
	}
	i.refs++ // until it has its new name
	n.m.t.bind(n.i, name, nil, &place{dir, toName})
	n.m.t.bind(dir, toName, i, &place{n.i, name})
	n.m.t.unref(i)
	return 0
}

func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (
	*fs.Inode, syscall.Errno,
) {
	if e := n.meet(ctx, Names); e != 0 {
		return nil, e
	}
	n.m.t.mu.Lock()
	defer n.m.t.mu.Unlock()
	if n.i.now[name] != nil {
		return nil, syscall.EEXIST
	}
	i := target.EmbeddedInode().Operations().(*node).i
	n.m.t.bind(n.i, name, i, nil)
	return n.child(ctx, i, out), 0
}

func (n *node) Opendir(context.Context) syscall.Errno { return 0 }

func (n *node) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	n.m.t.mu.Lock()
	defer n.m.t.mu.Unlock()
	list := make([]fuse.DirEntry, 0, len(n.i.now))
	for name, i := range n.i.now {
		list = append(list, fuse.DirEntry{Name: name, Ino: i.id, Mode: i.kind()})
	}
	slices.SortFunc(list, func(a, b fuse.DirEntry) int { return int(int64(a.Ino) - int64(b.Ino)) })
	return fs.NewListDirStream(list), 0
}

// Getxattr says that there are none, so that the kernel does not ask before each write.
func (n *node) Getxattr(context.Context, string, []byte) (uint32, syscall.Errno) {
	return 0, syscall.ENOSYS
}

func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.m.t.mu.Lock()
	defer n.m.t.mu.Unlock()
	n.i.attr(&out.Attr)
	out.SetTimeout(time.Hour)
	return 0
}

func (n *node) Setattr(ctx context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if e := n.meet(ctx, Write); e != 0 {
			return e
		}
		if err := n.m.t.resize(n.i, int64(size)); err != nil {
			return fs.ToErrno(err)
		}
	}
	n.m.t.mu.Lock()
	if mode, ok := in.GetMode(); ok {
		n.i.mode = mode & 0o7777
	}
	n.m.t.mu.Unlock()
	return n.Getattr(ctx, nil, out)
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	t := n.m.t
	f, err := os.OpenFile(t.path(n.i), os.O_RDWR, 0)
	if err != nil {
		return nil, 0, fs.ToErrno(err)
	}
	if flags&syscall.O_TRUNC != 0 {
		if err := t.resize(n.i, 0); err != nil {
			f.Close()
			return nil, 0, fs.ToErrno(err)
		}
	}
	t.mu.Lock()
	n.i.refs++
	t.mu.Unlock()
	return &handle{n, f, flags&(syscall.O_SYNC|syscall.O_DSYNC) != 0}, fuse.FOPEN_KEEP_CACHE, 0
}

// Fsync is of a file or of a directory.
func (n *node) Fsync(ctx context.Context, _ fs.FileHandle, _ uint32) syscall.Errno {
	if e := n.meet(ctx, Sync); e != 0 {
		return e
	}
	if !n.i.dir {
		n.m.t.sync(n.i)
		return 0
	}
	n.m.t.mu.Lock()
	defer n.m.t.mu.Unlock()
	n.m.t.syncDir(n.i)
	return 0
}

func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	var st syscall.Statfs_t
	if err := syscall.Statfs(n.m.t.store, &st); err != nil {
		return fs.ToErrno(err)
	}
	out.FromStatfsT(&st)
	if f := n.m.fault.Load(); f != nil && f.Full {
		out.Bfree, out.Bavail = 0, 0
	}
	return 0
}

// Allocate only knows room that stays as it is: nothing is promised, as a disk that
// is full is a Fault.
func (n *node) Allocate(ctx context.Context, _ fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	if mode&^unix.FALLOC_FL_KEEP_SIZE != 0 {
		return syscall.ENOTSUP
	}
	if e := n.meet(ctx, Write); e != 0 {
		return e
	}
	n.i.mu.Lock()
	grow := mode&unix.FALLOC_FL_KEEP_SIZE == 0 && int64(off+size) > n.i.size
	n.i.mu.Unlock()
	if !grow {
		return 0
	}
	return fs.ToErrno(n.m.t.resize(n.i, int64(off+size)))
}

func (h *handle) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	return h.n.Allocate(ctx, nil, off, size, mode)
}

func (h *handle) Getattr(ctx context.Context, out *fuse.AttrOut) syscall.Errno {
	return h.n.Getattr(ctx, nil, out)
}

func (h *handle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if e := h.n.meet(ctx, Read); e != 0 {
		return nil, e
	}
	return fuse.ReadResultFd(h.f.Fd(), off, len(dest)), 0
}

func (h *handle) Write(ctx context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	if e := h.n.meet(ctx, Write); e != 0 {
		return 0, e
	}
	if err := h.n.m.t.write(h.n.i, h.f, p, off, h.sync); err != nil {
		return 0, fs.ToErrno(err)
	}
	return uint32(len(p)), 0
}

func (h *handle) Flush(context.Context) syscall.Errno { return 0 }

func (h *handle) Release(context.Context) syscall.Errno {
	h.n.m.t.mu.Lock()
	h.n.m.t.unref(h.n.i)
	h.n.m.t.mu.Unlock()
	return fs.ToErrno(h.f.Close())
}
