package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"eggsfs/blockd"
	"eggsfs/cdc"
	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/gateway/web"
	"eggsfs/gossip"
	"eggsfs/internal/auth"
	"eggsfs/raftgroup"
	"eggsfs/raftshard"
	"eggsfs/upkeep"
	"eggsfs/wire"
)

// Node is one server process.
type Node struct {
	cfg     Config
	log     *slog.Logger
	events  *events
	started time.Time
	id      eggs.NodeID
	key     *auth.Key

	mu       sync.Mutex // guards identity, which says what is on the disk
	identity *identity
	lock     *os.File

	listener *wire.Listener
	udp      net.PacketConn
	host     *raftgroup.Host
	shards   [eggs.Shards]atomic.Pointer[raftshard.Shard]
	cdcState *cdc.Machine
	cdc      atomic.Pointer[cdc.CDC]
	blocks   *blockd.Server
	gossip   *gossip.Gossip
	router   *router
	client   *client.Client
	rpc      *wire.Server
	web      *web.Server
	migrator *upkeep.Migrator // nil without that role
	scrubber atomic.Pointer[upkeep.Scrubber]

	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	closers []func()
	closing sync.Once

	serving  chan struct{} // closed when this node answers, its own requests included
	failed   chan error    // holds why this node must stop
	enrolled atomic.Bool
	refused  atomic.Pointer[string] // why enrolment does not get on
	clocks   clocks
	ready    chan struct{}
	isReady  atomic.Bool
}

// Start starts a node. The order is a story: first it makes sure that the data
// folder is its own and who it is; then it takes its address, so that two
// nodes never fight over one; then it opens what is on its disks, groups
// before anything that could ask them; then it meets the others; and only when
// all of this stands does it answer requests. What needs a majority (to be
// known as a member, to be given replicas) goes on in the background until
// Ready is closed.
//
// It fails with words and leaves nothing running. Kinds: Invalid, InUse,
// Permission, WrongCluster, Version, Corrupt, IO.
func Start(cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, log: cfg.Logger, started: time.Now(), events: newEvents(cfg.Logger),
		ready: make(chan struct{}), serving: make(chan struct{}), failed: make(chan error, 1),
	}
	n.clocks.file, n.clocks.said = cfg.TestClockFile, map[eggs.NodeID]saidClock{}
	n.readShift()
	n.ctx, n.cancel = context.WithCancel(context.Background())
	for _, step := range []func() error{
		n.takeFolder,
		n.listen,
		n.learnCluster, // a joining node asks a seed which cluster it is
		n.openClient,   // our own way to the cluster, ourselves included
		n.openGroups,
		n.openDisks,
		n.openGossip,
		n.serve, // from here on others can ask
		n.openWeb,
		n.openPprof,
	} {
		if err := step(); err != nil {
			n.Close()
			return nil, err
		}
	}
	n.makeMigrator()
	n.background(n.watchClocks)
	close(n.serving)
	n.background(n.watchMembers)
	n.background(n.enrol)
	n.background(n.collect)
	n.background(n.repair)
	n.background(n.scrub)
	n.background(n.retire)
	n.background(n.watchReady)
	n.background(n.reportDisks)
	return n, nil
}

func (n *Node) background(f func(context.Context)) {
	n.wg.Go(func() { f(n.ctx) })
}

// onClose has f called by Close, after what was opened later is closed.
func (n *Node) onClose(f func()) { n.closers = append(n.closers, f) }

// Ready is closed when every replica assigned to this node is a caught-up voter and its disks serve.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Failed gets the error for which this node must stop, such as that it was removed from
// the cluster.
func (n *Node) Failed() <-chan error { return n.failed }

// protocol is the newest version of the protocol, and of the log's entries, that this node knows.
func (n *Node) protocol() uint32 { return wire.MaxVersion }

func (n *Node) fail(err error) {
	select {
	case n.failed <- err:
	default: // one reason is enough
	}
}

// Addr is what others dial.
func (n *Node) Addr() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.identity.advertised()
}

// WebAddr is where the status page is; "" without one.
func (n *Node) WebAddr() string {
	if n.web == nil {
		return ""
	}
	return n.web.Addr()
}

// ReadyLine is what the process prints when it is ready: how to mount.
func (n *Node) ReadyLine() string {
	key := n.identity.KeyFile
	line := fmt.Sprintf("ready: mount with  eggsfuse --key-file %s %s MOUNTPOINT", key, n.Addr())
	if n.identity.First {
		line += fmt.Sprintf("   (copy the key to /etc/eggsfs/cluster.key and --key-file can be left out;"+
			" another node joins with  eggsnode --data DIR --listen HOST:PORT --join %s --key-file %s)",
			n.Addr(), key)
	}
	return line
}

// Stop hands leadership over, so that nobody waits for a time-out, and closes.
func (n *Node) Stop(ctx context.Context) error {
	var err error
	if n.host != nil {
		if err = n.host.Handover(ctx); err != nil {
			n.log.Warn("leadership was not handed over everywhere", "err", err)
		}
	}
	if n.gossip != nil {
		n.gossip.Leave(time.Second) // the others need not suspect us first
	}
	n.Close()
	if errors.Is(err, eggs.Unavailable) || errors.Is(err, context.DeadlineExceeded) {
		err = nil // alone, there is nobody to hand over to
	}
	return nil
}

// Close stops at once, in the reverse order of Start. It loses nothing that
// was acknowledged.
func (n *Node) Close() {
	n.closing.Do(func() {
		n.cancel()
		for i := len(n.closers) - 1; i >= 0; i-- {
			n.closers[i]()
		}
		n.wg.Wait()
		if n.lock != nil {
			n.lock.Close()
		}
	})
}
