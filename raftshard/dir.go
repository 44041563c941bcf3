package raftshard

import (
	"fmt"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// The bits that name policy tags, as in SetPolicy.clear.
const (
	tagSnapshot = 1
	tagSpan     = 2
	tagStripe   = 4
	tagInline   = 8
	tagAll      = tagSnapshot | tagSpan | tagStripe | tagInline
)

// maxSpanClasses bounds a span policy: a step for each power of two is plenty.
const maxSpanClasses = 32

// createDirectory makes an inode that no edge points to yet.
func (a *apply) createDirectory(v *wire.CreateDirectory) (*wire.Result, error) {
	id, owner := eggs.InodeID(v.Id), eggs.InodeID(v.Owner)
	if !id.Valid() || !id.IsDir() || id.Shard() != a.m.shard || id == eggs.Root {
		return nil, fail(eggs.Invalid, id, "", "not a directory's id of this shard")
	}
	if !owner.Valid() || !owner.IsDir() {
		return nil, fail(eggs.Invalid, id, "", "the owner is no directory")
	}
	if a.dirs.get(a.tx, id) != nil {
		return nil, fail(eggs.Exist, id, "", "")
	}
	t := int64(a.now)
	a.dirs.put(a.tx, id, &DirectoryRecord{
		Owner: v.Owner, Mode: v.Mode & 0o7777, Uid: v.Uid, Gid: v.Gid,
		Ctime: t, Mtime: t, Atime: t,
	})
	return nil, nil
}

// uncreateDirectory takes createDirectory back. One that is gone is no error.
func (a *apply) uncreateDirectory(v *wire.UncreateDirectory) (*wire.Result, error) {
	id, _, err := a.dir(v.Id)
	switch {
	case eggs.KindOf(err) == eggs.NotExist:
		return nil, nil
	case err != nil:
		return nil, err
	case id == eggs.Root:
		return nil, fail(eggs.Invalid, id, "", "the root")
	case a.some(tableEdge, id) || a.some(tableSnapshot, id):
		return nil, fail(eggs.NotEmpty, id, "", "")
	}
	a.dirs.put(a.tx, id, nil)
	return nil, nil
}

// removeOwner removes an empty directory.
func (a *apply) removeOwner(v *wire.RemoveOwner) (*wire.Result, error) {
	id, d, err := a.liveDir(v.Dir)
	if err != nil {
		return nil, err
	}
	if id == eggs.Root {
		return nil, fail(eggs.Invalid, id, "", "the root cannot be removed")
	}
	if a.some(tableEdge, id) {
		return nil, fail(eggs.NotEmpty, id, "", "")
	}
	own, err := policies(id, d)
	if err != nil {
		return nil, err
	}
	if err := checkPolicies(id, v.Inherited); err != nil {
		return nil, err
	}
	if tagsOf(v.Inherited)|tagsOf(own) != tagAll {
		return nil, fail(eggs.Invalid, id, "", "it can inherit no more, so it takes all tags along")
	}
	d.Inherited = tagsOf(v.Inherited) &^ tagsOf(own)
	mergePolicies(own, v.Inherited, d.Inherited)
	d.Policies = encode(own)
	res := &wire.Result{Result: &wire.Result_OwnerRemoved{
		OwnerRemoved: &wire.OwnerRemoved{Owner: d.Owner},
	}}
	d.Owner, d.Ctime = 0, int64(a.now)
	a.dirs.touch(a.tx, id)
	return res, nil
}

// restoreOwner takes removeOwner back, with the tags that it took along.
func (a *apply) restoreOwner(v *wire.RestoreOwner) (*wire.Result, error) {
	id, d, err := a.dir(v.Dir)
	if err != nil {
		return nil, err
	}
	owner := eggs.InodeID(v.Owner)
	if !owner.Valid() || !owner.IsDir() {
		return nil, fail(eggs.Invalid, id, "", "the owner is no directory")
	}
	if !removed(id, d) {
		return nil, fail(eggs.Conflict, id, "", "the directory is not removed")
	}
	own, err := policies(id, d)
	if err != nil {
		return nil, err
	}
	clearPolicies(own, d.Inherited)
	d.Policies, d.Inherited = encode(own), 0
	d.Owner, d.Ctime = v.Owner, int64(a.now)
	a.dirs.touch(a.tx, id)
	return nil, nil
}

// setPolicy replaces tags of a directory's own.
func (a *apply) setPolicy(v *wire.SetPolicy) (*wire.Result, error) {
	id, d, err := a.liveDir(v.Dir)
	if err != nil {
		return nil, err
	}
	if v.Clear&^tagAll != 0 {
		return nil, fail(eggs.Invalid, id, "", "unknown policy tags")
	}
	if err := checkPolicies(id, v.Policies); err != nil {
		return nil, err
	}
	own, err := policies(id, d)
	if err != nil {
		return nil, err
	}
	clearPolicies(own, v.Clear)
	mergePolicies(own, v.Policies, tagsOf(v.Policies))
	d.Policies, d.Ctime = encode(own), int64(a.now)
	a.dirs.touch(a.tx, id)
	return nil, nil
}

func policies(id eggs.InodeID, d *DirectoryRecord) (*wire.Policies, error) {
	p := &wire.Policies{}
	if err := p.UnmarshalVT(d.Policies); err != nil {
		return nil, fail(eggs.Corrupt, id, "", "the policies cannot be read")
	}
	return p, nil
}

func tagsOf(p *wire.Policies) (tags uint32) {
	if p.GetSnapshot() != nil {
		tags |= tagSnapshot
	}
	if p.GetSpan() != nil {
		tags |= tagSpan
	}
	if p.GetStripe() != nil {
		tags |= tagStripe
	}
	if p.GetInline() != nil {
		tags |= tagInline
	}
	return tags
}

// mergePolicies takes over those tags of from.
func mergePolicies(p, from *wire.Policies, tags uint32) {
	if tags&tagSnapshot != 0 {
		p.Snapshot = from.Snapshot
	}
	if tags&tagSpan != 0 {
		p.Span = from.Span
	}
	if tags&tagStripe != 0 {
		p.Stripe = from.Stripe
	}
	if tags&tagInline != 0 {
		p.Inline = from.Inline
	}
}

func clearPolicies(p *wire.Policies, tags uint32) { mergePolicies(p, &wire.Policies{}, tags) }

// checkPolicies refuses what no writer could follow.
func checkPolicies(id eggs.InodeID, p *wire.Policies) error {
	bad := func(text string) error { return fail(eggs.Invalid, id, "", text) }
	if s := p.GetSnapshot(); s != nil && s.KeepForNs < 0 {
		return bad("a snapshot policy that keeps for less than nothing")
	}
	if s := p.GetSpan(); s != nil {
		if len(s.Classes) == 0 || len(s.Classes) > maxSpanClasses {
			return bad(fmt.Sprintf("a span policy has 1 to %d classes", maxSpanClasses))
		}
		size := uint64(0)
		for _, c := range s.Classes {
			if c.GetMaxSize() <= size || c.MaxSize > eggs.MaxSpan {
				return bad("the sizes of a span policy increase, up to the greatest span")
			}
			if c.D == 0 || c.D > eggs.MaxParity || c.P > eggs.MaxParity || c.Class > 255 {
				return bad("the parity or class of a span policy")
			}
			size = c.MaxSize
		}
	}
	if s := p.GetStripe(); s != nil &&
		(s.CellSize == 0 || s.CellSize%eggs.CellAlign != 0 || s.CellSize > eggs.MaxBlock) {
		return bad("a cell size is a multiple of a page")
	}
	if s := p.GetInline(); s != nil && s.MaxSize > eggs.MaxInline {
		return bad("the inline size is over the limit")
	}
	return nil
}
