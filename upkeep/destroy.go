package upkeep

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// Small files are tried many with one request, as if their bytes lived in the
// shard: that is so up to smallFile bytes, unless a policy says otherwise.
const (
	smallBatch = 32
	smallFile  = 16 << 10
)

// transients destroys the files of a shard that are past their deadline.
func (g *Collector) transients(ctx context.Context, shard eggs.ShardID, t *tally) error {
	for after := uint64(0); ; {
		ans, err := g.c.Query(ctx, &wire.ShardQuery{
			Shard: uint32(shard),
			Query: &wire.ShardQuery_ListTransient{ListTransient: &wire.ListTransient{
				After: after, Limit: page, Due: true, DueBefore: int64(g.cfg.Clock()),
			}},
		})
		if err != nil {
			return err
		}
		got := ans.GetListTransient()
		var small, large []eggs.InodeID
		for _, f := range got.GetFiles() {
			after = f.Id
			id := eggs.InodeID(f.Id)
			switch {
			case g.leftAlone(id):
			case f.Size <= smallFile:
				small = append(small, id)
			default:
				large = append(large, id)
			}
		}
		large = append(large, g.smallFiles(ctx, shard, small, t)...)
		if err := g.destroyAll(ctx, large, t); err != nil {
			return err
		}
		if got.GetEnd() || len(got.GetFiles()) == 0 {
			return nil
		}
	}
}

// smallFiles tries to remove files whose bytes live in the shard, many with
// one request, and returns those that it could not.
func (g *Collector) smallFiles(ctx context.Context, shard eggs.ShardID, ids []eggs.InodeID,
	t *tally,
) (others []eggs.InodeID) {
	for len(ids) > 0 {
		part := ids[:min(len(ids), smallBatch)]
		ids = ids[len(part):]
		var verbs []*wire.Verb
		for _, id := range part {
			verbs = append(verbs, condemn(id), removeFile(id))
		}
		if _, err := g.change(ctx, shard, verbs...); err != nil {
			others = append(others, part...)
			continue
		}
		t.add(func(r *Report) { r.Files += len(part) })
	}
	return others
}

func condemn(id eggs.InodeID) *wire.Verb {
	return &wire.Verb{Verb: &wire.Verb_CondemnSpan{CondemnSpan: &wire.CondemnSpan{File: uint64(id)}}}
}

func removeFile(id eggs.InodeID) *wire.Verb {
	return &wire.Verb{Verb: &wire.Verb_RemoveFile{RemoveFile: &wire.RemoveFile{File: uint64(id)}}}
}

// destroyAll takes files apart, some at a time. What cannot be finished is
// noted and left; the error is that of a context that is over.
func (g *Collector) destroyAll(ctx context.Context, ids []eggs.InodeID, t *tally) error {
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for _, id := range ids {
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			err := g.destroy(ctx, id, t)
			switch k := eggs.KindOf(err); {
			case err == nil:
				g.done(id)
			case k == eggs.BadDisk:
				g.leaveAlone(id, 0)
				t.add(func(r *Report) {
					r.Left++
					r.reason(err.Error())
				})
			default:
				t.failed(err)
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

// destroy takes one transient file apart, from its last span to its inode.
func (g *Collector) destroy(ctx context.Context, id eggs.InodeID, t *tally) error {
	shard := id.Shard()
	verbs := []*wire.Verb{condemn(id)}
	for {
		reply, err := g.change(ctx, shard, verbs...)
		if err != nil {
			return err
		}
		c := reply.Results[len(reply.Results)-1].GetSpanCondemned()
		if c == nil {
			return eggs.E("upkeep.Destroy", eggs.Corrupt, "the answer does not say what to erase")
		}
		if c.None {
			break
		}
		verbs = []*wire.Verb{condemn(id)}
		if len(c.Erase) == 0 { // it was inline, and is gone
			continue
		}
		proofs, err := g.erase(ctx, c.Erase)
		if err != nil {
			return err
		}
		remove := &wire.RemoveSpan{File: uint64(id), Offset: c.Offset, Proofs: proofs}
		verbs = append([]*wire.Verb{{Verb: &wire.Verb_RemoveSpan{RemoveSpan: remove}}}, verbs...)
		t.add(func(r *Report) {
			r.Spans++
			r.Blocks += len(proofs)
		})
	}
	if _, err := g.change(ctx, shard, removeFile(id)); err != nil {
		return err
	}
	t.add(func(r *Report) { r.Files++ })
	return nil
}

// erase erases blocks at the same time and returns their proofs in order.
// Kind BadDisk, naming the disks, when one could not be erased.
func (g *Collector) erase(ctx context.Context, certs []*wire.Certificate) ([]*wire.Proof, error) {
	proofs := make([]*wire.Proof, len(certs))
	var mu sync.Mutex
	var bad []eggs.DiskID
	var cause error
	var wg sync.WaitGroup
	for i, c := range certs {
		wg.Go(func() {
			p, err := g.c.EraseBlock(ctx, c)
			if err != nil && ctx.Err() == nil && g.givenUp(ctx, eggs.DiskID(c.Disk)) {
				p, err = &wire.Proof{Disk: c.Disk, Block: c.Block}, nil
			}
			proofs[i] = p
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				bad = append(bad, eggs.DiskID(c.Disk))
				cause = err
			}
		})
	}
	wg.Wait()
	if bad == nil {
		return proofs, nil
	}
	if ctx.Err() != nil {
		return nil, &eggs.Error{Op: "upkeep.Erase", Kind: eggs.Canceled, Err: ctx.Err()}
	}
	return nil, &eggs.Error{
		Op: "upkeep.Erase", Kind: eggs.BadDisk, Disks: bad,
		Err: fmt.Errorf("blocks could not be erased: %w", errors.New(eggs.KindOf(cause).String())),
	}
}

// givenUp reports whether a disk is retired, so that its blocks need no erasing.
func (g *Collector) givenUp(ctx context.Context, d eggs.DiskID) bool {
	f, err := g.facts.get(ctx)
	return err == nil && LeavingDisks(f)[d] == Retired
}

// CollectTransient destroys one file that has no name and is past its
// deadline. Kind Conflict when it is not.
func (g *Collector) CollectTransient(ctx context.Context, id eggs.InodeID) (Report, error) {
	var t tally
	err := g.destroy(ctx, id, &t)
	r := t.report()
	if err != nil {
		return r, &eggs.Error{Op: "upkeep.CollectTransient", Inode: id, Err: err}
	}
	return r, nil
}
