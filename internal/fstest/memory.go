package fstest

import (
	"context"
	"maps"
	"sort"
	"sync"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// Call is what a hook sees: the operation, the inode or directory, and the name if there is one.
type Call struct {
	Op    string // a method of client.API, or "Write", "Close", "Closed" (after the effect), "Read"
	Inode eggs.InodeID
	Name  string
}

// Version is a past content of a name.
type Version struct {
	Target eggs.InodeID // 0: the name was removed
	Time   eggs.Time
	Owned  bool // false: the file lives on under another name
}

type edge struct {
	name   string
	cursor uint64
	target eggs.InodeID
	time   eggs.Time
}

type inode struct {
	attr     client.Attr
	data     []byte
	entries  []*edge // of a directory, sorted by cursor, then name
	past     map[string][]Version
	reserved map[string]*writer
}

type store struct {
	mu     sync.Mutex
	inodes map[eggs.InodeID]*inode
	next   uint64
	last   eggs.Time
	room   int64 // bytes left
	hook   func(Call) error
}

// Memory is one user of a file system in memory. Its methods are those of client.API.
type Memory struct{ s *store }

var _ client.API = (*Memory)(nil)

// Capacity is the bytes that an empty Memory holds.
const Capacity = 1 << 40

// NewMemory returns an empty file system whose root has mode 0755 and belongs to uid 0.
func NewMemory() *Memory {
	s := &store{inodes: map[eggs.InodeID]*inode{}, next: 1, room: Capacity}
	now := s.now()
	s.inodes[eggs.Root] = &inode{
		attr:     client.Attr{ID: eggs.Root, Mode: 0o755, Mtime: now, Atime: now, Ctime: now},
		past:     map[string][]Version{},
		reserved: map[string]*writer{},
	}
	return &Memory{s: s}
}

// Client returns another user of the same tree.
func (m *Memory) Client() *Memory { return &Memory{s: m.s} }

// SetHook has f called before every operation, and once more after the effect
// of a Close; an error that it returns is the operation's. nil removes it.
func (m *Memory) SetHook(f func(Call) error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.s.hook = f
}

// SetRoom sets the bytes that are left; a write beyond fails with Kind NoSpace.
func (m *Memory) SetRoom(bytes int64) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.s.room = bytes
}

// Versions returns what a name pointed to before, oldest first.
func (m *Memory) Versions(dir eggs.InodeID, name string) []Version {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if n := m.s.inodes[dir]; n != nil {
		return append([]Version(nil), n.past[name]...)
	}
	return nil
}

func (s *store) now() eggs.Time {
	t := eggs.TimeOf(time.Now())
	if t <= s.last {
		t = s.last + 1
	}
	s.last = t
	return t
}

func (s *store) id(kind eggs.InodeKind) eggs.InodeID {
	s.next++
	return eggs.MakeInodeID(kind, s.next)
}

// begin runs the hook and takes the lock, unless it fails.
func (m *Memory) begin(ctx context.Context, op string, id eggs.InodeID, name string) error {
	if ctx != nil && ctx.Err() != nil {
		return &eggs.Error{Op: "fstest." + op, Inode: id, Name: name, Kind: eggs.Canceled}
	}
	m.s.mu.Lock()
	hook := m.s.hook
	if hook == nil {
		return nil
	}
	m.s.mu.Unlock()
	if err := hook(Call{op, id, name}); err != nil {
		return err
	}
	m.s.mu.Lock()
	return nil
}

func fail(op string, id eggs.InodeID, name string, k eggs.Kind) error {
	return &eggs.Error{Op: "fstest." + op, Inode: id, Name: name, Kind: k}
}

// live returns a directory that is not removed.
func (s *store) live(op string, id eggs.InodeID) (*inode, error) {
	n := s.inodes[id]
	switch {
	case n == nil:
		return nil, fail(op, id, "", eggs.NotExist)
	case !id.IsDir():
		return nil, fail(op, id, "", eggs.NotDir)
	case n.attr.Removed:
		return nil, fail(op, id, "", eggs.NotExist)
	}
	return n, nil
}

func (n *inode) search(cursor uint64, name string) (int, bool) {
	i := sort.Search(len(n.entries), func(i int) bool {
		e := n.entries[i]
		return e.cursor > cursor || e.cursor == cursor && e.name >= name
	})
	return i, i < len(n.entries) && n.entries[i].name == name && n.entries[i].cursor == cursor
}

func (n *inode) find(name string) *edge {
	if i, ok := n.search(eggs.NameHash(name), name); ok {
		return n.entries[i]
	}
	return nil
}

// set makes name point to target, remembering what it pointed to as a version.
func (n *inode) set(name string, target eggs.InodeID, now eggs.Time) {
	c := eggs.NameHash(name)
	i, ok := n.search(c, name)
	e := &edge{name, c, target, now}
	if ok {
		old := n.entries[i]
		n.past[name] = append(n.past[name], Version{old.target, old.time, true})
		n.entries[i] = e
	} else {
		n.entries = append(n.entries, nil)
		copy(n.entries[i+1:], n.entries[i:])
		n.entries[i] = e
	}
	n.attr.Mtime, n.attr.Ctime = now, now
}

// drop removes name; owned says whether its version still owns the file.
func (n *inode) drop(name string, owned bool, now eggs.Time) {
	i, ok := n.search(eggs.NameHash(name), name)
	if !ok {
		return
	}
	old := n.entries[i]
	n.past[name] = append(n.past[name], Version{old.target, old.time, owned}, Version{0, now, false})
	n.entries = append(n.entries[:i], n.entries[i+1:]...)
	n.attr.Mtime, n.attr.Ctime = now, now
}

func (n *inode) copyAttr() client.Attr {
	a := n.attr
	a.Xattrs = maps.Clone(a.Xattrs)
	return a
}

// Lookup finds a current entry.
func (m *Memory) Lookup(ctx context.Context, dir eggs.InodeID, name string) (client.Entry, error) {
	if err := m.begin(ctx, "Lookup", dir, name); err != nil {
		return client.Entry{}, err
	}
	defer m.s.mu.Unlock()
	if err := eggs.CheckName(name); err != nil {
		return client.Entry{}, err
	}
	d, err := m.s.live("Lookup", dir)
	if err != nil {
		return client.Entry{}, err
	}
	e := d.find(name)
	if e == nil {
		return client.Entry{}, fail("Lookup", dir, name, eggs.NotExist)
	}
	return m.s.entry(e, true), nil
}

func (s *store) entry(e *edge, attrs bool) client.Entry {
	out := client.Entry{Name: e.name, Target: e.target, Time: e.time, Cursor: e.cursor}
	if attrs {
		if n := s.inodes[e.target]; n != nil {
			a := n.copyAttr()
			out.Attr = &a
		}
	}
	return out
}

// Stat returns attributes.
func (m *Memory) Stat(ctx context.Context, id eggs.InodeID) (client.Attr, error) {
	if err := m.begin(ctx, "Stat", id, ""); err != nil {
		return client.Attr{}, err
	}
	defer m.s.mu.Unlock()
	n := m.s.inodes[id]
	if n == nil {
		return client.Attr{}, fail("Stat", id, "", eggs.NotExist)
	}
	return n.copyAttr(), nil
}

// StatMany answers ID 0 for what is absent.
func (m *Memory) StatMany(ctx context.Context, ids []eggs.InodeID) ([]client.Attr, error) {
	if err := m.begin(ctx, "StatMany", 0, ""); err != nil {
		return nil, err
	}
	defer m.s.mu.Unlock()
	out := make([]client.Attr, len(ids))
	for i, id := range ids {
		if n := m.s.inodes[id]; n != nil {
			out[i] = n.copyAttr()
		}
	}
	return out, nil
}

// ReadDir lists entries in increasing Cursor.
func (m *Memory) ReadDir(
	ctx context.Context, dir eggs.InodeID, after uint64, limit int, attrs bool,
) ([]client.Entry, eggs.InodeID, bool, error) {
	if err := m.begin(ctx, "ReadDir", dir, ""); err != nil {
		return nil, 0, false, err
	}
	defer m.s.mu.Unlock()
	d, err := m.s.live("ReadDir", dir)
	if err != nil {
		return nil, 0, false, err
	}
	i := sort.Search(len(d.entries), func(i int) bool { return d.entries[i].cursor > after })
	var out []client.Entry
	for ; i < len(d.entries); i++ {
		e := d.entries[i]
		if len(out) >= limit && out[len(out)-1].Cursor != e.cursor {
			return out, d.attr.Owner, false, nil
		}
		out = append(out, m.s.entry(e, attrs))
	}
	return out, d.attr.Owner, true, nil
}

// Policies returns the defaults; Memory does not follow them.
func (m *Memory) Policies(ctx context.Context, dir eggs.InodeID) (eggs.Policies, error) {
	if err := m.begin(ctx, "Policies", dir, ""); err != nil {
		return eggs.Policies{}, err
	}
	defer m.s.mu.Unlock()
	_, err := m.s.live("Policies", dir)
	return eggs.DefaultPolicies(3, 6), err
}

// SetPolicy keeps the tags so that Stat shows them.
func (m *Memory) SetPolicy(ctx context.Context, dir eggs.InodeID, p *wire.Policies, clear uint32) error {
	if err := m.begin(ctx, "SetPolicy", dir, ""); err != nil {
		return err
	}
	defer m.s.mu.Unlock()
	d, err := m.s.live("SetPolicy", dir)
	if err != nil {
		return err
	}
	own := d.attr.Policies
	if own == nil {
		own = &wire.Policies{}
	}
	set := &wire.Policies{Snapshot: own.Snapshot, Span: own.Span, Stripe: own.Stripe, Inline: own.Inline}
	if p.GetSnapshot() != nil || clear&1 != 0 {
		set.Snapshot = p.GetSnapshot()
	}
	if p.GetSpan() != nil || clear&2 != 0 {
		set.Span = p.GetSpan()
	}
	if p.GetStripe() != nil || clear&4 != 0 {
		set.Stripe = p.GetStripe()
	}
	if p.GetInline() != nil || clear&8 != 0 {
		set.Inline = p.GetInline()
	}
	d.attr.Policies = set
	return nil
}

// StatFS reports Capacity and the room that is left, as raw bytes at 1.5 a byte.
func (m *Memory) StatFS(ctx context.Context) (client.StatFS, error) {
	if err := m.begin(ctx, "StatFS", 0, ""); err != nil {
		return client.StatFS{}, err
	}
	defer m.s.mu.Unlock()
	return client.StatFS{Capacity: Capacity * 3 / 2, Free: m.s.room * 3 / 2, Expansion: 1.5}, nil
}

// Close does nothing: other users go on.
func (m *Memory) Close() error { return nil }
