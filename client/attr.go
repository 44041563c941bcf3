package client

import (
	"context"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// The bits of wire.SetAttr.Set.
const (
	setMode     = 1
	setUID      = 2
	setGID      = 4
	setMtime    = 8
	setAtime    = 16
	setMtimeNow = 32
	setAtimeNow = 64
)

// attrOf converts an attribute from the wire.
func attrOf(a *wire.Attr) Attr {
	if a == nil {
		return Attr{}
	}
	return Attr{
		ID: eggs.InodeID(a.Id), Mode: a.Mode, UID: a.Uid, GID: a.Gid, Size: int64(a.Size),
		Mtime: eggs.Time(a.Mtime), Atime: eggs.Time(a.Atime), Ctime: eggs.Time(a.Ctime),
		Owner: eggs.InodeID(a.Owner), Symlink: string(a.Symlink), Xattrs: a.Xattrs,
		Policies: a.Policies, Transient: a.Transient, Removed: a.Removed,
	}
}

// setAttrOf converts a change of attributes to the wire.
func setAttrOf(id eggs.InodeID, s SetAttr) *wire.SetAttr {
	w := &wire.SetAttr{Id: uint64(id)}
	if s.Mode != nil {
		w.Set, w.Mode = w.Set|setMode, *s.Mode
	}
	if s.UID != nil {
		w.Set, w.Uid = w.Set|setUID, *s.UID
	}
	if s.GID != nil {
		w.Set, w.Gid = w.Set|setGID, *s.GID
	}
	switch {
	case s.MtimeNow:
		w.Set |= setMtimeNow
	case s.Mtime != nil:
		w.Set, w.Mtime = w.Set|setMtime, int64(*s.Mtime)
	}
	switch {
	case s.AtimeNow:
		w.Set |= setAtimeNow
	case s.Atime != nil:
		w.Set, w.Atime = w.Set|setAtime, int64(*s.Atime)
	}
	return w
}

// Stat returns attributes. Kind NotExist.
func (c *Client) Stat(ctx context.Context, id eggs.InodeID) (Attr, error) {
	a, err := c.stat(ctx, id)
	return a, fail("Stat", id, "", err)
}

func (c *Client) stat(ctx context.Context, id eggs.InodeID) (Attr, error) {
	ans, err := c.Query(ctx, &wire.ShardQuery{
		Shard: uint32(id.Shard()),
		Query: &wire.ShardQuery_Stat{Stat: &wire.Stat{Ids: []uint64{uint64(id)}}},
	})
	if err != nil {
		return Attr{}, err
	}
	attrs := ans.GetStat().GetAttrs()
	if len(attrs) != 1 || attrs[0].GetId() == 0 {
		return Attr{}, eggs.NotExist
	}
	return attrOf(attrs[0]), nil
}

// Limits of StatMany.
const (
	statBatch    = 4096 // ids of one query, which a shard answers in some ms
	statParallel = 256  // queries under way at a time: those of one moment share frames and read checks
)

// StatMany asks each shard once, all at the same time; an absent inode has ID 0 in the answer.
func (c *Client) StatMany(ctx context.Context, ids []eggs.InodeID) ([]Attr, error) {
	var byShard [eggs.Shards][]int
	for i, id := range ids {
		s := id.Shard()
		byShard[s] = append(byShard[s], i)
	}
	out := make([]Attr, len(ids))
	g := newGroup(ctx, statParallel)
	for s := range byShard {
		for at := byShard[s]; len(at) > 0; {
			part := at[:min(len(at), statBatch)]
			at = at[len(part):]
			g.run(func(ctx context.Context) error {
				return c.statPart(ctx, eggs.ShardID(s), ids, part, out)
			})
		}
	}
	if err := g.wait(); err != nil {
		return nil, fail("StatMany", 0, "", err)
	}
	return out, nil
}

// statPart fills out[i] for each i of part; the ids live in one shard.
func (c *Client) statPart(ctx context.Context, shard eggs.ShardID, ids []eggs.InodeID,
	part []int, out []Attr,
) error {
	q := &wire.Stat{Ids: make([]uint64, len(part))}
	for n, i := range part {
		q.Ids[n] = uint64(ids[i])
	}
	ans, err := c.Query(ctx, &wire.ShardQuery{
		Shard: uint32(shard),
		Query: &wire.ShardQuery_Stat{Stat: q},
	})
	if err != nil {
		return err
	}
	attrs := ans.GetStat().GetAttrs()
	if len(attrs) != len(part) {
		return eggs.E("client.StatMany", eggs.Corrupt, "the answer has another length")
	}
	for n, i := range part {
		out[i] = attrOf(attrs[n])
	}
	return nil
}

// SetAttr changes attributes and returns them as they are then.
func (c *Client) SetAttr(ctx context.Context, id eggs.InodeID, s SetAttr) (Attr, error) {
	w := setAttrOf(id, s)
	if w.Set != 0 {
		_, err := c.Shard(ctx, id.Shard(), &wire.Verb{Verb: &wire.Verb_SetAttr{SetAttr: w}})
		if err != nil {
			return Attr{}, fail("SetAttr", id, "", err)
		}
	}
	a, err := c.stat(ctx, id)
	return a, fail("SetAttr", id, "", err)
}

// SetXattr sets one extended attribute. create: Kind Exist when it is there;
// replace: Kind NotExist when it is not.
func (c *Client) SetXattr(ctx context.Context, id eggs.InodeID, name string, value []byte,
	create, replace bool,
) error {
	x := &wire.SetXattr{Id: uint64(id), Name: name, Value: value, Create: create, Replace: replace}
	_, err := c.Shard(ctx, id.Shard(), &wire.Verb{Verb: &wire.Verb_SetXattr{SetXattr: x}})
	return fail("SetXattr", id, name, err)
}

// RemoveXattr removes one extended attribute. Kind NotExist.
func (c *Client) RemoveXattr(ctx context.Context, id eggs.InodeID, name string) error {
	x := &wire.SetXattr{Id: uint64(id), Name: name, Remove: true}
	_, err := c.Shard(ctx, id.Shard(), &wire.Verb{Verb: &wire.Verb_SetXattr{SetXattr: x}})
	return fail("RemoveXattr", id, name, err)
}
