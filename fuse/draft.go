package fuse

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
)

// place is where a name is.
type place struct {
	dir  eggs.InodeID
	name string
}

// maxWriters is how many processes that wrote to a draft are remembered; the
// others are found as relatives of these.
const maxWriters = 16

// draft is a file under construction, and for as long as a handle is open what was
// published of it.
type draft struct {
	fs     *fileSystem
	node   eggs.InodeID // under which the kernel knows it; the first writer's id
	opener uint32       // the thread that opened it first; 0: of another namespace
	born   uint64       // births.count when it was opened

	// Under drafts.mu; dirty and id are changed with io held as well.
	at      place
	linked  bool // the name is its, or will be
	over    bool // the cluster has a file under that name
	dirty   bool // there is something to publish
	handles int
	id      eggs.InodeID // what was published last, or 0
	writers []uint32     // threads that wrote, opener first
	holders []uint32     // processes that were found to hold it
	stale   eggs.InodeID // the file that an OPEN with O_TRUNC was answered ESTALE for

	io     sync.Mutex
	body   content
	writer client.Writer // what will be published; nil after a publish
	named  string        // the name that writer was told
	claims int           // handles that may publish and are not closed yet
	doomed bool          // a writer was killed, and nobody wrote since
	mmap   bool          // may be mapped
	err    error         // why it was lost

	meta   sync.Mutex
	attr   client.Attr // ID is the node
	xattrs map[string][]byte
}

// drafts is where the drafts of a mount are found.
type drafts struct {
	mu      sync.RWMutex
	byNode  map[eggs.InodeID]*draft
	byPlace map[place][]*draft
	dirty   int
}

func newDrafts() *drafts {
	return &drafts{byNode: map[eggs.InodeID]*draft{}, byPlace: map[place][]*draft{}}
}

// add makes a draft known, with one handle.
func (ds *drafts) add(d *draft) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d.linked, d.dirty = true, true
	ds.dirty++
	ds.byNode[d.node] = d
	ds.byPlace[d.at] = append(ds.byPlace[d.at], d)
}

// forget removes a draft, unless a handle is open; it reports whether it did.
func (ds *drafts) forget(d *draft) bool {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if d.handles > 0 || ds.byNode[d.node] != d {
		return false
	}
	ds.clean(d)
	ds.unlink(d)
	delete(ds.byNode, d.node)
	return true
}

// orphan takes all handles from all drafts, and lists them.
func (ds *drafts) orphan() []*draft {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	list := slices.Collect(maps.Values(ds.byNode))
	for _, d := range list {
		d.handles = 0
	}
	return list
}

func (ds *drafts) clean(d *draft) {
	if d.dirty {
		d.dirty = false
		ds.dirty--
	}
}

// unlink takes a draft's name away: it will not be published. mu is held.
func (ds *drafts) unlink(d *draft) {
	if !d.linked {
		return
	}
	d.linked = false
	ds.leave(d)
}

// replaced tells the other drafts of a name that d was published under it. mu is held.
func (ds *drafts) replaced(d *draft) {
	for _, x := range slices.Clone(ds.byPlace[d.at]) {
		if x == d {
			continue
		}
		if x.dirty {
			x.over = true
		} else {
			ds.unlink(x)
		}
	}
}

func (ds *drafts) leave(d *draft) {
	list := slices.DeleteFunc(ds.byPlace[d.at], func(x *draft) bool { return x == d })
	if len(list) == 0 {
		delete(ds.byPlace, d.at)
	} else {
		ds.byPlace[d.at] = list
	}
}

// node returns the draft that the kernel knows as node, if there is one.
func (ds *drafts) node(node eggs.InodeID) *draft {
	ds.mu.RLock()
	defer ds.mu.RUnlock()
	return ds.byNode[node]
}

// none says that there are no drafts, cheaply.
func (ds *drafts) none() bool {
	ds.mu.RLock()
	defer ds.mu.RUnlock()
	return len(ds.byNode) == 0
}

// visible returns the unpublished draft that a process finds under a name, and whether a
// finished file lies beneath it.
func (ds *drafts) visible(at place, pid uint32) (d *draft, over bool) {
	type candidate struct {
		d       *draft
		over    bool
		writers []uint32
	}
	var list []candidate
	ds.mu.RLock()
	for _, d := range ds.byPlace[at] {
		if d.dirty {
			list = append(list, candidate{d, d.over, slices.Clone(d.writers)})
		}
	}
	ds.mu.RUnlock()
	for _, c := range slices.Backward(list) {
		if !c.over || pid != 0 && related(pid, c.writers) {
			return c.d, c.over
		}
	}
	return nil, false
}

// in lists the drafts of new names in a directory.
func (ds *drafts) in(dir eggs.InodeID) []*draft {
	ds.mu.RLock()
	defer ds.mu.RUnlock()
	if ds.dirty == 0 {
		return nil
	}
	var list []*draft
	for at, here := range ds.byPlace {
		for _, d := range here {
			if at.dir == dir && d.dirty && !d.over {
				list = append(list, d)
				break
			}
		}
	}
	return list
}

// gone takes the name from all drafts at a place but keep, since it was removed or replaced.
func (ds *drafts) gone(at place, keep *draft) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, d := range slices.Clone(ds.byPlace[at]) {
		if d != keep {
			ds.unlink(d)
		}
	}
}

// moved follows a rename of a finished file. A draft that would replace it keeps
// doing so, in the same directory only.
func (ds *drafts) moved(from, to place) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, d := range slices.Clone(ds.byPlace[to]) {
		ds.unlink(d)
	}
	for _, d := range slices.Clone(ds.byPlace[from]) {
		if d.dirty && from.dir != to.dir {
			continue
		}
		ds.move(d, to)
	}
}

func (ds *drafts) move(d *draft, to place) {
	ds.leave(d)
	d.at = to
	ds.byPlace[to] = append(ds.byPlace[to], d)
}

// state is a consistent look at what drafts.mu guards.
type state struct {
	at            place
	linked, dirty bool
	over          bool
	id            eggs.InodeID
}

func (d *draft) state() state {
	d.fs.drafts.mu.RLock()
	defer d.fs.drafts.mu.RUnlock()
	return state{d.at, d.linked, d.dirty, d.over, d.id}
}

// newDraft starts a file under construction with one handle.
func (f *fileSystem) newDraft(at place, o client.CreateOptions, over bool, pid uint32) (*draft, error) {
	w, err := f.client.Create(f.ctx, at.dir, at.name, o)
	if err != nil {
		return nil, err
	}
	now := eggs.TimeOf(time.Now())
	d := &draft{
		fs: f, node: w.ID(), opener: pid, born: f.births.count(),
		at: at, over: over, handles: 1, writers: []uint32{pid}, writer: w, named: at.name,
		attr: client.Attr{
			ID: w.ID(), Mode: o.Mode, UID: o.UID, GID: o.GID, Mtime: now, Atime: now, Ctime: now,
		},
	}
	d.body.lim = &f.limits
	f.drafts.add(d)
	return d, nil
}

// snapshot returns the attributes, under the node's id.
func (d *draft) snapshot() client.Attr {
	d.meta.Lock()
	defer d.meta.Unlock()
	a := d.attr
	a.Xattrs = maps.Clone(d.xattrs)
	return a
}

// touched notes a change of content. io is held.
func (d *draft) touched() {
	now := eggs.TimeOf(time.Now())
	d.meta.Lock()
	d.attr.Size, d.attr.Mtime, d.attr.Ctime = d.body.size, now, now
	d.meta.Unlock()
}

// change prepares for a change of content: it refuses on a lost draft and starts a
// new version of a published one. io is held.
func (d *draft) change(h *handle, pid uint32) error {
	if d.err != nil {
		return d.err
	}
	d.doomed = false
	if h != nil {
		d.claim(h)
	}
	if !d.note(pid) {
		return nil
	}
	d.fs.log.Debug("a new version of a published file", "inode", d.node, "pid", pid)
	a, err := d.fs.client.Stat(d.fs.ctx, d.state().id)
	if err != nil {
		return err
	}
	d.keep(&a)
	ds := d.fs.drafts
	ds.mu.Lock()
	d.dirty = true
	ds.dirty++
	ds.mu.Unlock()
	return nil
}

// note remembers who writes, and reports whether the draft was published before.
func (d *draft) note(pid uint32) (again bool) {
	ds := d.fs.drafts
	ds.mu.RLock()
	known, again := slices.Contains(d.writers, pid), !d.dirty
	ds.mu.RUnlock()
	if known {
		return again
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if len(d.writers) >= maxWriters {
		d.writers = slices.Delete(d.writers, 1, 2)
	}
	d.writers = append(d.writers, pid)
	return again
}

// stream returns the writer, making one when the last was published. io is held.
func (d *draft) stream() (client.Writer, error) {
	if d.writer != nil {
		return d.writer, nil
	}
	return d.freshWriter()
}

// freshWriter makes another writer for the same name. io is held.
func (d *draft) freshWriter() (client.Writer, error) {
	s := d.state()
	a := d.snapshot()
	w, err := d.fs.client.Create(d.fs.ctx, s.at.dir, s.at.name, client.CreateOptions{
		Mode: a.Mode, UID: a.UID, GID: a.GID, Mtime: a.Mtime,
	})
	if err == nil {
		d.writer, d.named = w, s.at.name
	}
	return w, err
}

func (d *draft) write(h *handle, p []byte, off int64, pid uint32) error {
	d.io.Lock()
	defer d.io.Unlock()
	if err := d.change(h, pid); err != nil {
		return err
	}
	if err := d.body.write(p, off, d.stream); err != nil {
		return d.damaged(err)
	}
	d.touched()
	return nil
}

// damaged keeps an error of a write for close to report: bytes are missing, and a
// file that lacks some is not published. io is held.
func (d *draft) damaged(err error) error {
	if eggs.KindOf(err) != eggs.TooLarge {
		d.err = err
	}
	return err
}

func (d *draft) truncate(h *handle, size int64, pid uint32) error {
	d.io.Lock()
	defer d.io.Unlock()
	if err := d.change(h, pid); err != nil {
		return err
	}
	d.mmap = d.mmap || size > d.body.size
	if err := d.body.truncate(size); err != nil {
		return d.damaged(err)
	}
	d.touched()
	return nil
}

// read reads what was written so far.
func (d *draft) read(p []byte, off int64, mayMap bool) (int, error) {
	d.io.Lock()
	defer d.io.Unlock()
	d.mmap = d.mmap || mayMap
	return d.body.read(p, off)
}

// setAttr changes attributes: of the draft, or of what was published.
func (d *draft) setAttr(ctx context.Context, s client.SetAttr) (client.Attr, error) {
	d.io.Lock()
	defer d.io.Unlock()
	st := d.state()
	if !st.dirty {
		a, err := d.fs.client.SetAttr(ctx, st.id, s)
		if err == nil {
			d.keep(&a)
		}
		return a, err
	}
	now := eggs.TimeOf(time.Now())
	d.meta.Lock()
	defer d.meta.Unlock()
	a := &d.attr
	a.Ctime = now
	set(&a.Mode, s.Mode)
	set(&a.UID, s.UID)
	set(&a.GID, s.GID)
	set(&a.Mtime, s.Mtime)
	set(&a.Atime, s.Atime)
	if s.MtimeNow {
		a.Mtime = now
	}
	if s.AtimeNow {
		a.Atime = now
	}
	return *a, nil
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// keep makes the attributes of the published file those that a new version begins
// with, and shows them under the node's id.
func (d *draft) keep(a *client.Attr) {
	d.meta.Lock()
	defer d.meta.Unlock()
	a.ID = d.node
	d.attr = *a
	d.xattrs = maps.Clone(a.Xattrs)
}

// lazyReader opens a finished file when it is first read.
type lazyReader struct {
	ctx    context.Context
	client client.API
	id     eggs.InodeID

	mu sync.Mutex
	r  client.Reader
}

func (l *lazyReader) open() (client.Reader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r != nil {
		return l.r, nil
	}
	r, err := l.client.Open(l.ctx, l.id)
	if err == nil {
		l.r = r
	}
	return r, err
}

func (l *lazyReader) ReadAt(p []byte, off int64) (int, error) {
	r, err := l.open()
	if err != nil {
		return 0, err
	}
	return r.ReadAt(p, off)
}

func (l *lazyReader) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r != nil {
		l.r.Close()
		l.r = nil
	}
}
