package upkeep

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// MigratorConfig says what a Migrator works with. Zero values mean the defaults.
type MigratorConfig struct {
	Client   client.Operator
	Leads    func(eggs.ShardID) bool             // which shards Run takes; nil: all
	Bad      func(eggs.ShardID) []*wire.BadBlock // blocks that were reported here; nil: none are
	Facts    func() *wire.Facts                  // as this node has them; nil: the coordinator is asked
	Interval time.Duration                       // between two looks of Run; default 2 s
	Rate     int64                               // bytes/s made anew; default 64 MiB/s; negative: no limit
	Parallel int                                 // files at a time; default 4
	// SpreadAfter is how long after a failure domain appeared crowded spans are looked for; default 5 s.
	SpreadAfter time.Duration
	Logger      *slog.Logger             // default: discard
	Event       func(level, text string) // what an operator should know; default: none
}

// Limits and defaults of repair.
const (
	DefaultRepairRate = 64 << 20         // bytes/s: half of what one spinning disk writes
	repairInterval    = 2 * time.Second  // between two looks for work; a look without leaving disks is free
	repairParallel    = 4                // files at a time: a span each in memory
	repairMemory      = 192 << 20        // bytes of blocks held at a time: a large span, or many small ones
	repairQueue       = 1_000_000        // files known at a time; 24 bytes each
	lookAtEmpty       = 5 * time.Minute  // a disk that had nothing of a shard is asked again: a writer was late
	repairPause       = 15 * time.Second // a file that could not be repaired is left alone
	repairLongest     = 10 * time.Minute // this long, doubling
	tellRepairs       = 10 * time.Minute // between two events about the same trouble
)

// Migrator makes the blocks of disks that are retired or draining anew on
// others, and those that were reported bad, and moves those that crowd a failure
// domain (spread.go). It is safe for concurrent use.
type Migrator struct {
	c     client.Operator
	cfg   MigratorConfig
	log   *slog.Logger
	limit *rate.Limiter
	facts facts
	held  *semaphore.Weighted // bytes of blocks

	mu    sync.Mutex
	empty map[place]time.Time // shards that have nothing on a leaving disk, since when
	left  map[eggs.InodeID]leave
	bad   map[eggs.InodeID][]*wire.BadBlock // reported, not repaired yet
	told  map[string]time.Time
	queue int // files of the present round that are not done

	stat [7]atomic.Uint64
}

// place is what a shard has on a disk.
type place struct {
	shard eggs.ShardID
	disk  eggs.DiskID
}

// MigratorStats counts what a Migrator did since it was made.
type MigratorStats struct {
	Spans, Blocks, Bytes uint64 // that got new blocks; bytes of those blocks
	Rebuilt              uint64 // of Blocks, from parity
	Failed               uint64 // attempts that did not succeed
	Lost                 uint64 // spans seen with fewer than D good blocks
	Spread               uint64 // of Spans, those that were crowded and got places in other failure domains
	Queued               int    // files of the present round that are to be looked at
}

const (
	statSpans = iota
	statBlocks
	statBytes
	statRebuilt
	statFailed
	statLost
	statSpread
)

// NewMigrator returns a migrator; Run or Once sets it to work.
func NewMigrator(cfg MigratorConfig) *Migrator {
	if cfg.Leads == nil {
		cfg.Leads = func(eggs.ShardID) bool { return true }
	}
	if cfg.Bad == nil {
		cfg.Bad = func(eggs.ShardID) []*wire.BadBlock { return nil }
	}
	if cfg.Interval <= 0 {
		cfg.Interval = repairInterval
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = repairParallel
	}
	if cfg.SpreadAfter <= 0 {
		cfg.SpreadAfter = spreadAfter
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Event == nil {
		cfg.Event = func(string, string) {}
	}
	m := &Migrator{
		c: cfg.Client, cfg: cfg, log: cfg.Logger, limit: limiter(cfg.Rate, DefaultRepairRate),
		held:  semaphore.NewWeighted(repairMemory),
		facts: facts{c: cfg.Client, local: cfg.Facts},
		empty: make(map[place]time.Time), left: make(map[eggs.InodeID]leave),
		bad: make(map[eggs.InodeID][]*wire.BadBlock), told: make(map[string]time.Time),
	}
	return m
}

// limiter lets bytes/s pass, the default when it is 0, all when it is negative.
func limiter(bytes, otherwise int64) *rate.Limiter {
	if bytes == 0 {
		bytes = otherwise
	}
	if bytes < 0 {
		return rate.NewLimiter(rate.Inf, 1<<30)
	}
	return rate.NewLimiter(rate.Limit(bytes), int(min(max(bytes/4, 1<<20), 1<<30)))
}

// pay waits until n bytes may pass.
func pay(ctx context.Context, l *rate.Limiter, n int64) error {
	for n > 0 {
		part := min(n, int64(l.Burst()))
		if err := l.WaitN(ctx, int(part)); err != nil {
			return &eggs.Error{Op: "upkeep.Wait", Kind: eggs.Canceled, Err: err}
		}
		n -= part
	}
	return nil
}

// Stats returns what was done.
func (m *Migrator) Stats() MigratorStats {
	m.mu.Lock()
	queued := m.queue
	m.mu.Unlock()
	return MigratorStats{
		Spans: m.stat[statSpans].Load(), Blocks: m.stat[statBlocks].Load(), Bytes: m.stat[statBytes].Load(),
		Rebuilt: m.stat[statRebuilt].Load(), Failed: m.stat[statFailed].Load(), Lost: m.stat[statLost].Load(),
		Spread: m.stat[statSpread].Load(), Queued: queued,
	}
}

// Run repairs what is in the shards that this node leads, and spreads what is crowded there when
// nothing else is to do, until ctx ends.
func (m *Migrator) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { newSpreader(m).run(ctx) })
	t := time.NewTimer(m.cfg.Interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		done, _, err := m.round(ctx, m.cfg.Leads, nil)
		if err != nil && ctx.Err() == nil {
			m.log.Info("repair", "err", err)
		}
		next := m.cfg.Interval
		if done > 0 {
			next = time.Millisecond // there may be more
		}
		t.Reset(next)
	}
}

// Once empties the disks given, or with none all that are leaving, as far as
// it can, in every shard. It returns what is left when nothing more can be done.
func (m *Migrator) Once(ctx context.Context, disks []eggs.DiskID) (MigratorStats, error) {
	for {
		done, failed, err := m.round(ctx, func(eggs.ShardID) bool { return true }, disks)
		if err != nil {
			return m.Stats(), &eggs.Error{Op: "upkeep.Migrate", Err: err}
		}
		if done == 0 && failed == nil {
			return m.Stats(), nil
		}
		if done == 0 {
			return m.Stats(), &eggs.Error{Op: "upkeep.Migrate", Err: failed}
		}
	}
}

// task is a file with blocks to make anew.
type task struct {
	file eggs.InodeID
	dead uint16 // disks that it has blocks on and that are given up
	all  uint16 // disks that it has blocks on and that are leaving
}

// round looks once for work and does it, files with the most blocks lost
// first. done is how many spans got new blocks; failed why some did not.
func (m *Migrator) round(ctx context.Context, takes func(eggs.ShardID) bool, only []eggs.DiskID) (
	done int, failed error, err error,
) {
	f, err := m.facts.get(ctx)
	if err != nil {
		return 0, nil, err
	}
	leaving := LeavingDisks(f)
	if only != nil {
		for d := range leaving {
			if !slices.Contains(only, d) {
				delete(leaving, d)
			}
		}
	}
	tasks, err := m.find(ctx, takes, leaving)
	if err != nil {
		return 0, nil, err
	}
	slices.SortFunc(tasks, func(a, b task) int {
		return cmp.Or(cmp.Compare(b.dead, a.dead), cmp.Compare(b.all, a.all), cmp.Compare(a.file, b.file))
	})
	w := &work{m: m, leaving: leaving}
	slots := make(chan struct{}, m.cfg.Parallel)
	var wg sync.WaitGroup
	for i, t := range tasks {
		m.setQueue(len(tasks) - i)
		if ctx.Err() != nil || m.changed(ctx, f) {
			break // another disk may be more urgent
		}
		if !takes(t.file.Shard()) || m.leftAlone(t.file) {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			w.file(ctx, t.file)
		})
	}
	wg.Wait()
	m.setQueue(0)
	if ctx.Err() != nil {
		return w.done, w.err, &eggs.Error{Op: "upkeep.Migrate", Kind: eggs.Canceled, Err: ctx.Err()}
	}
	return w.done, w.err, nil
}

// changed reports whether there are newer facts.
func (m *Migrator) changed(ctx context.Context, f *wire.Facts) bool {
	now, err := m.facts.get(ctx)
	return err == nil && now.GetVersion() != f.GetVersion()
}

func (m *Migrator) setQueue(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue = n
}

// find lists the files that have blocks to make anew, by the shards' index.
func (m *Migrator) find(ctx context.Context, takes func(eggs.ShardID) bool, leaving map[eggs.DiskID]Leaving) (
	[]task, error,
) {
	var tasks []task
	for s := range eggs.Shards {
		shard := eggs.ShardID(s)
		if !takes(shard) {
			continue
		}
		files := make(map[eggs.InodeID]task)
		for _, b := range m.cfg.Bad(shard) {
			m.report(b)
		}
		for _, id := range m.reported(shard) {
			files[id] = task{file: id, dead: 1, all: 1}
		}
		for d, why := range leaving {
			if err := m.onDisk(ctx, place{shard, d}, why, files); err != nil {
				return nil, err
			}
		}
		for _, t := range files {
			tasks = append(tasks, t)
		}
		if len(tasks) >= repairQueue {
			break // the next round finds the rest
		}
	}
	return tasks, nil
}

// onDisk adds the files of a shard that have blocks on a leaving disk.
func (m *Migrator) onDisk(ctx context.Context, p place, why Leaving, files map[eggs.InodeID]task) error {
	m.mu.Lock()
	since, empty := m.empty[p]
	m.mu.Unlock()
	if empty && time.Since(since) < lookAtEmpty {
		return nil
	}
	found := false
	for after := uint64(0); ; {
		got, err := filesOnDisk(ctx, m.c, p, after)
		if err != nil {
			return err
		}
		for _, id := range got.GetFiles() {
			after, found = id, true
			t := files[eggs.InodeID(id)]
			t.file, t.all = eggs.InodeID(id), t.all+1
			if why == Retired {
				t.dead++
			}
			files[t.file] = t
		}
		if got.GetEnd() || len(got.GetFiles()) == 0 || len(files) >= repairQueue {
			break
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if delete(m.empty, p); !found {
		m.empty[p] = time.Now()
	}
	return nil
}

func filesOnDisk(ctx context.Context, c client.Operator, p place, after uint64) (*wire.DiskFiles, error) {
	ans, err := c.Query(ctx, &wire.ShardQuery{
		Shard: uint32(p.shard),
		Query: &wire.ShardQuery_FilesOnDisk{FilesOnDisk: &wire.FilesOnDisk{Disk: uint64(p.disk), After: after}},
	})
	return ans.GetFilesOnDisk(), err
}

// report remembers a bad block.
func (m *Migrator) report(b *wire.BadBlock) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := eggs.InodeID(b.GetFile())
	for _, known := range m.bad[id] {
		if known.Block == b.GetBlock() {
			return
		}
	}
	if len(m.bad) < remembered {
		m.bad[id] = append(m.bad[id], b)
	}
}

// reported lists the files of a shard with blocks that were reported.
func (m *Migrator) reported(shard eggs.ShardID) (ids []eggs.InodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.bad {
		if id.Shard() == shard {
			ids = append(ids, id)
		}
	}
	return ids
}

// Report has a block looked at and, if it is bad, made anew.
func (m *Migrator) Report(b *wire.BadBlock) { m.report(b) }
