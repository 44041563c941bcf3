package client

import (
	"context"
	"errors"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// lookupTries is how often a look-up begins anew because the target went
// between two questions: each time somebody else's change must fall in between.
const lookupTries = 8

// Lookup finds a current entry, with the attributes of its target. Kind NotExist.
func (c *Client) Lookup(ctx context.Context, dir eggs.InodeID, name string) (Entry, error) {
	e, err := c.lookup(ctx, dir, name)
	return e, fail("Lookup", dir, name, err)
}

func (c *Client) lookup(ctx context.Context, dir eggs.InodeID, name string) (Entry, error) {
	if err := eggs.CheckName(name); err != nil {
		return Entry{}, err
	}
	for range lookupTries {
		e, err := c.lookupName(ctx, dir, name)
		if err != nil || e.Attr != nil {
			return e, err
		}
		a, err := c.stat(ctx, e.Target)
		if errors.Is(err, eggs.NotExist) {
			continue
		}
		if err != nil {
			return Entry{}, err
		}
		e.Attr = &a
		return e, nil
	}
	return Entry{}, eggs.NotExist
}

// lookupName asks the directory's shard only: Attr is nil when the target lives elsewhere.
func (c *Client) lookupName(ctx context.Context, dir eggs.InodeID, name string) (Entry, error) {
	ans, err := c.Query(ctx, &wire.ShardQuery{
		Shard: uint32(dir.Shard()),
		Query: &wire.ShardQuery_Lookup{Lookup: &wire.Lookup{Dir: uint64(dir), Name: name}},
	})
	if err != nil {
		return Entry{}, err
	}
	w := ans.GetLookup()
	if w.GetTarget() == 0 {
		return Entry{}, eggs.NotExist
	}
	return entryOf(w), nil
}

func entryOf(w *wire.Entry) Entry {
	e := Entry{Name: w.Name, Target: eggs.InodeID(w.Target), Time: eggs.Time(w.Time), Cursor: w.Hash}
	if w.Attr != nil {
		a := attrOf(w.Attr)
		e.Attr = &a
	}
	return e
}

// ReadDir lists entries after a cursor, and the directory's owner. With attrs
// it asks each shard that keeps targets once; an entry whose target went in
// between has no Attr.
func (c *Client) ReadDir(ctx context.Context, dir eggs.InodeID, after uint64, limit int,
	attrs bool,
) (entries []Entry, owner eggs.InodeID, end bool, err error) {
	ans, err := c.Query(ctx, &wire.ShardQuery{
		Shard: uint32(dir.Shard()),
		Query: &wire.ShardQuery_ReadDir{ReadDir: &wire.ReadDir{
			Dir: uint64(dir), After: after, Limit: uint32(max(limit, 1)), Attrs: attrs,
		}},
	})
	if err != nil {
		return nil, 0, false, fail("ReadDir", dir, "", err)
	}
	page := ans.GetReadDir()
	entries = make([]Entry, len(page.GetEntries()))
	var far []int
	var ids []eggs.InodeID
	for i, w := range page.GetEntries() {
		entries[i] = entryOf(w)
		if attrs && w.Attr == nil {
			far = append(far, i)
			ids = append(ids, entries[i].Target)
		}
	}
	if len(far) > 0 {
		got, err := c.StatMany(ctx, ids)
		if err != nil {
			return nil, 0, false, fail("ReadDir", dir, "", err)
		}
		for n, i := range far {
			if got[n].ID != 0 {
				entries[i].Attr = &got[n]
			}
		}
	}
	return entries, eggs.InodeID(page.GetOwner()), page.GetEnd(), nil
}

// Mkdir makes a directory, by the coordinator. Kind Exist.
func (c *Client) Mkdir(ctx context.Context, dir eggs.InodeID, name string, o CreateOptions) (
	Attr, error,
) {
	if err := eggs.CheckName(name); err != nil {
		return Attr{}, fail("Mkdir", dir, name, err)
	}
	reply, err := c.CDC(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_Mkdir{Mkdir: &wire.Mkdir{
		Dir: uint64(dir), Name: name, Mode: o.Mode, Uid: o.UID, Gid: o.GID,
	}}})
	if err != nil {
		return Attr{}, fail("Mkdir", dir, name, err)
	}
	t := eggs.Time(reply.Time)
	c.policy.born(eggs.InodeID(reply.Id), dir)
	a := Attr{
		ID: eggs.InodeID(reply.Id), Mode: o.Mode, UID: o.UID, GID: o.GID,
		Mtime: t, Atime: t, Ctime: t, Owner: dir,
	}
	if o.Mtime != 0 {
		return c.SetAttr(ctx, a.ID, SetAttr{Mtime: &o.Mtime})
	}
	return a, nil
}

// Rmdir removes an empty directory, by the coordinator. Kinds NotEmpty, NotDir, NotExist.
func (c *Client) Rmdir(ctx context.Context, dir eggs.InodeID, name string) error {
	return fail("Rmdir", dir, name, c.rmdir(ctx, dir, name, 0))
}

func (c *Client) rmdir(ctx context.Context, dir eggs.InodeID, name string,
	target eggs.InodeID,
) error {
	if err := eggs.CheckName(name); err != nil {
		return err
	}
	_, err := c.CDC(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_Rmdir{Rmdir: &wire.Rmdir{
		Dir: uint64(dir), Name: name, Target: uint64(target),
	}}})
	return err
}

// Unlink removes a file or symlink; target 0 means whatever it is.
func (c *Client) Unlink(ctx context.Context, dir eggs.InodeID, name string,
	target eggs.InodeID,
) error {
	if err := eggs.CheckName(name); err != nil {
		return fail("Unlink", dir, name, err)
	}
	_, err := c.Shard(ctx, dir.Shard(), &wire.Verb{Verb: &wire.Verb_Unlink{Unlink: &wire.Unlink{
		Dir: uint64(dir), Name: name, Target: uint64(target),
	}}})
	return fail("Unlink", dir, name, err)
}

// Symlink makes a symlink. Kind Exist.
func (c *Client) Symlink(ctx context.Context, dir eggs.InodeID, name, target string,
	o CreateOptions,
) (Attr, error) {
	err := eggs.CheckName(name)
	switch {
	case err != nil:
	case target == "":
		err = eggs.NotExist
	case len(target) > eggs.MaxSymlink:
		err = eggs.NameTooLong
	}
	if err != nil {
		return Attr{}, fail("Symlink", dir, name, err)
	}
	reply, err := c.Shard(ctx, dir.Shard(), &wire.Verb{Verb: &wire.Verb_Symlink{
		Symlink: &wire.Symlink{
			Dir: uint64(dir), Name: name, Target: []byte(target),
			Uid: o.UID, Gid: o.GID, Mtime: int64(o.Mtime),
		},
	}})
	if err != nil {
		return Attr{}, fail("Symlink", dir, name, err)
	}
	made, err := resultOf[*wire.Result_SymlinkMade](reply, 0)
	if err != nil {
		return Attr{}, fail("Symlink", dir, name, err)
	}
	t := eggs.Time(made.SymlinkMade.Time)
	a := Attr{
		ID: eggs.InodeID(made.SymlinkMade.Id), Mode: 0o777, UID: o.UID, GID: o.GID,
		Size: int64(len(target)), Mtime: t, Atime: t, Ctime: t, Symlink: target,
	}
	if o.Mtime != 0 {
		a.Mtime = o.Mtime
	}
	return a, nil
}

// Rename renames or replaces. A directory to another parent is Kind CrossDir.
//
// A directory may take the name of an empty directory in the same parent. That
// is two changes, remove and rename: between them the name is absent, and a
// client that dies there leaves it so.
func (c *Client) Rename(ctx context.Context, fromDir eggs.InodeID, from string,
	toDir eggs.InodeID, to string, noReplace bool,
) error {
	err := eggs.CheckName(from)
	if err == nil {
		err = eggs.CheckName(to)
	}
	switch {
	case err != nil:
	case fromDir != toDir:
		err = c.renameAcross(ctx, fromDir, from, toDir, to, noReplace)
	case from == to:
		_, err = c.lookupName(ctx, fromDir, from)
		if err == nil && noReplace {
			err = eggs.Exist
		}
	default:
		err = c.renameWithin(ctx, fromDir, from, to, noReplace)
	}
	return fail("Rename", fromDir, from, err)
}

// renameWithin renames in one directory.
func (c *Client) renameWithin(ctx context.Context, dir eggs.InodeID, from, to string,
	noReplace bool,
) error {
	for try := 0; ; try++ {
		_, err := c.Shard(ctx, dir.Shard(), &wire.Verb{Verb: &wire.Verb_Rename{
			Rename: &wire.Rename{Dir: uint64(dir), From: from, To: to, NoReplace: noReplace},
		}})
		if err == nil || noReplace || try == lookupTries {
			return err
		}
		switch eggs.KindOf(err) {
		case eggs.Exist, eggs.IsDir, eggs.NotDir, eggs.NotEmpty:
		default:
			return err
		}
		// Something in the way: only a directory makes room, and only for a directory.
		source, serr := c.lookupName(ctx, dir, from)
		if serr != nil {
			return serr
		}
		target, terr := c.lookupName(ctx, dir, to)
		switch {
		case errors.Is(terr, eggs.NotExist):
			continue
		case terr != nil:
			return terr
		case source.Target.IsDir() && !target.Target.IsDir():
			return eggs.NotDir
		case !source.Target.IsDir() && target.Target.IsDir():
			return eggs.IsDir
		case !source.Target.IsDir():
			return err
		}
		err = c.rmdir(ctx, dir, to, target.Target)
		switch eggs.KindOf(err) {
		case eggs.NotExist, eggs.Conflict: // somebody else's change came first
		case eggs.Other:
			if err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// renameAcross moves a file or symlink to another directory, by the coordinator.
func (c *Client) renameAcross(ctx context.Context, fromDir eggs.InodeID, from string,
	toDir eggs.InodeID, to string, noReplace bool,
) error {
	source, err := c.lookupName(ctx, fromDir, from)
	if err != nil {
		return err
	}
	if source.Target.IsDir() {
		return eggs.CrossDir
	}
	_, err = c.CDC(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_RenameFile{
		RenameFile: &wire.RenameFile{
			FromDir: uint64(fromDir), From: from,
			ToDir: uint64(toDir), To: to, NoReplace: noReplace,
		},
	}})
	return err
}
