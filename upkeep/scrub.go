package upkeep

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// Defaults of scrubbing.
const (
	DefaultScrubRate = 8 << 20   // bytes/s: 1 TB in a day and a half, a twentieth of a disk's time
	scrubPause       = time.Hour // between two passes of Run
	scrubRetry       = time.Minute
)

// ScrubberConfig says what a Scrubber works with. Zero values mean the defaults.
type ScrubberConfig struct {
	Client client.Operator
	Leads  func(eggs.ShardID) bool // which shards Run takes; nil: all
	Rate   int64                   // bytes/s that disks read; default 8 MiB/s; negative: no limit
	Bad    func(*wire.BadBlock)    // is told of each block that is missing or wrong
	Logger *slog.Logger            // default: discard
	Pause  time.Duration           // between two passes of Run; default 1 h
}

// Scrubber has disks read all blocks and compare them with their checksums, so that
// rot is found while there is parity to mend it. It is safe for concurrent use.
type Scrubber struct {
	c     client.Operator
	cfg   ScrubberConfig
	log   *slog.Logger
	limit *rate.Limiter

	files, blocks, bytes, bad, skipped, passes atomic.Uint64
}

// ScrubStats counts what a Scrubber did since it was made.
type ScrubStats struct {
	Files, Blocks, Bytes uint64 // that were checked
	Bad                  uint64 // blocks that are missing or wrong
	Skipped              uint64 // blocks on disks out of reach
	Passes               uint64 // finished
}

// NewScrubber returns a scrubber; Run, All or File sets it to work.
func NewScrubber(cfg ScrubberConfig) *Scrubber {
	if cfg.Leads == nil {
		cfg.Leads = func(eggs.ShardID) bool { return true }
	}
	if cfg.Bad == nil {
		cfg.Bad = func(*wire.BadBlock) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Pause <= 0 {
		cfg.Pause = scrubPause
	}
	return &Scrubber{c: cfg.Client, cfg: cfg, log: cfg.Logger, limit: limiter(cfg.Rate, DefaultScrubRate)}
}

// Stats returns what was done.
func (s *Scrubber) Stats() ScrubStats {
	return ScrubStats{
		Files: s.files.Load(), Blocks: s.blocks.Load(), Bytes: s.bytes.Load(), Bad: s.bad.Load(),
		Skipped: s.skipped.Load(), Passes: s.passes.Load(),
	}
}

// Run scrubs the files of the shards that this node leads, pass after pass, until ctx ends.
func (s *Scrubber) Run(ctx context.Context) {
	pause := scrubRetry // a node that has just started has better things to do
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = s.cfg.Pause
		if err := s.pass(ctx, s.cfg.Leads); err != nil && ctx.Err() == nil {
			s.log.Info("a scrub was interrupted", "err", err)
			pause = scrubRetry
		}
	}
}

// All scrubs every file of the cluster once.
func (s *Scrubber) All(ctx context.Context) error {
	return s.pass(ctx, func(eggs.ShardID) bool { return true })
}

// pass begins at any shard, so that those at the end have their turn though nodes restart.
func (s *Scrubber) pass(ctx context.Context, takes func(eggs.ShardID) bool) error {
	first := rand.IntN(eggs.Shards)
	for i := range eggs.Shards {
		shard := eggs.ShardID((first + i) % eggs.Shards)
		if !takes(shard) {
			continue
		}
		if err := s.shard(ctx, shard, takes); err != nil {
			return err
		}
	}
	s.passes.Add(1)
	return nil
}

func (s *Scrubber) shard(ctx context.Context, shard eggs.ShardID, takes func(eggs.ShardID) bool) error {
	for after := uint64(0); takes(shard); {
		ans, err := s.c.Query(ctx, &wire.ShardQuery{
			Shard: uint32(shard),
			Query: &wire.ShardQuery_ListFiles{ListFiles: &wire.ListFiles{After: after, Limit: page}},
		})
		if err != nil {
			return err
		}
		got := ans.GetListFiles()
		for _, id := range got.GetIds() {
			after = id
			if eggs.InodeID(id).Kind() != eggs.KindFile {
				continue
			}
			if err := s.File(ctx, eggs.InodeID(id)); err != nil && eggs.KindOf(err) != eggs.NotExist &&
				eggs.KindOf(err) != eggs.Permission {
				return err
			}
		}
		if got.GetEnd() || len(got.GetIds()) == 0 {
			return nil
		}
	}
	return nil
}

// File scrubs one file.
func (s *Scrubber) File(ctx context.Context, id eggs.InodeID) error {
	for offset := int64(0); ; {
		spans, next, err := s.c.BlockSpans(ctx, id, offset)
		if err != nil {
			return err
		}
		for _, span := range spans {
			for i := range span.Blocks {
				if err := s.block(ctx, span, i); err != nil {
					return err
				}
			}
		}
		if offset = next; next == 0 {
			s.files.Add(1)
			return nil
		}
	}
}

// block has one block checked; the error is that of a context that is over, or of the shard.
func (s *Scrubber) block(ctx context.Context, span *client.BlockSpan, i int) error {
	b := span.Blocks[i]
	if err := pay(ctx, s.limit, span.BlockSize()); err != nil {
		return err
	}
	err := s.c.CheckBlock(ctx, b)
	if ctx.Err() != nil {
		return &eggs.Error{Op: "upkeep.Scrub", Kind: eggs.Canceled, Err: ctx.Err()}
	}
	switch eggs.KindOf(err) {
	case eggs.Corrupt, eggs.NotExist:
	default:
		if err != nil {
			s.skipped.Add(1)
			return nil
		}
		s.blocks.Add(1)
		s.bytes.Add(uint64(span.BlockSize()))
		return nil
	}
	now, _, qerr := s.c.BlockSpans(ctx, span.File, span.Offset)
	if qerr != nil {
		return qerr
	}
	if len(now) == 0 || now[0].Offset != span.Offset || now[0].Blocks[i].Block != b.Block {
		return nil // it has moved meanwhile
	}
	s.bad.Add(1)
	s.log.Warn("a block is bad", "file", span.File, "offset", span.Offset, "disk", eggs.DiskID(b.Disk),
		"block", eggs.BlockID(b.Block), "err", err)
	s.cfg.Bad(&wire.BadBlock{File: uint64(span.File), Offset: uint64(span.Offset), Disk: b.Disk, Block: b.Block})
	return nil
}
