package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

// DefaultTimeout is how long one call waits through failovers: several times the slowest one.
const DefaultTimeout = 30 * time.Second

// Limits of one client.
const (
	dialTimeout    = 2 * time.Second        // TCP and TLS of a peer that answers take milliseconds
	attemptTimeout = 5 * time.Second        // a leader that needs longer is asked again, exactly once
	pingEvery      = 600 * time.Millisecond // a hung node is given up after 2.5 of these
	tickEvery      = 5 * time.Second        // idle connections and buffers, writers to keep alive
	redialAfter    = 100 * time.Millisecond // a node that refused is not dialled by every caller
)

// Local answers requests to the node that the client runs in, without a
// network. What it returns is only read.
type Local func(ctx context.Context, m wire.Method, req wire.Message) (wire.Message, error)

// Options make a client of a Router; Config makes one of addresses.
type Options struct {
	Router   Router
	Key      *auth.Key      // for TLS; nil when Dial does it
	Cluster  eggs.ClusterID // 0: the one that the Router names
	Self     eggs.NodeID    // the node that this client runs in; 0: none
	Local    Local          // answers requests to Self; nil: they are dialled too
	Software string         // version of the binary, for people
	Logger   *slog.Logger   // default: discard
	Timeout  time.Duration  // default DefaultTimeout
	BlockTLS string         // auto, on or off; default auto: off to loopback addresses

	// Dial connects and speaks TLS with that ALPN, or plain TCP when alpn is
	// empty. Default: TCP and Key. Tests bring their own.
	Dial func(ctx context.Context, addr, alpn string) (net.Conn, error)
}

// Client is the library's one type; it implements Operator. It is safe for
// concurrent use.
type Client struct {
	o       Options
	log     *slog.Logger
	id      uint64 // random, names this client to the groups' sessions
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	closing sync.Once
	spawned sync.RWMutex // held while wg may grow; closed is under it
	closed  bool

	picture atomic.Pointer[picture]
	hints   [eggs.Groups]atomic.Pointer[hint]
	peers   peers
	slots   [eggs.Groups]slot
	blocks  blockConns
	bad     badDisks
	reports badReports
	policy  policyCache
	budget  atomic.Int64 // bytes of read-ahead that may still be held
	files   openFiles
	streams atomic.Int64 // writers whose spans are large
	count   counters
	watcher *watcher // when Open made it
}

var _ Operator = (*Client)(nil)

// Open connects to a cluster by the addresses of any of its nodes and waits
// for the first picture of it. Kinds: Unavailable or Timeout when no node
// answers; Permission, WrongCluster and Version when all that answer refuse.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	if len(cfg.Addrs) == 0 {
		return nil, eggs.E("client.Open", eggs.Invalid, "no address of a node is given")
	}
	path := cfg.KeyFile
	if path == "" {
		path = FindKeyFile()
	}
	key, err := auth.LoadKey(path)
	if err != nil {
		return nil, &eggs.Error{Op: "client.Open", Err: err}
	}
	w := newWatcher(cfg.Addrs)
	c, err := New(Options{
		Router: w, Key: key, Logger: cfg.Logger, Timeout: cfg.Timeout, BlockTLS: cfg.BlockTLS,
	})
	if err != nil {
		return nil, err
	}
	c.watcher = w
	c.wg.Go(func() { w.run(c) })
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	if err := w.wait(ctx); err != nil {
		c.Close()
		return nil, &eggs.Error{Op: "client.Open", Err: err}
	}
	return c, nil
}

// FindKeyFile returns the first of the places where a cluster's key is looked
// for: $EGGS_KEY_FILE, $XDG_CONFIG_HOME/eggsfs/cluster.key, /etc/eggsfs/cluster.key.
func FindKeyFile() string {
	const system = "/etc/eggsfs/cluster.key"
	if p := os.Getenv("EGGS_KEY_FILE"); p != "" {
		return p
	}
	if dir, err := os.UserConfigDir(); err == nil {
		p := filepath.Join(dir, "eggsfs", "cluster.key")
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return system
}

// New makes a client that is routed by o.Router.
func New(o Options) (*Client, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	switch o.BlockTLS {
	case "":
		o.BlockTLS = "auto"
	case "auto", "on", "off":
	default:
		return nil, eggs.E("client.New", eggs.Invalid, "BlockTLS is auto, on or off")
	}
	if o.Dial == nil {
		d, err := dialer(o.Key, o.Self)
		if err != nil {
			return nil, &eggs.Error{Op: "client.New", Err: err}
		}
		o.Dial = d
	}
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, &eggs.Error{Op: "client.New", Kind: eggs.IO, Err: err}
	}
	c := &Client{o: o, log: o.Logger, id: binary.LittleEndian.Uint64(seed[:])}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.peers.byID = make(map[eggs.NodeID]*peer)
	c.budget.Store(readAheadBudget)
	for g := range c.slots {
		c.slots[g].opening = make(chan struct{}, 1)
	}
	c.wg.Go(c.tick)
	return c, nil
}

// dialer speaks TLS with certificates that key mints, or plain TCP without an ALPN.
func dialer(key *auth.Key, self eggs.NodeID) (
	func(ctx context.Context, addr, alpn string) (net.Conn, error), error,
) {
	if key == nil {
		return nil, eggs.E("client.New", eggs.Invalid, "neither a key nor a dialer is given")
	}
	configs := make(map[string]*tls.Config)
	for _, alpn := range []string{wire.ALPNRPC, wire.ALPNBlock} {
		t, err := key.ClientTLS(auth.Identity{Node: self}, alpn)
		if err != nil {
			return nil, err
		}
		configs[alpn] = t
	}
	return func(ctx context.Context, addr, alpn string) (net.Conn, error) {
		if alpn == "" {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
		return wire.DialTLS(ctx, addr, configs[alpn])
	}, nil
}

// tick does what time asks for: it closes what was idle for long, frees
// memory, and keeps open files alive.
func (c *Client) tick() {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		changed := c.o.Router.Changed()
		c.closeDead() // whoever waits for a dead node sees no new picture
		select {
		case <-c.ctx.Done():
			return
		case <-changed:
		case now := <-t.C:
			c.blocks.expire(now.Add(-blockIdle))
			c.files.expireReaders(now.Add(-readerIdle))
			c.files.keepWriters(now)
		}
	}
}

// Close ends the client: open writers are aborted without a request, open
// readers fail.
func (c *Client) Close() error {
	c.closing.Do(func() {
		c.spawned.Lock()
		c.closed = true
		c.spawned.Unlock()
		c.cancel()
		c.peers.close()
		c.blocks.close()
		c.wg.Wait()
		c.blocks.close()
	})
	return nil
}

// spawn runs f in the background, unless the client is closed. Close waits for it.
func (c *Client) spawn(f func()) bool {
	c.spawned.RLock()
	defer c.spawned.RUnlock()
	if c.closed {
		return false
	}
	c.wg.Go(f)
	return true
}

// limit bounds a call by the client's own time-out.
func (c *Client) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.o.Timeout)
}

// fail says which operation on which thing met err.
func fail(op string, inode eggs.InodeID, name string, err error) error {
	if err == nil {
		return nil
	}
	return &eggs.Error{Op: "client." + op, Inode: inode, Name: name, Err: err}
}
