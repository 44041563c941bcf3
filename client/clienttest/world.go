package clienttest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"eggsfs/cdc"
	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/raftgroup"
	"eggsfs/raftshard"
	"eggsfs/wire"
)

// Config says how large a cluster is. Zero values: 3 nodes of 2 disks each.
type Config struct {
	Nodes, Disks int // disks of each node
}

// World is a cluster in memory.
type World struct {
	TB      testing.TB
	Key     *auth.Key
	Cluster eggs.ClusterID
	Nodes   []*Node

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	state  *raftgroup.State
	skew   atomic.Int64 // what the groups' clock is ahead
	cdc    *cdc.CDC
	shards [eggs.Shards]atomic.Pointer[raftshard.Shard]

	mu      sync.Mutex
	routes  *wire.Routes
	changed chan struct{}
	leaders [eggs.Groups]int // index of a node
	disks   map[eggs.DiskID]*Disk
	order   []*Disk
	faults  []*fault
	counts  map[wire.Method]int
	states  map[eggs.DiskID]string // as SetDisk said
	making  sync.Mutex
}

// Node is one server.
type Node struct {
	ID     eggs.NodeID
	Addr   string
	w      *World
	index  int
	mu     sync.Mutex
	listen *wire.Listener
	server *wire.Server
	dead   bool // says the picture
	blocks map[net.Conn]struct{}
}

// New starts a cluster, which ends with the test.
func New(tb testing.TB, cfg Config) *World {
	tb.Helper()
	if cfg.Nodes == 0 {
		cfg.Nodes = 3
	}
	if cfg.Disks == 0 {
		cfg.Disks = 2
	}
	key, err := auth.NewKey()
	if err != nil {
		tb.Fatal(err)
	}
	state, err := raftgroup.OpenState("", raftgroup.StateOptions{InMemory: true})
	if err != nil {
		tb.Fatal(err)
	}
	w := &World{
		TB: tb, Key: key, Cluster: 0xc1, state: state, changed: make(chan struct{}),
		disks: make(map[eggs.DiskID]*Disk), counts: make(map[wire.Method]int),
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	for i := range cfg.Nodes {
		n := &Node{ID: eggs.NodeID(0x100 + i), w: w, index: i, Addr: "127.0.0.1:0"}
		w.Nodes = append(w.Nodes, n)
		for d := range cfg.Disks {
			disk := &Disk{
				ID: eggs.DiskID(0xd00 + 16*i + d), Node: n, w: w,
				blocks: make(map[eggs.BlockID]*block), gone: make(map[eggs.BlockID]bool),
			}
			w.disks[disk.ID] = disk
			w.order = append(w.order, disk)
		}
		n.start()
	}
	for g := range w.leaders {
		w.leaders[g] = g % cfg.Nodes
	}
	w.Publish()
	machine := cdc.NewMachine()
	w.cdc = cdc.New(cdc.Config{
		Group: w.group(eggs.CDCGroup, machine), Machine: machine,
		Shards: direct{w}, Clock: w.clock,
	})
	tb.Cleanup(w.close)
	return w
}

func (w *World) close() {
	w.cancel()
	for _, n := range w.Nodes {
		n.Stop()
	}
	w.wg.Wait()
	if err := w.state.Close(); err != nil {
		w.TB.Error(err)
	}
}

func (w *World) clock() eggs.Time {
	return eggs.TimeOf(time.Now()) + eggs.Time(w.skew.Load())
}

// Advance moves the groups' clock forward.
func (w *World) Advance(d time.Duration) { w.skew.Add(int64(d)) }

func (w *World) group(id eggs.GroupID, m raftgroup.Machine) *group {
	gs, err := w.state.Group(id, m)
	if err != nil {
		panic(err)
	}
	return &group{state: gs, index: gs.AppliedIndex(), ctx: w.ctx, wg: &w.wg}
}

// Shard returns a shard, which exists from its first use.
func (w *World) Shard(id eggs.ShardID) *raftshard.Shard {
	if s := w.shards[id].Load(); s != nil {
		return s
	}
	w.making.Lock()
	defer w.making.Unlock()
	if s := w.shards[id].Load(); s != nil {
		return s
	}
	m := raftshard.NewMachine(id, w.Key)
	g := w.group(id.Group(), m)
	s := raftshard.New(raftshard.Config{
		Shard: id, Group: g, Machine: m,
		Key: w.Key, Blocks: w, Clock: w.clock,
	})
	for { // until its first entry is there
		v := g.Local()
		found := false
		v.Scan(nil, nil, false, func(_, _ []byte) bool { found = true; return false })
		v.Close()
		if found || w.ctx.Err() != nil {
			break
		}
		time.Sleep(100 * time.Microsecond)
	}
	w.shards[id].Store(s)
	return s
}

// direct is the coordinator's way to the shards.
type direct struct{ w *World }

func (d direct) Do(ctx context.Context, r *wire.ShardRequest) (*wire.ShardReply, error) {
	return d.w.Shard(eggs.ShardID(r.Shard)).Do(ctx, r)
}

func (d direct) Query(ctx context.Context, q *wire.ShardQuery) (*wire.ShardAnswer, error) {
	return d.w.Shard(eggs.ShardID(q.Shard)).Query(ctx, q)
}

// Choose implements raftshard.Blocks: the disks in turn, never one twice, those
// of nodes that hold blocks of the span last.
func (w *World) Choose(c raftshard.BlockChoice) ([]eggs.DiskID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	bad, used := make(map[eggs.DiskID]bool), make(map[*Node]bool)
	for _, d := range c.Blacklist {
		bad[d] = true
	}
	for _, d := range c.Apart {
		bad[d] = true
		used[w.disks[d].Node] = true
	}
	var out, near []eggs.DiskID
	for i := range w.order {
		d := w.order[(i*len(w.order)/len(w.Nodes)+i/len(w.Nodes))%len(w.order)]
		switch {
		case bad[d.ID] || w.states[d.ID] != "":
		case used[d.Node]:
			near = append(near, d.ID)
		default:
			out = append(out, d.ID)
		}
	}
	out = append(out, near...)
	if len(out) < c.Parity.Blocks() {
		return nil, eggs.E("clienttest.Choose", eggs.NoSpace, "too few disks")
	}
	return out[:c.Parity.Blocks()], nil
}

// Retired implements raftshard.Blocks.
func (w *World) Retired(d eggs.DiskID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.states[d] == "retired"
}

// SetDisk makes a disk "draining" or "retired", in the facts as well, or "" again.
func (w *World) SetDisk(ctx context.Context, c client.Operator, d eggs.DiskID, state string) {
	w.TB.Helper()
	w.mu.Lock()
	if w.states == nil {
		w.states = make(map[eggs.DiskID]string)
	}
	w.states[d] = state
	w.mu.Unlock()
	fact := &wire.DiskFact{
		Id: uint64(d), Node: uint64(w.disks[d].Node.ID),
		Draining: state == "draining", Retired: state == "retired",
	}
	for _, mask := range []uint32{0, 2 | 4} {
		if _, err := c.CDC(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_PutDisk{
			PutDisk: &wire.PutDisk{Disk: fact, Mask: mask},
		}}); err != nil {
			w.TB.Fatal(err)
		}
	}
	w.Publish()
}

// Publish makes a new picture of what there is and pushes it.
func (w *World) Publish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &wire.Routes{Cluster: uint64(w.Cluster), Version: 1}
	if w.routes != nil {
		r.Version = w.routes.Version + 1
	}
	for _, n := range w.Nodes {
		r.Nodes = append(r.Nodes, &wire.RouteNode{
			Id: uint64(n.ID), Address: n.Addr,
			Alive: n.up(), Domain: n.ID.String(),
		})
	}
	for _, d := range w.order {
		r.Disks = append(r.Disks, &wire.RouteDisk{
			Id: uint64(d.ID), Node: uint64(d.Node.ID),
			Capacity: 1 << 40, Free: 1 << 39, Writable: w.states[d.ID] == "", Domain: d.Node.ID.String(),
		})
	}
	for g := range w.leaders {
		r.Leaders = append(r.Leaders, uint64(w.Nodes[w.leaders[g]].ID))
		r.Terms = append(r.Terms, r.Version)
	}
	w.routes = r
	close(w.changed)
	w.changed = make(chan struct{})
}

// Lead makes a node the leader of a group, without telling anybody: see Publish.
func (w *World) Lead(g eggs.GroupID, node int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaders[g] = node
}

// Leader returns the index of the node that leads a group.
func (w *World) Leader(g eggs.GroupID) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leaders[g]
}

// Routes and Changed make a World a client.Router.
func (w *World) Routes() *wire.Routes {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.routes
}

// Changed is closed at the next Publish.
func (w *World) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Client returns a client that is routed by the World itself; it ends with the test.
func (w *World) Client() *client.Client { return w.ClientWith(client.Options{}) }

// ClientWith is Client with some options of the caller's.
func (w *World) ClientWith(o client.Options) *client.Client {
	w.TB.Helper()
	o.Router, o.Key = w, w.Key
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if testing.Verbose() && o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(logTo{w.TB}, nil))
	}
	c, err := client.New(o)
	if err != nil {
		w.TB.Fatal(err)
	}
	w.TB.Cleanup(func() { c.Close() })
	return c
}

type logTo struct{ tb testing.TB }

func (l logTo) Write(p []byte) (int, error) {
	fmt.Print(string(p))
	return len(p), nil
}
