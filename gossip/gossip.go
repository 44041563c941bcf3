package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"eggsfs/eggs"
)

// Timings.
const (
	// refreshEvery is how often this node looks at itself: free space and load
	// reach the others within this and some.
	refreshEvery = 5 * time.Second
	// reconnectEvery is how often one dead member is dialed: less brings a healed
	// partition together sooner and costs more dials into the void.
	reconnectEvery = 2 * time.Second
	// streamTime bounds one exchange of states.
	streamTime = 3 * time.Second
	// retransmit is how often a record is sent, times the logarithm of the members: more
	// reaches all more surely, and whoever is missed fetches it.
	retransmit = 6
	// maxJoining is how many addresses are joined at a time.
	maxJoining = 8
)

// Config says who this node is and how it reaches others.
type Config struct {
	Node      eggs.NodeID
	Cluster   eggs.ClusterID // must be known: a newcomer learns it from a hello
	Advertise string         // HOST:PORT of this node
	Keys      [][]byte       // auth.Key.GossipKeys: the one to seal with first
	Dial      func(ctx context.Context, addr string) (net.Conn, error)
	UDP       net.PacketConn   // closed by Close
	Self      func() NodeInfo  // what to say of this node; called now and then
	Clock     func() eggs.Time // default: the machine's
	Logger    *slog.Logger     // default: discard
}

// Gossip is this node's membership. It is safe for concurrent use.
type Gossip struct {
	cfg       Config
	list      *memberlist.Memberlist
	transport *transport
	bridge    *bridge
	queue     *memberlist.TransmitLimitedQueue
	view      atomic.Pointer[View]
	alive     atomic.Int64

	mu      sync.Mutex
	members map[eggs.NodeID]*member // this node's too
	meta    []byte                  // what this node announces
	leaving bool
	changed chan struct{} // closed by publish

	push    chan struct{} // 1 deep: look at Self and spread what changed
	dialing atomic.Bool   // see reconnect and exchange
	version atomic.Uint64 // of this node's record
	quit    chan struct{}
	once    sync.Once
	done    chan struct{}
}

// Open starts to gossip, alone until Join or until another joins this node.
func Open(cfg Config) (*Gossip, error) {
	invalid := func(text string) error { return eggs.E("gossip.Open", eggs.Invalid, text) }
	switch {
	case cfg.Node == 0 || cfg.Cluster == 0:
		return nil, invalid("a node id and a cluster id are needed")
	case cfg.Dial == nil || cfg.UDP == nil || cfg.Self == nil:
		return nil, invalid("Dial, UDP and Self are needed")
	case len(cfg.Keys) == 0:
		return nil, invalid("a gossip key is needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = func() eggs.Time { return eggs.TimeOf(time.Now()) }
	}
	g := &Gossip{
		cfg: cfg, members: map[eggs.NodeID]*member{}, changed: make(chan struct{}),
		push: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	g.view.Store(&View{})
	self := g.self()
	g.meta = (&meta{cluster: cfg.Cluster, info: self}).encode()
	if len(g.meta) > maxMeta {
		return nil, invalid(fmt.Sprintf("address, http, domain and version take %d bytes; "+
			"the limit is %d", len(g.meta), maxMeta))
	}
	if len(self.Disks) > maxDisks {
		return nil, invalid(fmt.Sprintf("more than %d disks", maxDisks))
	}
	ring, err := memberlist.NewKeyring(cfg.Keys, cfg.Keys[0])
	if err != nil {
		return nil, &eggs.Error{Op: "gossip.Open", Kind: eggs.Invalid, Err: err}
	}
	label := "eggs " + cfg.Cluster.String()
	g.bridge = newBridge(cfg.Logger)
	g.transport = newTransport(&g.cfg, label)
	mc := g.listConfig(label, ring)
	g.queue = &memberlist.TransmitLimitedQueue{
		NumNodes:       func() int { return int(g.alive.Load()) },
		RetransmitMult: retransmit,
	}
	if g.list, err = memberlist.Create(mc); err != nil {
		g.transport.Shutdown()
		return nil, &eggs.Error{Op: "gossip.Open", Kind: eggs.Invalid, Err: err}
	}
	g.refresh(true)
	go g.run()
	return g, nil
}

// listConfig sets memberlist up; see Timing in the package comment.
func (g *Gossip) listConfig(label string, ring *memberlist.Keyring) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	d := delegate{g}
	c.Name = g.cfg.Node.String()
	c.Transport = g.transport
	c.Label, c.Keyring = label, ring
	c.Delegate, c.Events, c.Alive, c.Ping = d, d, d, d
	c.DelegateProtocolMin, c.DelegateProtocolMax, c.DelegateProtocolVersion = 1, 1, 1
	c.Logger = g.bridge.logger()
	c.EnableCompression = false // packets are small, and CPU is dearer than bytes
	c.TCPTimeout = streamTime
	// Less finds the dead sooner, costs CPU on every node, and takes a
	// starved machine for a dead one.
	c.ProbeInterval, c.ProbeTimeout = 400*time.Millisecond, 200*time.Millisecond
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = 3, 2
	c.AwarenessMaxMultiplier = 4
	c.GossipInterval = 200 * time.Millisecond
	c.PushPullInterval = 15 * time.Second
	return c
}

func (g *Gossip) now() eggs.Time { return g.cfg.Clock() }

// self is what the node says of itself, with what must be so.
func (g *Gossip) self() NodeInfo {
	s := g.cfg.Self()
	s.ID, s.Addr = g.cfg.Node, g.cfg.Advertise
	s.Disks = slices.Clone(s.Disks)
	return s
}

// ServeConn takes a stream that a peer opened. It does not wait for its end.
func (g *Gossip) ServeConn(conn net.Conn) { g.transport.serve(conn) }

// Update tells that Self has changed: what others should know now is spread at once.
func (g *Gossip) Update() { g.poke(g.push) }

func (g *Gossip) poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Join exchanges states with the nodes at some addresses, and returns how many answered. It
// fails when none did, with Kind Permission when it was for the key, else Unavailable.
func (g *Gossip) Join(ctx context.Context, addrs []string) (int, error) {
	type result struct {
		addr string
		err  error
	}
	results := make(chan result, len(addrs))
	places := make(chan struct{}, maxJoining)
	n := 0
	for _, addr := range addrs {
		if addr == g.cfg.Advertise || addr == "" {
			continue
		}
		n++
		go func() {
			select {
			case places <- struct{}{}:
				results <- result{addr, g.joinOne(addr)}
				<-places
			case <-ctx.Done():
				results <- result{addr, ctx.Err()}
			}
		}()
	}
	joined := 0
	var worst error
	var texts []string
	for range n {
		select {
		case r := <-results:
			if r.err == nil {
				joined++
				continue
			}
			texts = append(texts, r.addr+": "+r.err.Error())
			if worst == nil || errors.Is(r.err, eggs.Permission) {
				worst = r.err
			}
		case <-ctx.Done():
			texts = append(texts, ctx.Err().Error())
		}
	}
	if joined > 0 || n == 0 {
		return joined, nil
	}
	e := &eggs.Error{
		Op: "gossip.Join", Kind: eggs.Unavailable,
		Err: errors.New(strings.Join(texts, "; ")),
	}
	if errors.Is(worst, eggs.Permission) {
		e.Kind = eggs.Permission
	}
	return 0, e
}

// joinOne exchanges states with the node at an address.
func (g *Gossip) joinOne(addr string) error {
	name, n := g.transport.joinName(addr)
	_, err := g.list.Join([]string{name})
	if err == nil {
		return nil
	}
	if dialed := g.transport.joinError(n); dialed != nil {
		return dialed
	}
	return fmt.Errorf("the exchange was broken off (is it of another cluster?): %w", err)
}

// run spreads what changes here and dials the dead.
func (g *Gossip) run() {
	defer close(g.done)
	refresh := time.NewTicker(refreshEvery)
	defer refresh.Stop()
	reconnect := time.NewTicker(reconnectEvery)
	defer reconnect.Stop()
	for {
		select {
		case <-g.quit:
			return
		case <-g.push:
			g.refresh(true)
		case <-refresh.C:
			g.refresh(false)
		case <-reconnect.C:
			g.reconnect()
		}
	}
}

// reconnect dials a dead member, one at a time: the void may take streamTime to answer.
func (g *Gossip) reconnect() {
	addr := g.someDead()
	if addr == "" || !g.dialing.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer g.dialing.Store(false)
		if err := g.joinOne(addr); err != nil {
			g.cfg.Logger.Debug("a dead member does not answer", "peer", addr, "error", err)
		}
	}()
}

// exchange exchanges states with a member that has news, by the address that memberlist knows.
func (g *Gossip) exchange(addr string) {
	if !g.dialing.CompareAndSwap(false, true) {
		return // the next probe asks again
	}
	go func() {
		defer g.dialing.Store(false)
		if _, err := g.list.Join([]string{addr}); err != nil {
			g.cfg.Logger.Debug("news cannot be fetched", "peer", addr, "error", err)
		}
	}()
}

// someDead returns the address of a dead member, or "". One that left comes back by itself.
func (g *Gossip) someDead() string {
	var dead []string
	for _, n := range g.View().Nodes {
		if n.State == Dead {
			dead = append(dead, n.Addr)
		}
	}
	if len(dead) == 0 {
		return ""
	}
	return dead[rand.IntN(len(dead))]
}

// refresh looks at Self, and spreads what changed: anything when all is set,
// else only what others should not wait for.
func (g *Gossip) refresh(all bool) {
	self := g.self()
	self.Disks = self.Disks[:min(len(self.Disks), maxDisks)]
	if self.Clock == 0 {
		self.Clock = g.now()
	}
	g.mu.Lock()
	m := g.members[g.cfg.Node]
	if m == nil { // memberlist.Create has announced this node
		g.mu.Unlock()
		return
	}
	mt := (&meta{cluster: g.cfg.Cluster, info: self, leaving: g.leaving}).encode()
	announce := len(mt) <= maxMeta && !slices.Equal(mt, g.meta)
	if announce {
		g.meta = mt
	}
	if !all && !worthTelling(m.view.Disks, self.Disks) {
		g.mu.Unlock()
		if announce {
			g.announce()
		}
		return
	}
	m.version = max(m.version+1, uint64(time.Now().UnixNano()))
	g.version.Store(m.version)
	m.view.Disks, m.view.Clock = self.Disks, self.Clock
	r := record{
		node: g.cfg.Node, version: m.version, clock: self.Clock, disks: self.Disks,
	}
	g.publish()
	g.mu.Unlock()
	for i, b := range r.split() {
		g.spread(g.cfg.Node, uint32(i), b)
	}
	if announce {
		g.announce()
	}
}

// announce tells memberlist that meta has changed.
func (g *Gossip) announce() {
	if err := g.list.UpdateNode(time.Second); err != nil {
		g.cfg.Logger.Debug("an announcement takes long", "error", err)
	}
}

// What makes a change of a disk worth a message of its own.
const (
	freeNews = 100 // one part of so many of the capacity
	loadNews = 16  // requests
)

func worthTelling(old, now []DiskInfo) bool {
	return !slices.EqualFunc(old, now, func(a, b DiskInfo) bool {
		moved := max(a.Free, b.Free) - min(a.Free, b.Free)
		load := int64(a.Load) - int64(b.Load)
		return a.ID == b.ID && a.Class == b.Class && a.Writable == b.Writable &&
			a.Capacity == b.Capacity && moved <= a.Capacity/freeNews &&
			load < loadNews && load > -loadNews
	})
}

// Leave tells the others that this node goes, and waits until it was said or the time is over.
func (g *Gossip) Leave(timeout time.Duration) {
	g.mu.Lock()
	g.leaving = true
	m, err := decodeMeta(g.meta)
	if err == nil {
		m.leaving = true
		g.meta = m.encode()
	}
	g.mu.Unlock()
	half := max(timeout/2, time.Millisecond)
	err = errors.Join(g.list.UpdateNode(half), g.list.Leave(half))
	if err != nil {
		g.cfg.Logger.Info("left without an answer", "error", err)
	}
}

// Close stops at once; the others will find out.
func (g *Gossip) Close() {
	g.once.Do(func() {
		close(g.quit)
		g.bridge.closed.Store(true)
		if err := g.list.Shutdown(); err != nil {
			g.cfg.Logger.Warn("gossip did not close cleanly", "error", err)
		}
		<-g.done
	})
}
