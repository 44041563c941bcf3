package upkeep

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// Config says what a Collector works with. Zero values mean the defaults.
type Config struct {
	Client   client.Operator
	Leads    func(eggs.ShardID) bool  // which shards Run takes; nil: all
	Interval time.Duration            // between two rounds of Run; default 1 min
	Rate     int                      // changes a second; default 0: no limit but Run's of 1000
	Clock    func() eggs.Time         // a hint of what is due; default: the system's
	Logger   *slog.Logger             // default: discard
	Event    func(level, text string) // what an operator should know; default: none
	Facts    func() *wire.Facts       // as this node has them; nil: the coordinator is asked
}

// Limits of collection.
const (
	DefaultInterval = time.Minute
	runRate         = 1000             // changes a second in the background: a tenth of what a shard takes
	page            = 1000             // entries asked for at a time
	atOnce          = 4                // shards looked at at a time
	parallel        = 8                // files of one shard taken apart at a time
	leaveFirst      = time.Minute      // a file that could not be finished is left alone
	leaveLongest    = time.Hour        // this long, doubling
	lookAgain       = 10 * time.Minute // a directory with nothing due is looked at again: policies change
	remembered      = 100_000          // things left alone that are remembered; 50 bytes each
	maxRounds       = 64               // of CollectAll: each frees what the one before uncovered
)

// Collector removes what no policy keeps. It is safe for concurrent use.
type Collector struct {
	c     client.Operator
	cfg   Config
	log   *slog.Logger
	limit *rate.Limiter
	facts facts

	mu   sync.Mutex
	left map[eggs.InodeID]leave
	gone int       // how many disks were retired at the last round
	told time.Time // when the last event was sent
}

// leave says until when a file or directory is left alone.
type leave struct {
	until time.Time
	pause time.Duration
}

// NewCollector returns a collector; Run or one of the Collect methods sets it to work.
func NewCollector(cfg Config) *Collector {
	if cfg.Leads == nil {
		cfg.Leads = func(eggs.ShardID) bool { return true }
	}
	if cfg.Interval <= 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Clock == nil {
		cfg.Clock = func() eggs.Time { return eggs.TimeOf(time.Now()) }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Event == nil {
		cfg.Event = func(string, string) {}
	}
	g := &Collector{
		c: cfg.Client, cfg: cfg, log: cfg.Logger,
		limit: rate.NewLimiter(rate.Inf, 0), left: make(map[eggs.InodeID]leave),
		facts: facts{c: cfg.Client, local: cfg.Facts},
	}
	if cfg.Rate > 0 {
		g.limit = rate.NewLimiter(rate.Limit(cfg.Rate), cfg.Rate)
	}
	return g
}

// Run collects the shards that this node leads, again and again until ctx ends.
func (g *Collector) Run(ctx context.Context) {
	if g.cfg.Rate == 0 {
		g.limit.SetBurst(runRate)
		g.limit.SetLimit(runRate)
	}
	t := time.NewTimer(g.cfg.Interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		r := g.round(ctx, g.cfg.Leads)
		if r.Any() || r.Left > 0 || r.Failed > 0 {
			g.log.Info("collection", "report", r.String())
		}
		g.tell(r)
		t.Reset(g.cfg.Interval)
	}
}

// tell sends an event when something was left, at most every ten minutes.
func (g *Collector) tell(r Report) {
	g.mu.Lock()
	due := r.Left+r.Failed > 0 && time.Since(g.told) > lookAgain
	if due {
		g.told = time.Now()
	}
	g.mu.Unlock()
	if due {
		g.cfg.Event("warn", r.String())
	}
}

// CollectAll collects every shard until nothing more can go.
func (g *Collector) CollectAll(ctx context.Context) (Report, error) {
	var sum Report
	for range maxRounds {
		g.forget()
		r := g.round(ctx, func(eggs.ShardID) bool { return true })
		left, failed := r.Left, r.Failed
		sum.Left, sum.Failed = 0, 0 // what is left is what the last round left
		sum.Add(r)
		sum.Left, sum.Failed = left, failed
		if ctx.Err() != nil {
			return sum, &eggs.Error{Op: "upkeep.CollectAll", Kind: eggs.Canceled, Err: ctx.Err()}
		}
		if !r.Any() {
			break
		}
	}
	return sum, g.verdict("upkeep.CollectAll", sum)
}

// verdict is the error of a collection that had to leave something.
func (g *Collector) verdict(op string, r Report) error {
	if r.Failed == 0 && r.Left == 0 {
		return nil
	}
	return eggs.E(op, eggs.Unavailable, r.String())
}

// round looks at each of the shards once.
func (g *Collector) round(ctx context.Context, takes func(eggs.ShardID) bool) Report {
	var t tally
	g.retired(ctx)
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for s := range eggs.Shards {
		shard := eggs.ShardID(s)
		if ctx.Err() != nil {
			break
		}
		if !takes(shard) {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := g.directories(ctx, shard, &t); err != nil {
				t.failed(err)
			}
			if err := g.transients(ctx, shard, &t); err != nil {
				t.failed(err)
			}
		})
	}
	wg.Wait()
	return t.report()
}

// retired has everything looked at again when a disk was retired since the
// last round: what waited for it need not any more.
func (g *Collector) retired(ctx context.Context) {
	f, err := g.facts.get(ctx)
	if err != nil {
		return // nothing is known of disks; those that fail are left
	}
	n := 0
	for _, d := range f.GetDisks() {
		if d.Retired {
			n++
		}
	}
	g.mu.Lock()
	more := n > g.gone
	g.gone = n
	g.mu.Unlock()
	if more {
		g.forget()
	}
}

// directories collects the directories of a shard that are due.
func (g *Collector) directories(ctx context.Context, shard eggs.ShardID, t *tally) error {
	var now eggs.Time
	for after := uint64(0); ; {
		ans, err := g.c.Query(ctx, &wire.ShardQuery{
			Shard: uint32(shard),
			Query: &wire.ShardQuery_ListDirs{ListDirs: &wire.ListDirs{
				After: after, Limit: page, Due: true,
			}},
		})
		if err != nil {
			return err
		}
		dirs := ans.GetListDirs()
		for _, id := range dirs.GetIds() {
			after = id
			dir := eggs.InodeID(id)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if g.leftAlone(dir) {
				continue
			}
			if now == 0 {
				if now, err = g.now(ctx, shard); err != nil {
					return err
				}
			}
			h := &history{g: g, t: t, dir: dir, now: now}
			if err := h.collect(ctx); err != nil {
				t.failed(err)
			}
		}
		if dirs.GetEnd() || len(dirs.GetIds()) == 0 {
			return nil
		}
	}
}

// now is the group's time, by the clock of its leader.
func (g *Collector) now(ctx context.Context, shard eggs.ShardID) (eggs.Time, error) {
	if err := g.limit.Wait(ctx); err != nil {
		return 0, err
	}
	reply, err := g.c.Shard(ctx, shard)
	if err != nil {
		return 0, err
	}
	return eggs.Time(reply.Time), nil
}

// leftAlone reports whether a thing is not to be looked at now.
func (g *Collector) leftAlone(id eggs.InodeID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	l, ok := g.left[id]
	return ok && time.Now().Before(l.until)
}

// leaveAlone has a thing looked at again after d; 0: after a pause that doubles each time.
func (g *Collector) leaveAlone(id eggs.InodeID, d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l, known := g.left[id]
	if !known && len(g.left) >= remembered {
		return // it is looked at each time
	}
	if d == 0 {
		l.pause = min(max(2*l.pause, leaveFirst), leaveLongest)
		d = l.pause
	}
	l.until = time.Now().Add(d)
	g.left[id] = l
}

// done forgets a thing that is gone.
func (g *Collector) done(id eggs.InodeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.left, id)
}

// forget has everything looked at.
func (g *Collector) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.left)
}
