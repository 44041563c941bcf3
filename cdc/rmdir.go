package cdc

import (
	"sync"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// rmdir locks the edge, removes the owner of what it points to if that is
// empty, and lets the edge go. See "rmdir" in doc.go.
func (s *steps) rmdir(op *wire.Rmdir) (*wire.CdcReply, bool) {
	target, no, ok := s.lock(op.Dir, op.Name, op.Target)
	if !ok || no != nil {
		return &wire.CdcReply{Error: no}, ok
	}
	if !eggs.InodeID(target).IsDir() {
		no := refusal("cdc.Rmdir", eggs.NotDir, op.Dir, op.Name, "")
		return s.unlock(op.Dir, op.Name, target, no)
	}
	inherited, ok := s.inherited(op.Dir)
	if !ok {
		return nil, false
	}
	_, no, ok = s.do(stageSecond, target, &wire.Verb{Verb: &wire.Verb_RemoveOwner{
		RemoveOwner: &wire.RemoveOwner{Dir: target, Inherited: inherited},
	}})
	switch {
	case !ok:
		return nil, false
	case no != nil:
		return s.unlock(op.Dir, op.Name, target, no)
	}
	no, ok = s.moved(op.Dir, op.Name, target)
	return &wire.CdcReply{Error: no, Id: target}, ok
}

// lock locks an edge for this transaction and returns what it points to.
func (s *steps) lock(dir uint64, name string, target uint64) (uint64, *wire.Error, bool) {
	r, no, ok := s.do(stageFirst, dir, &wire.Verb{Verb: &wire.Verb_LockEdge{
		LockEdge: &wire.LockEdge{Dir: dir, Name: name, Target: target},
	}})
	return r.GetEdgeSeen().GetTarget(), no, ok
}

// unlock frees an edge as it was, and answers with the reason.
func (s *steps) unlock(
	dir uint64, name string, target uint64, why *wire.Error,
) (*wire.CdcReply, bool) {
	broken, ok := s.must(stageUndo, dir, unlockEdge(dir, name, target, false))
	if broken != nil {
		why = broken
	}
	return &wire.CdcReply{Error: why}, ok
}

// moved frees an edge whose target is elsewhere now, or gone.
func (s *steps) moved(dir uint64, name string, target uint64) (*wire.Error, bool) {
	return s.must(stageLast, dir, unlockEdge(dir, name, target, true))
}

func unlockEdge(dir uint64, name string, target uint64, moved bool) *wire.Verb {
	return &wire.Verb{Verb: &wire.Verb_UnlockEdge{
		UnlockEdge: &wire.UnlockEdge{Dir: dir, Name: name, Target: target, Moved: moved},
	}}
}

// inherited collects the policy tags in force for what lies in dir, each from
// the nearest ancestor that has it, and what none has from the cluster's default: a removed
// directory can inherit no more. The shard puts the directory's own tags above them.
//
// While the edge is locked no ancestor can go. In a replay after the removal
// they can: then what is found does not matter, as the shard repeats its answer.
func (s *steps) inherited(dir uint64) (*wire.Policies, bool) {
	chain := s.ancestors(dir)
	own, ok := s.policies(chain)
	if !ok {
		return nil, false
	}
	sum := &wire.Policies{}
	for _, p := range own {
		fill(sum, p)
	}
	fill(sum, defaultPolicies(s.e.c.machine.Facts()))
	return sum, true
}

// ancestors lists dir and what is above it, nearest first, as far as the
// parent map knows.
func (s *steps) ancestors(dir uint64) []uint64 {
	view := s.e.c.group.Local()
	defer view.Close()
	chain := []uint64{dir}
	for dir != uint64(eggs.Root) && len(chain) < maxDepth {
		parent, ok := parentOf(view, dir)
		if !ok {
			break
		}
		chain = append(chain, parent)
		dir = parent
	}
	return chain
}

// policies reads the tags of directories, in their order, each shard once and
// several shards at a time.
func (s *steps) policies(dirs []uint64) ([]*wire.Policies, bool) {
	at := map[eggs.ShardID][]int{}
	for i, dir := range dirs {
		shard := eggs.InodeID(dir).Shard()
		at[shard] = append(at[shard], i)
	}
	own := make([]*wire.Policies, len(dirs))
	room := make(chan struct{}, maxStats)
	var work sync.WaitGroup
	for shard, list := range at {
		room <- struct{}{}
		work.Go(func() {
			defer func() { <-room }()
			s.stat(shard, dirs, list, own)
		})
	}
	work.Wait()
	return own, s.e.ctx.Err() == nil
}

// stat fills in the tags of those of dirs that list names, all of one shard.
func (s *steps) stat(shard eggs.ShardID, dirs []uint64, list []int, own []*wire.Policies) {
	for len(list) > 0 {
		n := min(len(list), maxStatIDs)
		ids := make([]uint64, n)
		for i, at := range list[:n] {
			ids[i] = dirs[at]
		}
		a, ok := s.query(&wire.ShardQuery{
			Shard: uint32(shard), Query: &wire.ShardQuery_Stat{Stat: &wire.Stat{Ids: ids}},
		})
		if !ok {
			return
		}
		for i, attr := range a.GetStat().GetAttrs() {
			if i < n && attr.GetId() == ids[i] {
				own[list[i]] = attr.Policies
			}
		}
		list = list[n:]
	}
}

// fill gives sum the tags that it lacks and p has.
func fill(sum, p *wire.Policies) {
	if sum.Snapshot == nil {
		sum.Snapshot = p.GetSnapshot()
	}
	if sum.Span == nil {
		sum.Span = p.GetSpan()
	}
	if sum.Stripe == nil {
		sum.Stripe = p.GetStripe()
	}
	if sum.Inline == nil {
		sum.Inline = p.GetInline()
	}
}

// defaultPolicies is what holds where even the root says nothing.
func defaultPolicies(f *wire.Facts) *wire.Policies {
	domains := map[string]bool{}
	for _, n := range f.Nodes {
		domains[n.Domain] = true
	}
	d := eggs.DefaultPolicies(len(domains), len(f.Disks))
	p := &wire.Policies{
		Snapshot: &wire.SnapshotPolicy{
			KeepForNs: int64(d.Snapshot.KeepFor), KeepVersions: d.Snapshot.KeepVersions,
		},
		Span:   &wire.SpanPolicy{},
		Stripe: &wire.StripePolicy{CellSize: d.Stripe.CellSize},
		Inline: &wire.InlinePolicy{MaxSize: d.Inline.MaxSize},
	}
	for _, c := range d.Span {
		p.Span.Classes = append(p.Span.Classes, &wire.SpanClass{
			MaxSize: uint64(c.MaxSize), D: uint32(c.Parity.D), P: uint32(c.Parity.P),
			Class: uint32(c.Class),
		})
	}
	return p
}
