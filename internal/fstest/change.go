package fstest

import (
	"context"
	"strings"

	"eggsfs/client"
	"eggsfs/eggs"
)

// Mkdir makes a directory.
func (m *Memory) Mkdir(
	ctx context.Context, dir eggs.InodeID, name string, o client.CreateOptions,
) (client.Attr, error) {
	n, err := m.make(ctx, "Mkdir", eggs.KindDirectory, dir, name, o)
	if err != nil {
		return client.Attr{}, err
	}
	defer m.s.mu.Unlock()
	n.attr.Owner = dir
	n.past = map[string][]Version{}
	n.reserved = map[string]*writer{}
	return n.copyAttr(), nil
}

// Symlink makes a symlink.
func (m *Memory) Symlink(
	ctx context.Context, dir eggs.InodeID, name, target string, o client.CreateOptions,
) (client.Attr, error) {
	if target == "" || len(target) > eggs.MaxSymlink {
		return client.Attr{}, fail("Symlink", dir, name, eggs.Invalid)
	}
	o.Mode = 0o777
	n, err := m.make(ctx, "Symlink", eggs.KindSymlink, dir, name, o)
	if err != nil {
		return client.Attr{}, err
	}
	defer m.s.mu.Unlock()
	n.attr.Symlink = target
	n.attr.Size = int64(len(target))
	return n.copyAttr(), nil
}

// make adds an inode under a free name and returns with the lock held, unless it fails.
func (m *Memory) make(
	ctx context.Context, op string, kind eggs.InodeKind, dir eggs.InodeID, name string, o client.CreateOptions,
) (*inode, error) {
	if err := m.begin(ctx, op, dir, name); err != nil {
		return nil, err
	}
	n, err := func() (*inode, error) {
		if err := eggs.CheckName(name); err != nil {
			return nil, err
		}
		d, err := m.s.live(op, dir)
		if err != nil {
			return nil, err
		}
		if d.find(name) != nil {
			return nil, fail(op, dir, name, eggs.Exist)
		}
		now := m.s.now()
		id := m.s.id(kind)
		n := &inode{attr: client.Attr{
			ID: id, Mode: o.Mode & 0o7777, UID: o.UID, GID: o.GID, Mtime: now, Atime: now, Ctime: now,
		}}
		if o.Mtime != 0 {
			n.attr.Mtime = o.Mtime
		}
		m.s.inodes[id] = n
		d.set(name, id, now)
		return n, nil
	}()
	if err != nil {
		m.s.mu.Unlock()
	}
	return n, err
}

// Rmdir removes an empty directory.
func (m *Memory) Rmdir(ctx context.Context, dir eggs.InodeID, name string) error {
	if err := m.begin(ctx, "Rmdir", dir, name); err != nil {
		return err
	}
	defer m.s.mu.Unlock()
	d, err := m.s.live("Rmdir", dir)
	if err != nil {
		return err
	}
	e := d.find(name)
	switch {
	case e == nil:
		return fail("Rmdir", dir, name, eggs.NotExist)
	case !e.target.IsDir():
		return fail("Rmdir", dir, name, eggs.NotDir)
	case len(m.s.inodes[e.target].entries) > 0:
		return fail("Rmdir", dir, name, eggs.NotEmpty)
	}
	m.s.removeDir(d, e)
	return nil
}

func (s *store) removeDir(parent *inode, e *edge) {
	n := s.inodes[e.target]
	n.attr.Owner, n.attr.Removed = 0, true
	parent.drop(e.name, false, s.now())
}

// Unlink removes a file or symlink; its content stays readable by its id.
func (m *Memory) Unlink(ctx context.Context, dir eggs.InodeID, name string, target eggs.InodeID) error {
	if err := m.begin(ctx, "Unlink", dir, name); err != nil {
		return err
	}
	defer m.s.mu.Unlock()
	d, err := m.s.live("Unlink", dir)
	if err != nil {
		return err
	}
	e := d.find(name)
	switch {
	case e == nil:
		return fail("Unlink", dir, name, eggs.NotExist)
	case e.target.IsDir():
		return fail("Unlink", dir, name, eggs.IsDir)
	case target != 0 && e.target != target:
		return fail("Unlink", dir, name, eggs.Conflict)
	}
	d.drop(name, true, m.s.now())
	return nil
}

// Rename renames or replaces.
func (m *Memory) Rename(
	ctx context.Context, fromDir eggs.InodeID, from string, toDir eggs.InodeID, to string, noReplace bool,
) error {
	if err := m.begin(ctx, "Rename", fromDir, from); err != nil {
		return err
	}
	defer m.s.mu.Unlock()
	for _, name := range []string{from, to} {
		if err := eggs.CheckName(name); err != nil {
			return err
		}
	}
	s := m.s
	a, err := s.live("Rename", fromDir)
	if err != nil {
		return err
	}
	b, err := s.live("Rename", toDir)
	if err != nil {
		return err
	}
	e := a.find(from)
	if e == nil {
		return fail("Rename", fromDir, from, eggs.NotExist)
	}
	old := b.find(to)
	if old != nil && noReplace {
		return fail("Rename", toDir, to, eggs.Exist)
	}
	if old != nil && old.target == e.target {
		return nil
	}
	if err := s.mayMove(e, toDir, to, old); err != nil {
		return err
	}
	if old != nil && old.target.IsDir() {
		s.removeDir(b, old)
	}
	target := e.target
	a.drop(from, false, s.now())
	b.set(to, target, s.now())
	if target.IsDir() {
		s.inodes[target].attr.Owner = toDir
	}
	return nil
}

// mayMove refuses loops and replacements of the wrong kind.
func (s *store) mayMove(e *edge, toDir eggs.InodeID, to string, old *edge) error {
	if e.target.IsDir() {
		for up := toDir; up != 0; up = s.inodes[up].attr.Owner {
			if up == e.target {
				return fail("Rename", toDir, to, eggs.Loop)
			}
		}
	}
	switch {
	case old == nil:
	case e.target.IsDir() && !old.target.IsDir():
		return fail("Rename", toDir, to, eggs.NotDir)
	case !e.target.IsDir() && old.target.IsDir():
		return fail("Rename", toDir, to, eggs.IsDir)
	case old.target.IsDir() && len(s.inodes[old.target].entries) > 0:
		return fail("Rename", toDir, to, eggs.NotEmpty)
	}
	return nil
}

// SetAttr changes attributes.
func (m *Memory) SetAttr(ctx context.Context, id eggs.InodeID, c client.SetAttr) (client.Attr, error) {
	if err := m.begin(ctx, "SetAttr", id, ""); err != nil {
		return client.Attr{}, err
	}
	defer m.s.mu.Unlock()
	n := m.s.inodes[id]
	if n == nil {
		return client.Attr{}, fail("SetAttr", id, "", eggs.NotExist)
	}
	if n.attr.Removed {
		return client.Attr{}, fail("SetAttr", id, "", eggs.ReadOnly)
	}
	now := m.s.now()
	apply(&n.attr, c, now)
	n.attr.Ctime = now
	return n.copyAttr(), nil
}

func apply(a *client.Attr, c client.SetAttr, now eggs.Time) {
	if c.Mode != nil {
		a.Mode = *c.Mode & 0o7777
	}
	if c.UID != nil {
		a.UID = *c.UID
	}
	if c.GID != nil {
		a.GID = *c.GID
	}
	if c.Mtime != nil {
		a.Mtime = *c.Mtime
	}
	if c.Atime != nil {
		a.Atime = *c.Atime
	}
	if c.MtimeNow {
		a.Mtime = now
	}
	if c.AtimeNow {
		a.Atime = now
	}
}

// SetXattr sets an extended attribute.
func (m *Memory) SetXattr(
	ctx context.Context, id eggs.InodeID, name string, value []byte, create, replace bool,
) error {
	if err := m.begin(ctx, "SetXattr", id, name); err != nil {
		return err
	}
	defer m.s.mu.Unlock()
	n := m.s.inodes[id]
	if n == nil {
		return fail("SetXattr", id, name, eggs.NotExist)
	}
	_, there := n.attr.Xattrs[name]
	switch {
	case create && there:
		return fail("SetXattr", id, name, eggs.Exist)
	case replace && !there:
		return fail("SetXattr", id, name, eggs.NotExist)
	case len(name) > eggs.MaxXattrName:
		return fail("SetXattr", id, name, eggs.NameTooLong)
	}
	size := len(name) + len(value)
	for k, v := range n.attr.Xattrs {
		if k != name {
			size += len(k) + len(v)
		}
	}
	if size > eggs.MaxXattrBytes {
		return fail("SetXattr", id, name, eggs.TooLarge)
	}
	if n.attr.Xattrs == nil {
		n.attr.Xattrs = map[string][]byte{}
	}
	n.attr.Xattrs[name] = append([]byte{}, value...)
	n.attr.Ctime = m.s.now()
	return nil
}

// RemoveXattr removes an extended attribute.
func (m *Memory) RemoveXattr(ctx context.Context, id eggs.InodeID, name string) error {
	if err := m.begin(ctx, "RemoveXattr", id, name); err != nil {
		return err
	}
	defer m.s.mu.Unlock()
	n := m.s.inodes[id]
	if n == nil || n.attr.Xattrs[name] == nil {
		return fail("RemoveXattr", id, name, eggs.NotExist)
	}
	delete(n.attr.Xattrs, name)
	n.attr.Ctime = m.s.now()
	return nil
}

// Walk finds the inode of an absolute path, following symlinks on the way but not at its end.
func (m *Memory) Walk(ctx context.Context, path string) (client.Attr, error) {
	at, err := m.Stat(ctx, eggs.Root)
	if err != nil {
		return at, err
	}
	parts := strings.Split(path, "/")
	for hops := 0; len(parts) > 0; parts = parts[1:] {
		name := parts[0]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			if at.Owner != 0 {
				if at, err = m.Stat(ctx, at.Owner); err != nil {
					return at, err
				}
			}
			continue
		}
		e, err := m.Lookup(ctx, at.ID, name)
		if err != nil {
			return client.Attr{}, err
		}
		if e.Attr.Symlink != "" && len(parts) > 1 {
			if hops++; hops > 40 {
				return client.Attr{}, fail("Walk", 0, path, eggs.Loop)
			}
			parts = append(append([]string{""}, strings.Split(e.Attr.Symlink, "/")...), parts[1:]...)
			if strings.HasPrefix(e.Attr.Symlink, "/") {
				if at, err = m.Stat(ctx, eggs.Root); err != nil {
					return at, err
				}
			}
			continue
		}
		at = *e.Attr
	}
	return at, nil
}
