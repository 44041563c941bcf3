package raftshard

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// Group is what a shard needs of its raft group.
type Group interface {
	// Propose replicates an entry and returns what Apply returned here.
	Propose(ctx context.Context, data []byte) (any, error)
	// Read returns the state as of now, as every client sees it.
	Read(ctx context.Context) (raftgroup.View, error)
	// Local returns the state that this replica has applied.
	Local() raftgroup.View
	// Leads reports whether this replica leads, as far as it knows.
	Leads() bool
	// OnLead calls f each time this replica starts to lead; ctx ends when it stops.
	OnLead(f func(ctx context.Context))
}

// BlockChoice asks for disks for a new span.
type BlockChoice struct {
	File      eggs.InodeID
	Parity    eggs.Parity
	BlockSize uint32        // bytes on each disk
	Class     uint8         // storage class
	Blacklist []eggs.DiskID // not these: they failed the writer
	Prefer    []eggs.DiskID // rather these: the file is on them already
	Apart     []eggs.DiskID // not these, and as far from them as can be: they hold the span's other blocks
}

// Blocks is what a leader knows of disks.
type Blocks interface {
	// Choose picks where blocks go: one disk for each block, distinct, in the
	// order of the blocks. It answers at once and fails with Kind NoSpace.
	Choose(BlockChoice) ([]eggs.DiskID, error)
	// Retired reports whether a disk is surely retired: its blocks are given up.
	Retired(eggs.DiskID) bool
}

// Config is what a shard is made of.
type Config struct {
	Shard   eggs.ShardID
	Group   Group
	Machine *Machine
	Key     *auth.Key        // nil: the machine's
	Blocks  Blocks           // nil: no span of blocks can be started
	Clock   func() eggs.Time // this node's clock; nil: the system's
	Logger  *slog.Logger     // nil: discard
}

// Limits of what a shard does at once.
const (
	// maxChanges is the requests under way; each waits for a majority's disks. It is
	// more than the callers one shard has, and bounds what a slow disk piles up.
	maxChanges = 4096
	// maxChangeBytes is their bytes: MaxRequestBytes × 32.
	maxChangeBytes = 64 << 20
	// maxQueries is the queries under way; more would only wait for a processor.
	maxQueries = 1024
)

// Shard answers for one shard on this node: requests where it leads.
type Shard struct {
	id      eggs.ShardID
	group   Group
	machine *Machine
	key     *auth.Key
	blocks  Blocks
	clock   func() eggs.Time
	logger  *slog.Logger
	changes atomic.Int64
	bytes   atomic.Int64
	queries atomic.Int64
	stats   counters
	bad     badBlocks
}

// counters are what Stats shows.
type counters struct {
	changes, answered, refused, failed, busy, queries, entries atomic.Uint64
}

// Stats counts what a shard did on this node since it started.
type Stats struct {
	Changes  uint64 // requests that were replicated
	Answered uint64 // of them, retries answered from memory without the log
	Refused  uint64 // of them, answered with an error
	Failed   uint64 // requests that were not, or not surely, replicated
	Busy     uint64 // requests and queries turned away at a limit
	Queries  uint64 // queries answered
	Entries  uint64 // directory entries listed
	Underway int64  // requests under way now
}

// New returns a shard that answers from its group.
func New(c Config) *Shard {
	s := &Shard{
		id: c.Shard, group: c.Group, machine: c.Machine, key: c.Key, blocks: c.Blocks,
		clock: c.Clock, logger: c.Logger,
	}
	if s.key == nil {
		s.key = c.Machine.key
	}
	if s.blocks == nil {
		s.blocks = noBlocks{}
	}
	if s.clock == nil {
		s.clock = func() eggs.Time { return eggs.TimeOf(time.Now()) }
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	s.group.OnLead(s.onLead)
	return s
}

type noBlocks struct{}

func (noBlocks) Choose(BlockChoice) ([]eggs.DiskID, error) {
	return nil, eggs.E("raftshard.Choose", eggs.NoSpace, "no disks are known")
}

func (noBlocks) Retired(eggs.DiskID) bool { return false }

// onLead writes the shard's first entry if there is none.
func (s *Shard) onLead(ctx context.Context) {
	for ctx.Err() == nil {
		view := s.group.Local()
		_, ok := view.Get([]byte{tableVersion})
		view.Close()
		if ok {
			return
		}
		_, err := s.group.Propose(ctx, encode(&wire.ShardEntry{
			Clock: int64(s.clock()), Version: FormatVersion,
			Request: &wire.ShardRequest{Shard: uint32(s.id)},
		}))
		if err == nil {
			return
		}
		s.logger.Debug("shard not started yet", "shard", s.id, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Do changes the shard. An error means that this node could not say, such as
// NotLeader or Indeterminate; a refusal of the verbs is in the reply.
func (s *Shard) Do(ctx context.Context, req *wire.ShardRequest) (*wire.ShardReply, error) {
	if err := checkRequest(s.id, req); err != nil {
		return &wire.ShardReply{Error: wire.ErrorOf(err)}, nil
	}
	size := int64(req.SizeVT())
	defer s.changes.Add(-1)
	defer s.bytes.Add(-size)
	if s.changes.Add(1) > maxChanges || s.bytes.Add(size) > maxChangeBytes {
		return nil, s.busy("raftshard.Do")
	}
	reply, data, err := s.prepare(ctx, req)
	if reply != nil {
		s.stats.answered.Add(1)
		return seal(s.key, reply), nil
	}
	if err != nil {
		return &wire.ShardReply{Error: wire.ErrorOf(err)}, nil
	}
	res, err := s.group.Propose(ctx, data)
	if err != nil {
		s.stats.failed.Add(1)
		return nil, err
	}
	reply, ok := res.(*wire.ShardReply)
	if !ok {
		s.stats.failed.Add(1)
		return nil, eggs.E("raftshard.Do", eggs.Indeterminate, "the answer was lost")
	}
	s.stats.changes.Add(1)
	if reply.Error != nil {
		s.stats.refused.Add(1)
	}
	return seal(s.key, reply), nil
}

func (s *Shard) busy(op string) error {
	s.stats.busy.Add(1)
	return eggs.E(op, eggs.Busy, "the shard has all it can do")
}

// Stats returns what was counted.
func (s *Shard) Stats() Stats {
	return Stats{
		Changes: s.stats.changes.Load(), Answered: s.stats.answered.Load(),
		Refused: s.stats.refused.Load(), Failed: s.stats.failed.Load(),
		Busy: s.stats.busy.Load(), Queries: s.stats.queries.Load(),
		Entries: s.stats.entries.Load(), Underway: s.changes.Load(),
	}
}
