package raftgroup

import (
	"context"
	"log/slog"
	"net"
	"time"

	"eggsfs/eggs"
)

// Config says who this node is and how it reaches the others. The functions
// must be safe for concurrent use.
type Config struct {
	Dir     string         // where log and state live; this room alone writes there
	Node    eggs.NodeID    // who we are, for ever
	Cluster eggs.ClusterID // frames of another cluster are refused
	Logger  *slog.Logger   // nil: discard

	// Dial connects to a node's Raft port. An error that is ECONNREFUSED
	// (errors.Is) tells that no process listens there; everything else tells nothing.
	Dial func(ctx context.Context, node eggs.NodeID) (net.Conn, error)

	// Fatal is told that this node can no longer keep its promises (a log that
	// does not sync, a corrupt store) and must end. nil: panic.
	Fatal func(error)

	// Event is told what an operator wants to know: level is "info" or "warn".
	Event func(level, text string)

	Timers   Timers // zero fields take the defaults
	InMemory bool   // state without a disk, for tests

	// MustExist refuses to begin with an empty folder: a node whose identity says
	// that it was here before has lost its votes, and must come back as another.
	MustExist bool

	Truncate TruncateLimits // when the log is truncated; zero fields take the defaults
}

// Timers are the rhythm of a node. Raft's own timers are long on purpose: what
// a group costs while idle is proportional to their number, and node-level
// signals drive failover long before they fire.
type Timers struct {
	// Raft is heartbeat, election and lease time-out of every group. More costs
	// a later election in the cases that node-level signals miss; less costs
	// idle CPU: each follower of each group hears a heartbeat every tenth of it.
	Raft time.Duration

	// Commit is how late a follower learns that the last entry of a group that
	// fell idle is committed. Less costs an empty append to each follower of
	// each group in that time.
	Commit time.Duration

	// CommitCDC is Commit for the coordinator's group: every node reads the
	// cluster's facts from its own replica, so it hears of changes soon.
	CommitCDC time.Duration

	// Ping is how often nodes ask each other for a sign of life.
	Ping time.Duration

	// Silent is how long a node may be silent before it is reported down, and
	// how long a leader goes without a majority before it answers Unavailable.
	// Less takes over sooner from a hung node and mistakes a busy one for it.
	Silent time.Duration

	// Hung is how long a node may be silent before its connection is given up.
	Hung time.Duration

	// Turn is how long a survivor waits for the one before it to take a group over. Less
	// makes two stand at one time when disks are busy, and neither wins.
	Turn time.Duration

	// Grace is how long the first of a group's candidates waits for voters that
	// are missing, at a start: one of them may lead.
	Grace time.Duration

	// Settle is how long a node must have been in contact before leaderships
	// move back to it.
	Settle time.Duration
}

func (t *Timers) fill() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.Raft, 20*time.Second)
	set(&t.Commit, 20*time.Second)
	set(&t.CommitCDC, 150*time.Millisecond)
	set(&t.Ping, 250*time.Millisecond)
	set(&t.Silent, time.Second)
	set(&t.Hung, 5*time.Second)
	set(&t.Turn, time.Second)
	set(&t.Grace, 300*time.Millisecond)
	set(&t.Settle, 3*time.Second)
}

// Limits. Each bounds memory or time that a peer or a caller can cost us.
const (
	MaxEntry        = 2 << 20  // bytes of one proposal: 16 spans of MaxInline and their verbs, twice
	maxFlying       = 4096     // proposals of one group not yet answered: 16 batches of the log
	maxAppend       = 128      // entries of one append; raft makes room for all of them each time
	maxEntries      = 1024     // entries of a received append: the most that raft allows
	maxChunk        = 1 << 20  // bytes of entries in one frame: others' frames wait behind it
	maxFrame        = 4 << 20  // bytes of one frame: maxChunk + MaxEntry + headers
	maxHello        = 1 << 10  // bytes of a first frame, from someone not yet known
	maxOut          = 8 << 20  // bytes waiting for one connection: 20 ms of a fast one
	maxSession      = 64 << 20 // bytes of requests of one peer not yet answered
	maxInbox        = 256      // requests of one group and connection waiting for raft
	maxPiped        = 64       // appends of one group and follower on their way
	maxConsumer     = 64       // requests handed to one group's raft and not yet taken
	maxSnapshots    = 4        // snapshots on their way, each direction: their disk is one
	maxRounds       = 4        // read rounds on their way: more means smaller rounds
	maxMoves        = 32       // leaderships moved at one time, so that most groups serve
	maxConfigBytes  = 64 << 10 // bytes of a group's configuration: 1,000 members
	maxPeers        = 1024     // nodes of a cluster; bounds what a ping may list
	maxSnapshotSize = 1 << 40  // bytes of a snapshot, to refuse nonsense
)

// How long requests between nodes may take before they count as failed.
const (
	dialTime     = 2 * time.Second        // connect, TLS and greeting
	voteTime     = 2 * time.Second        // a vote waits for one fsync
	appendTime   = 10 * time.Second       // an append waits for an fsync on a busy disk
	beatTime     = 5 * time.Second        // a quarter of Timers.Raft
	askTime      = time.Second            // a read round asks memory only
	patience     = 250 * time.Millisecond // between two tries at a replica that is not open yet
	reconnect    = time.Minute            // a stalled replication waits this long for its peer
	stallTime    = 10 * time.Second       // a snapshot that moves no byte for so long is given up
	installTime  = 5 * time.Minute        // loading a received snapshot into the state
	redialMin    = 25 * time.Millisecond
	redialMax    = time.Second
	enqueueTime  = 5 * time.Second // a proposal that raft's loop does not take
	transferTime = time.Second     // one move of a leadership
)
