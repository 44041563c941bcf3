package fstest

import (
	"context"
	"io"
	"maps"

	"eggsfs/client"
	"eggsfs/eggs"
)

type writer struct {
	m    *Memory
	excl bool

	// under store.mu
	dir   eggs.InodeID
	name  string
	attr  client.Attr
	mtime bool // asked for
	data  []byte
	err   error
	done  bool
}

// Prepare has nothing to fetch.
func (m *Memory) Prepare(eggs.InodeID) {}

// Create starts a file that gets its name at Close.
func (m *Memory) Create(
	ctx context.Context, dir eggs.InodeID, name string, o client.CreateOptions,
) (client.Writer, error) {
	if err := m.begin(ctx, "Create", dir, name); err != nil {
		return nil, err
	}
	defer m.s.mu.Unlock()
	if err := eggs.CheckName(name); err != nil {
		return nil, err
	}
	if !dir.IsDir() {
		return nil, fail("Create", dir, name, eggs.NotDir)
	}
	w := &writer{m: m, excl: o.Exclusive, dir: dir, name: name}
	if o.Exclusive {
		d, err := m.s.live("Create", dir)
		if err != nil {
			return nil, err
		}
		if d.find(name) != nil || d.reserved[name] != nil {
			return nil, fail("Create", dir, name, eggs.Exist)
		}
		d.reserved[name] = w
	}
	now := m.s.now()
	w.attr = client.Attr{
		ID: m.s.id(eggs.KindFile), Mode: o.Mode & 0o7777, UID: o.UID, GID: o.GID,
		Mtime: now, Atime: now, Ctime: now, Transient: true,
	}
	if o.Mtime != 0 {
		w.attr.Mtime, w.mtime = o.Mtime, true
	}
	return w, nil
}

func (w *writer) ID() eggs.InodeID { return w.attr.ID }

func (w *writer) Write(p []byte) (int, error) {
	if err := w.m.begin(context.Background(), "Write", w.attr.ID, ""); err != nil {
		return 0, err
	}
	defer w.m.s.mu.Unlock()
	switch {
	case w.done:
		return 0, fail("Write", w.attr.ID, "", eggs.ReadOnly)
	case w.err != nil:
		return 0, w.err
	case int64(len(p)) > w.m.s.room:
		w.err = fail("Write", w.attr.ID, "", eggs.NoSpace)
		return 0, w.err
	}
	w.m.s.room -= int64(len(p))
	w.data = append(w.data, p...)
	w.attr.Size = int64(len(w.data))
	return len(p), nil
}

func (w *writer) Size() int64 {
	w.m.s.mu.Lock()
	defer w.m.s.mu.Unlock()
	return w.attr.Size
}

func (w *writer) ReadAt(p []byte, off int64) (int, error) {
	w.m.s.mu.Lock()
	defer w.m.s.mu.Unlock()
	return readAt(w.data, p, off)
}

func readAt(data, p []byte, off int64) (int, error) {
	if off >= int64(len(data)) {
		return 0, io.EOF
	}
	n := copy(p, data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (w *writer) SetAttr(c client.SetAttr) {
	w.m.s.mu.Lock()
	defer w.m.s.mu.Unlock()
	apply(&w.attr, c, w.m.s.now())
	w.mtime = w.mtime || c.Mtime != nil || c.MtimeNow
}

func (w *writer) Attr() client.Attr {
	w.m.s.mu.Lock()
	defer w.m.s.mu.Unlock()
	return w.attr
}

func (w *writer) SetXattrs(x map[string][]byte) {
	w.m.s.mu.Lock()
	defer w.m.s.mu.Unlock()
	w.attr.Xattrs = maps.Clone(x)
}

func (w *writer) Rename(name string) {
	w.m.s.mu.Lock()
	defer w.m.s.mu.Unlock()
	w.release()
	w.excl = false
	w.name = name
}

// release gives the reservation back.
func (w *writer) release() {
	if d := w.m.s.inodes[w.dir]; d != nil && d.reserved[w.name] == w {
		delete(d.reserved, w.name)
	}
}

func (w *writer) Close(ctx context.Context) (eggs.InodeID, error) {
	if err := w.m.begin(ctx, "Close", w.dir, w.name); err != nil {
		return 0, err
	}
	replaced, err := w.link()
	hook := w.m.s.hook
	w.m.s.mu.Unlock()
	if err == nil && hook != nil {
		err = hook(Call{"Closed", w.dir, w.name})
	}
	return replaced, err
}

func (w *writer) link() (eggs.InodeID, error) {
	s := w.m.s
	if w.err != nil {
		return 0, w.err
	}
	if w.done {
		return 0, fail("Close", w.attr.ID, w.name, eggs.ReadOnly)
	}
	d, err := s.live("Close", w.dir)
	if err != nil {
		return 0, err
	}
	var replaced eggs.InodeID
	if e := d.find(w.name); e != nil {
		if e.target.IsDir() {
			return 0, fail("Close", w.dir, w.name, eggs.IsDir)
		}
		if w.excl {
			return 0, fail("Close", w.dir, w.name, eggs.Exist)
		}
		replaced = e.target
	}
	w.release()
	w.done = true
	now := s.now()
	a := w.attr
	a.Transient, a.Ctime = false, now
	if !w.mtime {
		a.Mtime = now
	}
	w.attr.Transient, w.attr.Ctime = false, now
	s.inodes[a.ID] = &inode{attr: a, data: w.data}
	d.set(w.name, a.ID, now)
	return replaced, nil
}

func (w *writer) Abort() {
	w.m.s.mu.Lock()
	defer w.m.s.mu.Unlock()
	if w.done {
		return
	}
	w.done = true
	w.m.s.room += int64(len(w.data))
	w.data = nil
	w.release()
}

type reader struct {
	m    *Memory
	id   eggs.InodeID
	data []byte
}

// Open opens a finished file.
func (m *Memory) Open(ctx context.Context, id eggs.InodeID) (client.Reader, error) {
	if err := m.begin(ctx, "Open", id, ""); err != nil {
		return nil, err
	}
	defer m.s.mu.Unlock()
	n := m.s.inodes[id]
	switch {
	case n == nil:
		return nil, fail("Open", id, "", eggs.NotExist)
	case id.IsDir():
		return nil, fail("Open", id, "", eggs.IsDir)
	}
	return &reader{m, id, n.data}, nil
}

func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.m.begin(context.Background(), "Read", r.id, ""); err != nil {
		return 0, err
	}
	r.m.s.mu.Unlock()
	return readAt(r.data, p, off)
}

func (r *reader) Size() int64  { return int64(len(r.data)) }
func (r *reader) Close() error { return nil }
