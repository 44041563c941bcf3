package fuse

import (
	"cmp"
	"slices"
	"sync"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"eggsfs/client"
	"eggsfs/eggs"
)

// Offsets in a directory: 0 is before ".", 1 before "..", 2 before the first name; an
// offset from eggs.FirstNameHash on is after the names whose hash is not greater. So
// an offset stays good while names come and go, and after the directory was closed.
const (
	afterDot    = 1
	afterDotDot = 2
)

// pageSize is how many names are asked for at once: some 200 KiB of memory for an open
// directory, and few enough requests that they cost nothing a name.
const pageSize = 2048

// listing is an open directory: the page that was asked for last.
type listing struct {
	mu    sync.Mutex
	page  []client.Entry
	next  int    // of page
	at    uint64 // the offset before page[next]
	owner eggs.InodeID
	end   bool // page is the last
}

// OpenDir opens a directory.
func (f *fileSystem) OpenDir(_ <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	out.Fh = f.handles.add(&handle{node: f.inode(in.NodeId), list: &listing{}})
	return gofuse.OK
}

// ReleaseDir closes it.
func (f *fileSystem) ReleaseDir(in *gofuse.ReleaseIn) { f.handles.remove(in.Fh) }

// FsyncDir does nothing: a change of names is durable when it is answered.
func (f *fileSystem) FsyncDir(<-chan struct{}, *gofuse.FsyncIn) gofuse.Status { return gofuse.OK }

// ReadDir lists names.
func (f *fileSystem) ReadDir(
	cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList,
) gofuse.Status {
	return f.readDir(cancel, in, func(e *client.Entry, off uint64) bool {
		return out.AddDirEntry(f.dirEntry(e, off))
	})
}

// ReadDirPlus lists names with what a look-up of each would have answered, where the
// kernel may use that: attributes with a time-out of 0 would be thrown away.
func (f *fileSystem) ReadDirPlus(
	cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList,
) gofuse.Status {
	return f.readDir(cancel, in, func(e *client.Entry, off uint64) bool {
		o := out.AddDirLookupEntry(f.dirEntry(e, off))
		if o == nil {
			return false
		}
		if e.Attr != nil && e.Attr.ID == e.Target && e.Name != "." && e.Name != ".." {
			if !e.Target.IsDir() {
				f.seen.put(e.Target, place{f.inode(in.NodeId), e.Name})
			}
			f.entry(o, e.Attr)
		}
		return true
	})
}

func (f *fileSystem) dirEntry(e *client.Entry, off uint64) gofuse.DirEntry {
	return gofuse.DirEntry{Name: e.Name, Ino: f.node(e.Target), Mode: typeBits(e.Target), Off: off}
}

func (f *fileSystem) readDir(
	cancel <-chan struct{}, in *gofuse.ReadIn, add func(e *client.Entry, off uint64) bool,
) gofuse.Status {
	h := f.handles.get(in.Fh)
	if h == nil || h.list == nil {
		return gofuse.EBADF
	}
	l := h.list
	l.mu.Lock()
	defer l.mu.Unlock()
	dir := h.node
	if in.Offset != l.at || in.Offset == 0 {
		l.page, l.next, l.at, l.end = nil, 0, in.Offset, false
	}
	if l.page == nil {
		if err := f.turn(cancel, in.Pid, dir, l, max(in.Offset, afterDotDot)); err != nil {
			return statusOf(err)
		}
	}
	if l.at == 0 {
		if !add(&client.Entry{Name: ".", Target: dir}, afterDot) {
			return gofuse.OK
		}
		l.at = afterDot
	}
	if l.at == afterDot {
		if !add(&client.Entry{Name: "..", Target: f.above(dir, l.owner)}, afterDotDot) {
			return gofuse.OK
		}
		l.at = afterDotDot
	}
	for n := 0; ; n++ {
		if l.next == len(l.page) {
			if l.end || n > 0 {
				return gofuse.OK // the kernel asks again; what it has may be used meanwhile
			}
			if err := f.turn(cancel, in.Pid, dir, l, l.at); err != nil {
				return statusOf(err)
			}
			if l.next == len(l.page) {
				return gofuse.OK
			}
		}
		e := &l.page[l.next]
		off := e.Cursor
		if l.next+1 < len(l.page) && l.page[l.next+1].Cursor == off {
			off-- // two names of one hash: a stranger to this listing begins with the first again
		}
		if !add(e, off) {
			return gofuse.OK
		}
		l.next++
		l.at = off
	}
}

// above is what ".." names; at the mount point it is the mount point.
func (f *fileSystem) above(dir, owner eggs.InodeID) eggs.InodeID {
	if dir == f.root || owner == 0 {
		return f.root
	}
	return owner
}

// turn asks for the page after an offset, and adds this mount's drafts to it.
func (f *fileSystem) turn(
	cancel <-chan struct{}, pid uint32, dir eggs.InodeID, l *listing, after uint64,
) error {
	ctx, done := f.await(cancel, pid)
	defer done()
	everything := f.config.FileTimeout > 0
	page, owner, end, err := f.client.ReadDir(ctx, dir, after, pageSize, everything)
	if err != nil {
		return err
	}
	if !everything && f.config.DirTimeout > 0 {
		f.statDirs(cancel, pid, page)
	}
	last := uint64(1<<63 - 1)
	if !end && len(page) > 0 {
		last = page[len(page)-1].Cursor
	}
	if page == nil {
		page = []client.Entry{}
	}
	l.page, l.next, l.owner, l.end = f.withDrafts(dir, page, after, last), 0, owner, end
	return nil
}

// statDirs fills in the attributes of directories, which the kernel may keep a while.
func (f *fileSystem) statDirs(cancel <-chan struct{}, pid uint32, page []client.Entry) {
	var ids []eggs.InodeID
	var at []int
	for i := range page {
		if page[i].Target.IsDir() {
			ids, at = append(ids, page[i].Target), append(at, i)
		}
	}
	if len(ids) == 0 {
		return
	}
	ctx, done := f.await(cancel, pid)
	defer done()
	attrs, err := f.client.StatMany(ctx, ids)
	if err != nil || len(attrs) != len(ids) {
		return // the listing is good without them
	}
	for i := range attrs {
		page[at[i]].Attr = &attrs[i]
	}
}

// withDrafts merges the files that this mount is making into a page.
func (f *fileSystem) withDrafts(dir eggs.InodeID, page []client.Entry, after, last uint64) []client.Entry {
	list := f.drafts.in(dir)
	for _, d := range list {
		s := d.state()
		c := eggs.NameHash(s.at.name)
		named := func(e client.Entry) bool { return e.Name == s.at.name }
		if c > after && c <= last && !slices.ContainsFunc(page, named) {
			page = append(page, client.Entry{Name: s.at.name, Target: d.node, Cursor: c})
		}
	}
	if len(list) > 0 {
		slices.SortStableFunc(page, func(a, b client.Entry) int { return cmp.Compare(a.Cursor, b.Cursor) })
	}
	return page
}

// Ioctl knows none.
func (f *fileSystem) Ioctl(
	<-chan struct{}, *gofuse.IoctlIn, []byte, *gofuse.IoctlOut, []byte,
) gofuse.Status {
	return gofuse.Status(syscall.ENOTTY)
}
