package upkeep

import (
	"context"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// batch is the past edges removed by one request: their records are small, and
// a request that fails is repeated one by one.
const batch = 64

// history is the collection of one directory's past.
type history struct {
	g   *Collector
	t   *tally
	dir eggs.InodeID
	now eggs.Time // of the directory's group
	// files is given files that have lost their last name, nil: their shards' rounds find them.
	files func(ctx context.Context, ids []eggs.InodeID) error

	policy  eggs.SnapshotPolicy
	kept    int       // past edges that stay
	next    eggs.Time // when the first of them may go; 0: unknown
	removed bool      // the directory has no owner
	below   []eggs.InodeID
	verbs   []*wire.Verb
	freed   []eggs.InodeID // files that lose their name with verbs
}

// collect removes what the policy does not keep, and the directory itself when
// it is removed and nothing is left of it.
func (h *history) collect(ctx context.Context) error {
	p, err := h.g.c.Policies(ctx, h.dir)
	if err != nil {
		return err
	}
	h.policy = p.Snapshot
	for after := uint64(0); ; {
		ans, err := h.g.c.Query(ctx, &wire.ShardQuery{
			Shard: uint32(h.dir.Shard()),
			Query: &wire.ShardQuery_ListSnapshots{ListSnapshots: &wire.ListSnapshots{
				Dir: uint64(h.dir), After: after, Limit: page,
			}},
		})
		if err != nil {
			return err
		}
		got := ans.GetListSnapshots()
		h.removed = got.GetDir().GetRemoved()
		if err := h.names(ctx, got.GetEdges()); err != nil {
			return err
		}
		if got.GetEnd() || len(got.GetEdges()) == 0 {
			break
		}
		after = got.GetNext()
	}
	if err := h.flush(ctx); err != nil {
		return err
	}
	h.later()
	if h.removed && h.kept == 0 {
		return h.remove(ctx)
	}
	return nil
}

// later notes when the directory is worth another look.
func (h *history) later() {
	if h.kept == 0 || h.next <= h.now {
		return
	}
	h.g.leaveAlone(h.dir, min(time.Duration(h.next-h.now), lookAgain))
}

// remove forgets the directory.
func (h *history) remove(ctx context.Context) error {
	_, err := h.g.change(ctx, h.dir.Shard(), &wire.Verb{Verb: &wire.Verb_RemoveDirectory{
		RemoveDirectory: &wire.RemoveDirectory{Dir: uint64(h.dir)},
	}})
	if err != nil {
		return err
	}
	h.g.done(h.dir)
	h.t.add(func(r *Report) { r.Directories++ })
	return nil
}

// names takes the edges of whole names, one after another.
func (h *history) names(ctx context.Context, edges []*wire.SnapshotEdge) error {
	for len(edges) > 0 {
		n := 1
		for n < len(edges) && edges[n].Name == edges[0].Name {
			n++
		}
		if err := h.name(ctx, edges[:n]); err != nil {
			return err
		}
		edges = edges[n:]
	}
	return nil
}

// name removes the oldest versions of one name for as long as nothing keeps
// them, and the deletion markers among and behind those.
func (h *history) name(ctx context.Context, edges []*wire.SnapshotEdge) error {
	newer := 0 // versions after the one looked at
	for _, e := range edges {
		if e.Target != 0 {
			newer++
		}
	}
	past := edges
	for len(past) > 0 && !past[0].Current {
		e := past[0]
		if e.Target != 0 {
			newer--
			if !h.goes(past, newer) {
				break
			}
			if !e.Owned && eggs.InodeID(e.Target).IsDir() {
				h.below = append(h.below, eggs.InodeID(e.Target))
			}
		}
		gone, err := h.drop(ctx, e)
		if err != nil {
			return err
		}
		if !gone { // what follows it says until when it was there
			break
		}
		past = past[1:]
	}
	for _, e := range past {
		if !e.Current {
			h.kept++
		}
	}
	return nil
}

// goes reports whether the first of these edges, with so many newer versions,
// is kept by nothing.
func (h *history) goes(edges []*wire.SnapshotEdge, newer int) bool {
	ended := edges[0].Time // when nothing follows, which should not be
	if len(edges) > 1 {
		ended = edges[1].Time
	}
	due := eggs.Time(ended) + eggs.Time(h.policy.KeepFor)
	if due > h.now {
		if h.next == 0 || due < h.next {
			h.next = due
		}
		return false
	}
	if newer < int(h.policy.KeepVersions) {
		h.next = h.now // whenever a newer one comes
		return false
	}
	return true
}

// drop removes one past edge: with the next batch, or by the coordinator when it
// owns a file of another shard. gone is false when it surely stays.
func (h *history) drop(ctx context.Context, e *wire.SnapshotEdge) (gone bool, err error) {
	target := eggs.InodeID(e.Target)
	if e.Owned && target.Shard() != h.dir.Shard() {
		if err := h.flush(ctx); err != nil {
			return false, err
		}
		return h.hardUnlink(ctx, e)
	}
	h.verbs = append(h.verbs, &wire.Verb{Verb: &wire.Verb_RemoveSnapshotEdge{
		RemoveSnapshotEdge: &wire.RemoveSnapshotEdge{
			Dir: uint64(h.dir), Name: e.Name, Time: e.Time,
			Target: e.Target, Owned: e.Owned,
		},
	}})
	if e.Owned {
		h.freed = append(h.freed, target)
	}
	if len(h.verbs) == batch {
		return true, h.flush(ctx)
	}
	return true, nil
}

// flush sends the batch; when one edge of it has changed meanwhile, the edges
// by themselves, those of a name up to the one that has.
func (h *history) flush(ctx context.Context) error {
	verbs, freed := h.verbs, h.freed
	h.verbs, h.freed = nil, nil
	if len(verbs) == 0 {
		return nil
	}
	_, err := h.g.change(ctx, h.dir.Shard(), verbs...)
	n := len(verbs)
	if err != nil {
		if !settled(err) {
			return err
		}
		if n, err = h.oneByOne(ctx, verbs); err != nil {
			return err
		}
	}
	h.t.add(func(r *Report) { r.Versions += n })
	return h.nameless(ctx, freed)
}

func (h *history) nameless(ctx context.Context, ids []eggs.InodeID) error {
	if h.files == nil || len(ids) == 0 {
		return nil
	}
	return h.files(ctx, ids)
}

func (h *history) oneByOne(ctx context.Context, verbs []*wire.Verb) (n int, err error) {
	changed := ""
	for _, v := range verbs {
		name := v.GetRemoveSnapshotEdge().Name
		if name == changed {
			h.kept++
			continue
		}
		_, err := h.g.change(ctx, h.dir.Shard(), v)
		switch {
		case err == nil:
			n++
		case !settled(err):
			return n, err
		case eggs.KindOf(err) == eggs.Conflict:
			changed = name
			h.kept++
		}
	}
	return n, nil
}

// settled reports whether an error is a shard's word on the state of things.
func settled(err error) bool {
	k := eggs.KindOf(err)
	return k == eggs.NotExist || k == eggs.Conflict
}

// hardUnlink removes an edge whose file lives in another shard.
func (h *history) hardUnlink(ctx context.Context, e *wire.SnapshotEdge) (gone bool, err error) {
	if err := h.g.limit.Wait(ctx); err != nil {
		return false, err
	}
	_, err = h.g.c.CDC(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_HardUnlink{
		HardUnlink: &wire.HardUnlink{
			Dir: uint64(h.dir), Name: e.Name, Time: e.Time,
			Target: e.Target,
		},
	}})
	if settled(err) {
		return false, nil // it is looked at anew in the next round
	}
	if err != nil {
		return false, err
	}
	h.t.add(func(r *Report) { r.Versions++ })
	return true, h.nameless(ctx, []eggs.InodeID{eggs.InodeID(e.Target)})
}

// change sends verbs to a shard, at the collector's rate.
func (g *Collector) change(ctx context.Context, shard eggs.ShardID, verbs ...*wire.Verb) (
	*wire.ShardReply, error,
) {
	if err := g.limit.Wait(ctx); err != nil {
		return nil, &eggs.Error{Op: "upkeep.Change", Kind: eggs.Canceled, Err: err}
	}
	return g.c.Shard(ctx, shard, verbs...)
}

// CollectDir collects a directory and everything below it, whoever leads
// their shards: past versions that no policy keeps, the files that only
// those had, and removed directories.
func (g *Collector) CollectDir(ctx context.Context, dir eggs.InodeID) (Report, error) {
	var t tally
	w := &walk{g: g, t: &t, times: make(map[eggs.ShardID]eggs.Time)}
	err := w.dir(ctx, dir, 0)
	if err == nil {
		err = w.destroy(ctx)
	}
	if err != nil {
		return t.report(), &eggs.Error{Op: "upkeep.CollectDir", Inode: dir, Err: err}
	}
	r := t.report()
	return r, g.verdict("upkeep.CollectDir", r)
}

// maxDepth bounds a walk: a path cannot name more.
const maxDepth = 4096

// walk collects a tree, each directory after those below it.
type walk struct {
	g     *Collector
	t     *tally
	times map[eggs.ShardID]eggs.Time
	files []eggs.InodeID // that have lost their last name
}

// nameless keeps files for destroy, a page at a time.
func (w *walk) nameless(ctx context.Context, ids []eggs.InodeID) error {
	w.files = append(w.files, ids...)
	if len(w.files) < page {
		return nil
	}
	return w.destroy(ctx)
}

// destroy destroys the files that have lost their last name, the small ones of
// a shard many with one request.
func (w *walk) destroy(ctx context.Context) error {
	ids := w.files
	w.files = nil
	attrs, err := w.g.c.StatMany(ctx, ids)
	if err != nil {
		return err
	}
	small := make(map[eggs.ShardID][]eggs.InodeID)
	var large []eggs.InodeID
	for _, a := range attrs {
		switch {
		case a.ID == 0: // somebody was quicker
		case a.Size <= smallFile:
			small[a.ID.Shard()] = append(small[a.ID.Shard()], a.ID)
		default:
			large = append(large, a.ID)
		}
	}
	for shard, ids := range small {
		large = append(large, w.g.smallFiles(ctx, shard, ids, w.t)...)
	}
	return w.g.destroyAll(ctx, large, w.t)
}

func (w *walk) dir(ctx context.Context, dir eggs.InodeID, depth int) error {
	if depth > maxDepth {
		return eggs.E("upkeep.CollectDir", eggs.Loop, "the tree is too deep")
	}
	if err := w.current(ctx, dir, depth); err != nil {
		return err
	}
	shard := dir.Shard()
	now, ok := w.times[shard]
	if !ok {
		var err error
		if now, err = w.g.now(ctx, shard); err != nil {
			return err
		}
		w.times[shard] = now
	}
	h := &history{g: w.g, t: w.t, dir: dir, now: now, files: w.nameless}
	if err := h.collect(ctx); err != nil {
		return err
	}
	for _, below := range h.below {
		a, err := w.g.c.Stat(ctx, below)
		if err != nil || !a.Removed {
			continue // gone, or it lives on under another name
		}
		if err := w.dir(ctx, below, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// current walks the directories that have a name in dir.
func (w *walk) current(ctx context.Context, dir eggs.InodeID, depth int) error {
	for after := uint64(0); ; {
		entries, _, end, err := w.g.c.ReadDir(ctx, dir, after, page, false)
		if err != nil {
			return err
		}
		for _, e := range entries {
			after = e.Cursor
			if !e.Target.IsDir() {
				continue
			}
			if err := w.dir(ctx, e.Target, depth+1); err != nil && !settled(err) {
				return err
			}
		}
		if end || len(entries) == 0 {
			return nil
		}
	}
}
