package fuse

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"syscall"
	"time"

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

// How many names are asked for at once: few at first, since many directories are small and
// whoever waits wants to see something; then so many that the requests to all shards
// that a page's subdirectories take cost little a name. A page takes some 2 MiB at most.
const (
	firstPage = 1024
	nextPage  = 4096
)

// listing is an open directory: the page that was asked for last, and the one after it,
// which is being asked for while the first is read.
type listing struct {
	mu sync.Mutex
	page
	next  int    // of entries
	at    uint64 // the offset before entries[next]
	ahead *fetch
}

// page is what was answered; entries is nil before that.
type page struct {
	entries []client.Entry
	owner   eggs.InodeID
	end     bool      // it is the last
	asked   time.Time // when its attributes were at least as new
}

// fetch is a page on its way. page and err may be read when done is closed.
type fetch struct {
	after  uint64
	cancel context.CancelFunc
	done   chan struct{}
	page   page
	err    error
}

// stop gives the page that is on its way up. l.mu is held.
func (l *listing) stop() {
	if l.ahead != nil {
		l.ahead.cancel()
		l.ahead = nil
	}
}

// OpenDir opens a directory.
func (f *fileSystem) OpenDir(_ <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	out.Fh = f.handles.add(&handle{node: f.inode(in.NodeId), list: &listing{}})
	return gofuse.OK
}

// ReleaseDir closes it.
func (f *fileSystem) ReleaseDir(in *gofuse.ReleaseIn) {
	if h := f.handles.remove(in.Fh); h != nil && h.list != nil {
		h.list.mu.Lock()
		defer h.list.mu.Unlock()
		h.list.stop()
	}
}

// FsyncDir does nothing: a change of names is durable when it is answered.
func (f *fileSystem) FsyncDir(<-chan struct{}, *gofuse.FsyncIn) gofuse.Status { return gofuse.OK }

// ReadDir lists names.
func (f *fileSystem) ReadDir(
	cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList,
) gofuse.Status {
	return f.readDir(cancel, in, func(e *client.Entry, off uint64, _ time.Time) bool {
		return out.AddDirEntry(f.dirEntry(e, off))
	})
}

// ReadDirPlus lists names with what a look-up of each would have answered, where the
// kernel may use that: attributes with a time-out of 0 would be thrown away.
func (f *fileSystem) ReadDirPlus(
	cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList,
) gofuse.Status {
	return f.readDir(cancel, in, func(e *client.Entry, off uint64, asked time.Time) bool {
		o := out.AddDirLookupEntry(f.dirEntry(e, off))
		if o == nil {
			return false
		}
		if e.Attr != nil && e.Attr.ID == e.Target && e.Name != "." && e.Name != ".." {
			if !e.Target.IsDir() {
				f.seen.put(e.Target, place{f.inode(in.NodeId), e.Name})
			}
			f.entryFrom(o, e.Attr, asked)
		}
		return true
	})
}

// entryFrom is entry for attributes that were asked for a while ago: the kernel may use them
// for what is left of their time, and is told nothing when there is none left.
func (f *fileSystem) entryFrom(out *gofuse.EntryOut, a *client.Attr, asked time.Time) {
	left := f.timeout(a.ID) - time.Since(asked)
	if left <= 0 {
		return
	}
	f.entry(out, a)
	out.SetEntryTimeout(left)
	out.SetAttrTimeout(left)
}

func (f *fileSystem) dirEntry(e *client.Entry, off uint64) gofuse.DirEntry {
	return gofuse.DirEntry{Name: e.Name, Ino: f.node(e.Target), Mode: typeBits(e.Target), Off: off}
}

func (f *fileSystem) readDir(
	cancel <-chan struct{}, in *gofuse.ReadIn, add func(e *client.Entry, off uint64, asked time.Time) bool,
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
		l.stop()
		l.page, l.next, l.at = page{}, 0, in.Offset
	}
	if l.entries == nil {
		if err := f.turn(cancel, in.Pid, dir, l, max(in.Offset, afterDotDot)); err != nil {
			return statusOf(err)
		}
	}
	if l.at == 0 {
		if !add(&client.Entry{Name: ".", Target: dir}, afterDot, l.asked) {
			return gofuse.OK
		}
		l.at = afterDot
	}
	if l.at == afterDot {
		if !add(&client.Entry{Name: "..", Target: f.above(dir, l.owner)}, afterDotDot, l.asked) {
			return gofuse.OK
		}
		l.at = afterDotDot
	}
	for n := 0; ; n++ {
		if l.next == len(l.entries) {
			if l.end || n > 0 {
				return gofuse.OK // the kernel asks again; what it has may be used meanwhile
			}
			if err := f.turn(cancel, in.Pid, dir, l, l.at); err != nil {
				return statusOf(err)
			}
			if l.next == len(l.entries) {
				return gofuse.OK
			}
		}
		e := &l.entries[l.next]
		off := e.Cursor
		if l.next+1 < len(l.entries) && l.entries[l.next+1].Cursor == off {
			off-- // two names of one hash: a stranger to this listing begins with the first again
		}
		if !add(e, off, l.asked) {
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

// turn takes the page after an offset, adds this mount's drafts to it, and has the page
// after it asked for.
func (f *fileSystem) turn(
	cancel <-chan struct{}, pid uint32, dir eggs.InodeID, l *listing, after uint64,
) error {
	ctx, done := f.await(cancel, pid)
	defer done()
	var p page
	var err error
	if a := l.ahead; a != nil && a.after == after {
		select {
		case <-a.done:
			p, err = a.page, a.err
		case <-ctx.Done():
			return eggs.Canceled
		}
		l.stop()
	} else {
		p, err = f.fetch(ctx, dir, after, firstPage)
	}
	if err != nil {
		return err
	}
	last := uint64(1<<63 - 1)
	if !p.end && len(p.entries) > 0 {
		last = p.entries[len(p.entries)-1].Cursor
		l.ahead = f.fetchAhead(dir, last)
	}
	p.entries = f.withDrafts(dir, p.entries, after, last)
	l.page, l.next = p, 0
	return nil
}

// fetchAhead asks for a page in the background.
func (f *fileSystem) fetchAhead(dir eggs.InodeID, after uint64) *fetch {
	ctx, cancel := context.WithCancel(f.ctx)
	a := &fetch{after: after, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.page, a.err = f.fetch(ctx, dir, after, nextPage)
	}()
	return a
}

// fetch asks for a page, with the attributes that the kernel may keep a while.
func (f *fileSystem) fetch(ctx context.Context, dir eggs.InodeID, after uint64, limit int) (page, error) {
	p := page{asked: time.Now()}
	everything := f.config.FileTimeout > 0
	var err error
	p.entries, p.owner, p.end, err = f.client.ReadDir(ctx, dir, after, limit, everything)
	if err != nil {
		return page{}, err
	}
	if p.entries == nil {
		p.entries = []client.Entry{}
	}
	if !everything && f.config.DirTimeout > 0 {
		f.statDirs(ctx, p.entries)
	}
	return p, nil
}

// statDirs fills in the attributes of directories.
func (f *fileSystem) statDirs(ctx context.Context, entries []client.Entry) {
	var ids []eggs.InodeID
	var at []int
	for i := range entries {
		if entries[i].Target.IsDir() {
			ids, at = append(ids, entries[i].Target), append(at, i)
		}
	}
	if len(ids) == 0 {
		return
	}
	attrs, err := f.client.StatMany(ctx, ids)
	if err != nil || len(attrs) != len(ids) {
		return // the listing is good without them
	}
	for i := range attrs {
		entries[at[i]].Attr = &attrs[i]
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
