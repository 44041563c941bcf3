package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"eggsfs/eggs"
)

// kvMachine keeps keys and values: an entry is "key=value". It answers the
// entry's index. A key "panic!" does not exist; nothing in it can fail.
type kvMachine struct{}

func (kvMachine) Apply(tx Tx, e Entry) any {
	k, v, _ := strings.Cut(string(e.Data), "=")
	tx.Set([]byte(k), []byte(v))
	return e.Index
}

func (kvMachine) Restored(Reader) {}

// network is what joins the hosts of a test: loopback TCP, whose links can be
// cut so that nothing arrives and nothing is refused, as in a partition.
type network struct {
	mu    sync.Mutex
	heal  *sync.Cond
	cuts  map[[2]eggs.NodeID]bool
	addrs map[eggs.NodeID]string
}

func newNetwork() *network {
	n := &network{cuts: map[[2]eggs.NodeID]bool{}, addrs: map[eggs.NodeID]string{}}
	n.heal = sync.NewCond(&n.mu)
	return n
}

func (n *network) cut(a, b eggs.NodeID, is bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[[2]eggs.NodeID{a, b}], n.cuts[[2]eggs.NodeID{b, a}] = is, is
	n.heal.Broadcast()
}

// isolate cuts a node from all others.
func (n *network) isolate(a eggs.NodeID, is bool) {
	n.mu.Lock()
	var others []eggs.NodeID
	for b := range n.addrs {
		others = append(others, b)
	}
	n.mu.Unlock()
	for _, b := range others {
		if b != a {
			n.cut(a, b, is)
		}
	}
}

func (n *network) dial(ctx context.Context, from, to eggs.NodeID) (net.Conn, error) {
	n.mu.Lock()
	addr, cut := n.addrs[to], n.cuts[[2]eggs.NodeID{from, to}]
	n.mu.Unlock()
	if cut {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if addr == "" {
		return nil, fmt.Errorf("dial %s: %w", to, syscall.ECONNREFUSED)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &cutConn{Conn: c, net: n, link: [2]eggs.NodeID{from, to}}, nil
}

// cutConn holds back what is written and read while its link is cut.
type cutConn struct {
	net.Conn
	net    *network
	link   [2]eggs.NodeID
	closed bool
}

func (c *cutConn) pass() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	for c.net.cuts[c.link] && !c.closed {
		c.net.heal.Wait()
	}
	if c.closed {
		return net.ErrClosed
	}
	return nil
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if perr := c.pass(); perr != nil {
		return 0, perr
	}
	return n, err
}

func (c *cutConn) Write(b []byte) (int, error) {
	if err := c.pass(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *cutConn) Close() error {
	c.net.mu.Lock()
	c.closed = true
	c.net.heal.Broadcast()
	c.net.mu.Unlock()
	return c.Conn.Close()
}

// testNode is one host of a testCluster.
type testNode struct {
	c    *testCluster
	id   eggs.NodeID
	dir  string
	host *Host
	ln   net.Listener
}

type testCluster struct {
	t      *testing.T
	tb     testing.TB // what failures go to; t in tests
	net    *network
	nodes  []*testNode
	groups []eggs.GroupID
	tune   func(*Config)
}

const testClusterID = eggs.ClusterID(0xc1)

// newTestCluster makes n nodes that hold the first of groups, all as voters.
func newTestCluster(t *testing.T, n, groups int, tune func(*Config)) *testCluster {
	t.Helper()
	c := &testCluster{t: t, tb: t, net: newNetwork(), tune: tune}
	for g := range groups {
		c.groups = append(c.groups, eggs.GroupID(g))
	}
	for range n {
		c.addNode()
	}
	t.Cleanup(func() {
		var all sync.WaitGroup
		for _, x := range c.nodes {
			if x.host != nil {
				all.Go(x.stop)
			}
		}
		all.Wait()
	})
	return c
}

func (c *testCluster) addNode() *testNode {
	x := &testNode{c: c, id: eggs.NodeID(len(c.nodes) + 1), dir: c.t.TempDir()}
	c.nodes = append(c.nodes, x)
	return x
}

func (c *testCluster) ids() []eggs.NodeID {
	var ids []eggs.NodeID
	for _, x := range c.nodes {
		ids = append(ids, x.id)
	}
	return ids
}

// start opens the host with empty or known groups.
func (x *testNode) start(groups []eggs.GroupID) {
	t := x.c.tb
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Dir: x.dir, Node: x.id, Cluster: testClusterID,
		Dial: func(ctx context.Context, to eggs.NodeID) (net.Conn, error) {
			return x.c.net.dial(ctx, x.id, to)
		},
		Fatal: func(err error) { t.Errorf("node %s: fatal: %v", x.id, err) },
	}
	if os.Getenv("EGGS_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr,
			&slog.HandlerOptions{Level: slog.LevelDebug})).With("me", x.id)
	}
	if x.c.tune != nil {
		x.c.tune(&cfg)
	}
	x.host, err = Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ms := map[eggs.GroupID]Machine{}
	for _, g := range groups {
		ms[g] = kvMachine{}
	}
	if err := x.host.AddAll(ms); err != nil {
		t.Fatal(err)
	}
	x.ln = ln
	x.c.net.mu.Lock()
	x.c.net.addrs[x.id] = ln.Addr().String()
	x.c.net.mu.Unlock()
	host := x.host
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go host.Serve(conn, 0)
		}
	}()
	host.SetPeers(x.c.ids())
}

// stop closes the host: connections break, and dials are refused from then on.
func (x *testNode) stop() {
	x.c.net.mu.Lock()
	delete(x.c.net.addrs, x.id)
	x.c.net.mu.Unlock()
	_ = x.ln.Close()
	if err := x.host.Close(); err != nil {
		x.c.tb.Errorf("close node %s: %v", x.id, err)
	}
	x.host = nil
}

// startAll starts all nodes at one time and begins the groups.
func (c *testCluster) startAll() {
	c.tb.Helper()
	var all sync.WaitGroup
	for _, x := range c.nodes {
		all.Go(func() { x.start(c.groups) })
	}
	all.Wait()
}

// begin bootstraps the groups on every node: the same configuration everywhere,
// which hashicorp/raft allows.
func (c *testCluster) begin() {
	c.tb.Helper()
	var all sync.WaitGroup
	for _, x := range c.nodes {
		all.Go(func() {
			if err := x.host.BootstrapAll(c.ids()); err != nil && !errors.Is(err, eggs.Exist) {
				c.tb.Errorf("bootstrap: %v", err)
			}
		})
	}
	all.Wait()
}

func (c *testCluster) up() []*testNode {
	var up []*testNode
	for _, x := range c.nodes {
		if x.host != nil {
			up = append(up, x)
		}
	}
	return up
}

// put writes through whichever node leads, trying for at most limit.
func (c *testCluster) put(g eggs.GroupID, entry string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var err error
	for ctx.Err() == nil {
		for _, x := range c.up() {
			grp := x.host.Group(g)
			if grp == nil {
				continue
			}
			if _, perr := grp.Propose(ctx, []byte(entry)); perr == nil {
				return nil
			} else if !errors.Is(perr, eggs.NotLeader) {
				err = perr
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	return fmt.Errorf("group %s: %w, last %v", g, ctx.Err(), err)
}

// writable waits until every group took a write, and returns how long that took.
func (c *testCluster) writable(limit time.Duration) time.Duration {
	c.tb.Helper()
	start := time.Now()
	var all sync.WaitGroup
	for _, g := range c.groups {
		all.Go(func() {
			if err := c.put(g, "w=1", limit); err != nil {
				c.tb.Errorf("not writable: %v", err)
			}
		})
	}
	all.Wait()
	return time.Since(start)
}

// spread counts leaderships by node.
func (c *testCluster) spread() map[eggs.NodeID]int {
	n := map[eggs.NodeID]int{}
	for _, x := range c.up() {
		for _, g := range x.host.Groups() {
			if g.Leads() {
				n[x.id]++
			}
		}
	}
	return n
}

// eventually waits until f is true.
func (c *testCluster) eventually(limit time.Duration, what string, f func() bool) {
	c.tb.Helper()
	deadline := time.Now().Add(limit)
	for !f() {
		if time.Now().After(deadline) {
			c.tb.Fatalf("not after %v: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// leader returns the one node that leads a group.
func (c *testCluster) leader(g eggs.GroupID) *testNode {
	c.tb.Helper()
	var found *testNode
	c.eventually(5*time.Second, fmt.Sprintf("a leader of group %s", g), func() bool {
		for _, x := range c.up() {
			if grp := x.host.Group(g); grp != nil && grp.Leads() {
				found = x
				return true
			}
		}
		return false
	})
	return found
}

// get reads linearizably through a node.
func (x *testNode) get(g eggs.GroupID, key string, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	v, err := x.host.Group(g).Read(ctx)
	if err != nil {
		return "", err
	}
	defer v.Close()
	b, _ := v.Get([]byte(key))
	return string(b), nil
}
