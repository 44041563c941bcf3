package upkeep

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// When crowded spans are looked for, and how fast.
const (
	spreadAfter = 5 * time.Second        // after a failure domain (re)appeared, or a shard is led here: more may come
	spreadTwice = 40 * time.Second       // that long later once more: writers avoid disks that hung for half a minute
	spreadEvery = 6 * time.Hour          // and now and then: a file that was open all the time, a disk that was full
	spreadFiles = 5000                   // files/s looked at: their metadata only
	spreadYield = 200 * time.Millisecond // between two looks whether anything more urgent is done
)

// spreader finds spans that have more blocks in a failure domain than they must, as those
// written while a node was down, and has blocks of them moved one by one. Each move makes the
// span's fullest domain emptier and fills none as far, so it comes to rest. Nothing is
// persisted: a new leader begins anew.
type spreader struct {
	m      *Migrator
	limit  *rate.Limiter  // files
	room   map[string]int // disks that can take blocks, by domain: the most since it appeared
	grown  time.Time      // when a domain was last seen to appear, or to have more disks than ever
	shards map[eggs.ShardID]*spreadPass
	told   uint64 // spans that an event has told of
}

// spreadPass is what is known of a shard that is led here.
type spreadPass struct {
	led   time.Time // since when, as far as was seen
	did   time.Time // when the last whole pass began
	began time.Time // the pass under way; zero: none is
	after uint64    // where it goes on
	bad   error     // why a file of it was left
	left  leave     // after a failure
}

func newSpreader(m *Migrator) *spreader {
	return &spreader{
		m: m, limit: rate.NewLimiter(spreadFiles, spreadFiles/10), shards: make(map[eggs.ShardID]*spreadPass),
	}
}

// Spread looks once at all files of all shards for crowded spans and spreads them. It returns
// what was done when nothing more can be; the error is why some could not be.
func (m *Migrator) Spread(ctx context.Context) (MigratorStats, error) {
	s := newSpreader(m)
	for i := range eggs.Shards {
		p := &spreadPass{}
		for whole := false; !whole; {
			var err error
			if whole, err = s.pass(ctx, eggs.ShardID(i), p); err != nil {
				return m.Stats(), &eggs.Error{Op: "upkeep.Spread", Err: err}
			}
		}
		if p.bad != nil {
			return m.Stats(), &eggs.Error{Op: "upkeep.Spread", Err: p.bad}
		}
	}
	return m.Stats(), nil
}

// run looks at what is due in the shards that this node leads, until ctx ends.
func (s *spreader) run(ctx context.Context) {
	t := time.NewTicker(s.m.cfg.Interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.look(ctx, s.m.cfg.Leads)
		}
	}
}

// look does what is due in the shards that takes says.
func (s *spreader) look(ctx context.Context, takes func(eggs.ShardID) bool) {
	now := time.Now()
	s.note(now, takes)
	if len(s.room) < 2 {
		return
	}
	for i := range eggs.Shards {
		id := eggs.ShardID(i)
		p := s.shards[id]
		if p == nil || !s.due(p, now) {
			continue
		}
		for whole := false; !whole && takes(id); {
			var err error
			if whole, err = s.pass(ctx, id, p); err != nil {
				p.bad, whole = err, true
			}
			if ctx.Err() != nil {
				return
			}
		}
		s.ended(id, p)
	}
	if n := s.m.stat[statSpread].Load(); n > s.told {
		s.m.cfg.Event("info", fmt.Sprintf("spread %d spans again over the failure domains that there are", n-s.told))
		s.told = n
	}
}

// note compares the picture with the last one, and the shards led here.
func (s *spreader) note(now time.Time, takes func(eggs.ShardID) bool) {
	room := GroundOf(s.m.c.Routes()).domains()
	for d, n := range room {
		if n > s.room[d] {
			s.grown = now
		}
		room[d] = max(n, s.room[d]) // a disk that comes and goes is not news each time
	}
	s.room = room
	for i := range eggs.Shards {
		id := eggs.ShardID(i)
		switch p := s.shards[id]; {
		case !takes(id):
			delete(s.shards, id)
		case p == nil:
			s.shards[id] = &spreadPass{led: now, did: now}
		}
	}
}

// due reports whether a shard is to be looked at.
func (s *spreader) due(p *spreadPass, now time.Time) bool {
	if now.Before(p.left.until) {
		return false
	}
	wait := s.m.cfg.SpreadAfter
	for _, t := range []time.Time{p.led.Add(wait), s.grown.Add(wait), s.grown.Add(wait + spreadTwice)} {
		if p.did.Before(t) && !now.Before(t) {
			return true
		}
	}
	return now.Sub(p.did) > spreadEvery
}

// ended notes that a pass is over; one that left files is done again after a pause that doubles.
func (s *spreader) ended(id eggs.ShardID, p *spreadPass) {
	if p.bad == nil {
		p.did, p.left = p.began, leave{}
	} else {
		p.left.pause = min(max(2*p.left.pause, repairPause), repairLongest)
		p.left.until = time.Now().Add(p.left.pause)
		s.m.log.Info("spans could not be spread again", "shard", id, "err", p.bad)
	}
	p.began, p.after, p.bad = time.Time{}, 0, nil
}

// pass looks at one page of a shard's files; whole says that it was the last. A file that
// fails does not end it.
func (s *spreader) pass(ctx context.Context, id eggs.ShardID, p *spreadPass) (whole bool, err error) {
	if p.began.IsZero() {
		p.began = time.Now()
	}
	ans, err := s.m.c.Query(ctx, &wire.ShardQuery{
		Shard: uint32(id),
		Query: &wire.ShardQuery_ListFiles{ListFiles: &wire.ListFiles{After: p.after, Limit: page}},
	})
	if err != nil {
		return false, err
	}
	got := ans.GetListFiles()
	slots := make(chan struct{}, s.m.cfg.Parallel)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, x := range got.GetIds() {
		p.after = x
		file := eggs.InodeID(x)
		if file.Kind() != eggs.KindFile {
			continue
		}
		if s.limit.Wait(ctx) != nil {
			break
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := s.file(ctx, file); err != nil {
				mu.Lock()
				defer mu.Unlock()
				p.bad = err
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return false, &eggs.Error{Op: "upkeep.Spread", Kind: eggs.Canceled, Err: ctx.Err()}
	}
	return got.GetEnd() || len(got.GetIds()) == 0, nil
}

// file spreads what is crowded of one file.
func (s *spreader) file(ctx context.Context, id eggs.InodeID) error {
	for offset := int64(0); ; {
		spans, next, err := s.m.c.BlockSpans(ctx, id, offset)
		for i := 0; err == nil && i < len(spans); i++ {
			err = s.span(ctx, spans[i])
		}
		switch eggs.KindOf(err) {
		case eggs.NotExist, eggs.Permission:
			return nil // it is gone, or the collector's
		}
		if err != nil {
			if ctx.Err() == nil {
				s.m.stat[statFailed].Add(1)
			}
			return err
		}
		if offset = next; next == 0 {
			return nil
		}
	}
}

// span moves blocks of a span for as long as that makes it better.
func (s *spreader) span(ctx context.Context, b *client.BlockSpan) error {
	moved := false
	defer func() {
		if moved {
			s.m.stat[statSpread].Add(1)
		}
	}()
	for range len(b.Blocks) {
		mv, ok := GroundOf(s.m.c.Routes()).move(b)
		if !ok {
			return nil
		}
		if err := s.giveWay(ctx); err != nil {
			return err
		}
		err := s.m.moveBlock(ctx, b, mv)
		if err != nil && eggs.KindOf(err) != eggs.Conflict {
			return err
		}
		moved = moved || err == nil
		now, _, err := s.m.c.BlockSpans(ctx, b.File, b.Offset)
		if err != nil {
			return err
		}
		if len(now) == 0 || now[0].Offset != b.Offset {
			return nil
		}
		b = now[0]
	}
	return nil
}

// giveWay waits while there are leaving disks or bad blocks to see to: those go first.
func (s *spreader) giveWay(ctx context.Context) error {
	for s.m.Stats().Queued > 0 {
		select {
		case <-ctx.Done():
			return &eggs.Error{Op: "upkeep.Spread", Kind: eggs.Canceled, Err: ctx.Err()}
		case <-time.After(spreadYield):
		}
	}
	return nil
}

// moveBlock gives a block of a span another place, where the span is better off.
func (m *Migrator) moveBlock(ctx context.Context, b *client.BlockSpan, mv move) error {
	return m.makeAnew(ctx, job{span: b, at: []int{mv.at}}, func(rec *client.Recovered) error {
		for _, i := range rec.Bad { // found on the way: they are repaired next
			delete(rec.Blocks, i)
			m.report(&wire.BadBlock{
				File: uint64(b.File), Offset: uint64(b.Offset), Disk: b.Blocks[i].Disk, Block: b.Blocks[i].Block,
			})
		}
		return m.c.ReplaceBlocks(ctx, b, rec.Blocks, append(mv.avoid, eggs.DiskID(b.Blocks[mv.at].Disk)))
	})
}
