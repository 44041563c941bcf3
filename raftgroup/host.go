package raftgroup

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"eggsfs/eggs"
)

// Host holds this node's replicas of all groups and its connections to other nodes.
type Host struct {
	cfg         Config
	log         *slog.Logger
	store       *store
	incarnation uint64
	start       time.Time

	ctx    context.Context // ends with the host
	cancel context.CancelFunc
	wg     sync.WaitGroup

	counters counters
	leaders  *leaderTable
	reads    *readBatcher
	watch    *watch
	events   chan *Group // groups whose raft changed its state; each at most once

	sending   chan struct{} // holds a token for each snapshot on its way out
	receiving chan struct{} // and in

	draining atomic.Bool                // leaderships are to leave, and not come back
	wish     [eggs.Groups]atomic.Uint64 // who should lead, see Prefer

	newsMu      sync.Mutex
	news        []announcement // leaderships gained and lost, to be told
	newsVersion uint64         // counts them

	groups [eggs.Groups]atomic.Pointer[Group]

	mu     sync.Mutex // adds and drops, and peers
	busy   [eggs.Groups]bool
	closed bool
	peers  map[eggs.NodeID]*peer
	wanted map[eggs.NodeID]bool // as SetPeers says
}

// Open opens log and state in Config.Dir and starts without groups.
func Open(cfg Config) (*Host, error) {
	const op = "raftgroup.Open"
	if cfg.Node == 0 || cfg.Cluster == 0 || cfg.Dial == nil || cfg.Dir == "" {
		return nil, eggs.E(op, eggs.Invalid, "Dir, Node, Cluster and Dial must be set")
	}
	cfg.Timers.fill()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Event == nil {
		cfg.Event = func(string, string) {}
	}
	if cfg.Fatal == nil {
		cfg.Fatal = func(err error) { panic(err) }
	}
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, &eggs.Error{Op: op, Kind: eggs.IO, Err: err}
	}
	st, err := openStore(&cfg)
	if err != nil {
		return nil, &eggs.Error{Op: op, Name: cfg.Dir, Err: err}
	}
	h := &Host{
		cfg: cfg, log: cfg.Logger, store: st, start: time.Now(),
		incarnation: binary.LittleEndian.Uint64(random[:]),
		leaders:     newLeaderTable(cfg.Node),
		events:      make(chan *Group, eggs.Groups),
		sending:     make(chan struct{}, maxSnapshots),
		receiving:   make(chan struct{}, maxSnapshots),
		peers:       map[eggs.NodeID]*peer{}, wanted: map[eggs.NodeID]bool{},
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.reads = newReadBatcher(h)
	h.watch = newWatch(h)
	h.wg.Add(3)
	go h.watch.run()
	go h.follow()
	go h.truncate()
	return h, nil
}

// now is nanoseconds since the host was opened, never 0.
func (h *Host) now() int64 { return int64(time.Since(h.start)) + 1 }

// enter counts a goroutine in, unless the host is closed.
func (h *Host) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.wg.Add(1)
	return true
}

// Group returns this node's replica of a group, or nil.
func (h *Host) Group(id eggs.GroupID) *Group {
	if id >= eggs.Groups {
		return nil
	}
	return h.groups[id].Load()
}

// Groups returns this node's replicas in the order of their ids.
func (h *Host) Groups() []*Group {
	var gs []*Group
	for i := range h.groups {
		if g := h.groups[i].Load(); g != nil {
			gs = append(gs, g)
		}
	}
	return gs
}

// Add opens this node's replica of a group. One without state is empty and
// waits for its leader; it never stands for election.
func (h *Host) Add(id eggs.GroupID, m Machine) (*Group, error) {
	const op = "raftgroup.Add"
	if id >= eggs.Groups || m == nil {
		return nil, eggs.E(op, eggs.Invalid, fmt.Sprintf("group %d", id))
	}
	if err := h.reserve(op, id); err != nil {
		return nil, err
	}
	defer h.release(id)
	if h.Group(id) != nil {
		return nil, &eggs.Error{Op: op, Name: id.String(), Kind: eggs.Exist}
	}
	g, err := openGroup(h, id, m)
	if err != nil {
		return nil, &eggs.Error{Op: op, Name: id.String(), Err: err}
	}
	h.groups[id].Store(g)
	g.touch()
	return g, nil
}

// reserve makes adding, dropping and closing one group exclude each other.
func (h *Host) reserve(op string, id eggs.GroupID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return eggs.E(op, eggs.Unavailable, "the host is closed")
	}
	if h.busy[id] {
		return &eggs.Error{Op: op, Name: id.String(), Kind: eggs.InUse}
	}
	h.busy[id] = true
	h.wg.Add(1)
	return nil
}

func (h *Host) release(id eggs.GroupID) {
	h.mu.Lock()
	h.busy[id] = false
	h.mu.Unlock()
	h.wg.Done()
}

// AddAll opens many replicas at one time, which shares the work of the disk.
func (h *Host) AddAll(machines map[eggs.GroupID]Machine) error {
	var all errgroup.Group
	for id, m := range machines {
		all.Go(func() error {
			_, err := h.Add(id, m)
			return err
		})
	}
	return all.Wait()
}

// Bootstrap makes an added, empty group begin with these voters, of which this
// node is one. Kind Exist if it has begun already. It is called once in the
// life of a group, on one node.
func (h *Host) Bootstrap(id eggs.GroupID, voters []eggs.NodeID) error {
	const op = "raftgroup.Bootstrap"
	g := h.Group(id)
	if g == nil {
		return &eggs.Error{Op: op, Name: fmt.Sprint(id), Kind: eggs.NotExist}
	}
	if !slices.Contains(voters, h.cfg.Node) {
		return eggs.E(op, eggs.Invalid, "this node is not among the voters")
	}
	var c raft.Configuration
	for _, v := range voters {
		id := serverID(v)
		c.Servers = append(c.Servers, raft.Server{ID: id, Address: raft.ServerAddress(id)})
	}
	err := g.await(h.ctx, g.raft.BootstrapCluster(c))
	switch {
	case errors.Is(err, raft.ErrCantBootstrap):
		return &eggs.Error{Op: op, Name: id.String(), Kind: eggs.Exist}
	case err != nil:
		return &eggs.Error{Op: op, Name: id.String(), Kind: eggs.Invalid, Err: err}
	}
	g.touch()
	return nil
}

// BootstrapAll is Bootstrap for every group that was added.
func (h *Host) BootstrapAll(voters []eggs.NodeID) error {
	var all errgroup.Group
	for _, g := range h.Groups() {
		all.Go(func() error { return h.Bootstrap(g.id, voters) })
	}
	return all.Wait()
}

// Drop closes a replica and forgets its log and state. The group must have
// removed this node from its members before.
func (h *Host) Drop(id eggs.GroupID) error {
	const op = "raftgroup.Drop"
	if id >= eggs.Groups {
		return eggs.E(op, eggs.Invalid, fmt.Sprintf("group %d", id))
	}
	if err := h.reserve(op, id); err != nil {
		return err
	}
	defer h.release(id)
	g := h.groups[id].Swap(nil)
	if g == nil {
		return &eggs.Error{Op: op, Name: id.String(), Kind: eggs.NotExist}
	}
	g.close()
	if err := g.replica.drop(); err != nil {
		return &eggs.Error{Op: op, Name: id.String(), Err: err}
	}
	return nil
}

// peer returns what is kept of another node. It starts to dial one that it did
// not know: a group's configuration may name it before gossip does. It is nil
// for this node itself and when the host is closed or knows too many.
func (h *Host) peer(id eggs.NodeID) *peer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.peers[id]; p != nil {
		return p
	}
	if id == 0 || id == h.cfg.Node || h.closed || len(h.peers) >= maxPeers {
		return nil
	}
	p := newPeer(h, id)
	h.peers[id] = p
	h.wg.Add(1)
	go p.keep()
	return p
}

func (h *Host) allPeers() []*peer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.peers))
}

// SetPeers says which nodes exist. They are kept connected; nodes that are
// neither among them nor members of a group here are forgotten.
func (h *Host) SetPeers(ids []eggs.NodeID) {
	members := map[eggs.NodeID]bool{}
	for _, g := range h.Groups() {
		for _, s := range g.configuration().Servers {
			members[nodeOf(s.ID)] = true
		}
	}
	wanted := map[eggs.NodeID]bool{}
	for _, id := range ids {
		wanted[id] = true
		h.peer(id)
	}
	var gone []*peer
	h.mu.Lock()
	h.wanted = wanted
	for id, p := range h.peers {
		if !wanted[id] && !members[id] {
			delete(h.peers, id)
			gone = append(gone, p)
		}
	}
	h.mu.Unlock()
	for _, p := range gone {
		close(p.gone)
		p.mu.Lock()
		l, s := p.link, p.session
		p.mu.Unlock()
		if l != nil {
			l.out.close()
		}
		if s != nil {
			s.out.close()
		}
	}
}

// Hint tells what gossip thinks of a node. A dead one is believed dead sooner;
// one alive is dialled at once.
func (h *Host) Hint(node eggs.NodeID, dead bool) {
	h.mu.Lock()
	p := h.peers[node]
	h.mu.Unlock()
	if p == nil {
		return
	}
	p.mu.Lock()
	p.hinted = dead
	p.mu.Unlock()
	if !dead {
		p.knock()
	}
	h.watch.nudge()
}

// Close stops everything. Leaderships are not handed over; see Handover.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.mu.Unlock()
	h.cancel()
	var all sync.WaitGroup
	for _, g := range h.Groups() {
		all.Go(g.close)
	}
	all.Wait()
	h.wg.Wait()
	if err := h.store.close(); err != nil {
		return &eggs.Error{Op: "raftgroup.Close", Name: h.cfg.Dir, Kind: eggs.IO, Err: err}
	}
	return nil
}
