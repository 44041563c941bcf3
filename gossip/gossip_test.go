package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

// peer is one node's gossip behind a real port.
type peer struct {
	t    testing.TB
	id   eggs.NodeID
	l    *wire.Listener
	g    *Gossip
	addr string
	skew atomic.Int64
	cut  atomic.Pointer[[]string] // addresses that this node cannot reach

	mu    sync.Mutex
	disks []DiskInfo
}

func (p *peer) setDisks(d ...DiskInfo) {
	p.mu.Lock()
	p.disks = d
	p.mu.Unlock()
}

// reaches reports whether there is a way from this node to an address.
func (p *peer) reaches(addr string) bool {
	list := p.cut.Load()
	return list == nil || !slices.Contains(*list, addr)
}

// cutUDP loses packets to addresses that are cut.
type cutUDP struct {
	net.PacketConn
	p *peer
}

func (c cutUDP) WriteTo(b []byte, to net.Addr) (int, error) {
	if !c.p.reaches(to.String()) {
		return len(b), nil
	}
	return c.PacketConn.WriteTo(b, to)
}

// start opens a node's gossip on a free port. cluster 0 means 7.
func start(t testing.TB, key *auth.Key, id eggs.NodeID, cluster eggs.ClusterID) *peer {
	t.Helper()
	p := &peer{t: t, id: id, disks: []DiskInfo{{ID: eggs.DiskID(id) << 8, Capacity: 1000, Free: 500}}}
	server, err := key.ServerTLS(auth.Identity{Node: id}, wire.ALPNGossip)
	if err != nil {
		t.Fatal(err)
	}
	client, err := key.ClientTLS(auth.Identity{Node: id}, wire.ALPNGossip)
	if err != nil {
		t.Fatal(err)
	}
	var udp net.PacketConn
	for try := 0; udp == nil; try++ {
		if p.l, err = wire.Listen("127.0.0.1:0", server, false, nil); err != nil {
			t.Fatal(err)
		}
		if udp, err = net.ListenPacket("udp", p.l.Addr().String()); err != nil {
			p.l.Close()
			if try > 10 {
				t.Fatal(err)
			}
		}
	}
	p.addr = p.l.Addr().String()
	if cluster == 0 {
		cluster = 7
	}
	accept := p.l.ALPN(wire.ALPNGossip)
	var logger *slog.Logger
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	p.g, err = Open(Config{
		Node: id, Cluster: cluster, Advertise: p.addr, Keys: key.GossipKeys(),
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			if !p.reaches(addr) {
				return nil, eggs.E("test.Dial", eggs.Unavailable, "cut")
			}
			return wire.DialTLS(ctx, addr, client)
		},
		UDP: cutUDP{udp, p}, Logger: logger,
		Clock: func() eggs.Time { return eggs.TimeOf(time.Now()) + eggs.Time(p.skew.Load()) },
		Self: func() NodeInfo {
			p.mu.Lock()
			defer p.mu.Unlock()
			return NodeInfo{
				HTTP: "127.0.0.1:5000", Domain: fmt.Sprintf("rack %d", id),
				Roles: 7, Version: "test", Disks: p.disks,
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := accept.Accept()
			if err != nil {
				return
			}
			p.g.ServeConn(c)
		}
	}()
	t.Cleanup(p.kill)
	return p
}

// kill stops a node without a word.
func (p *peer) kill() { p.g.Close(); p.l.Close() }

// sees waits until a node's picture satisfies ok.
func (p *peer) sees(within time.Duration, what string, ok func(*View) bool) time.Duration {
	p.t.Helper()
	within *= 5 // what is usual, and what a busy machine needs
	begin := time.Now()
	for {
		changed := p.g.Changed()
		if ok(p.g.View()) {
			return time.Since(begin)
		}
		select {
		case <-changed:
		case <-time.After(within - time.Since(begin)):
			p.t.Fatalf("node %d does not see %s within %v: %+v", p.id, what, within, p.g.View().Nodes)
		}
	}
}

func (p *peer) join(q *peer) {
	p.t.Helper()
	if n, err := p.g.Join(context.Background(), []string{q.addr}); n != 1 || err != nil {
		p.t.Fatalf("joined %d: %v", n, err)
	}
}

func state(id eggs.NodeID, s State) func(*View) bool {
	return func(v *View) bool {
		n, ok := v.Node(id)
		return ok && n.State == s
	}
}

func alive(n int) func(*View) bool {
	return func(v *View) bool {
		have := 0
		for i := range v.Nodes {
			if v.Nodes[i].State == Alive && len(v.Nodes[i].Disks) > 0 {
				have++
			}
		}
		return have == n
	}
}

func three(t testing.TB) (*auth.Key, []*peer) {
	key, err := auth.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	ps := []*peer{start(t, key, 1, 0), start(t, key, 2, 0), start(t, key, 3, 0)}
	ps[1].join(ps[0])
	ps[2].join(ps[0])
	for _, p := range ps {
		p.sees(5*time.Second, "three nodes with disks", alive(3))
	}
	return key, ps
}

// Three nodes must see each other, notice a death within a second or two, and
// a return under another address without waiting for anybody's time-out.
func TestDeathAndReturnElsewhere(t *testing.T) {
	t.Parallel()
	key, ps := three(t)
	ps[2].kill()
	for _, p := range ps[:2] {
		t.Logf("death seen after %v", p.sees(5*time.Second, "the death of 3", state(3, Dead)))
	}
	again := start(t, key, 3, 0)
	again.setDisks(DiskInfo{ID: 0x999, Writable: true})
	again.g.Update()
	again.join(ps[0])
	moved := func(v *View) bool {
		n, ok := v.Node(3)
		return ok && n.State == Alive && n.Addr == again.addr && len(n.Disks) == 1 && n.Disks[0].ID == 0x999
	}
	for _, p := range ps[:2] {
		t.Logf("return seen after %v", p.sees(3*time.Second, "the return of 3", moved))
	}
}

// A node that restarts elsewhere faster than its death is noticed must be
// believed: memberlist alone would call it a conflict.
func TestMoveBeforeDeathIsNoticed(t *testing.T) {
	t.Parallel()
	key, ps := three(t)
	ps[1].kill()
	again := start(t, key, 2, 0)
	again.join(ps[2])
	for _, i := range []int{0, 2} {
		took := ps[i].sees(3*time.Second, "the move of 2", func(v *View) bool {
			n, ok := v.Node(2)
			return ok && n.State == Alive && n.Addr == again.addr
		})
		t.Logf("move seen after %v", took)
	}
}

// A hundred disks do not fit a packet, let alone 512 bytes of meta; a new set
// must still be everywhere in a second or two.
func TestHundredDisksTravel(t *testing.T) {
	t.Parallel()
	_, ps := three(t)
	var disks []DiskInfo
	for i := range 100 {
		disks = append(disks, DiskInfo{
			ID: eggs.DiskID(i + 1), Class: 1, Capacity: 20 << 40,
			Free: 11<<40 + uint64(i), Writable: i%2 == 0, Load: uint32(i),
		})
	}
	ps[0].setDisks(disks...)
	ps[0].g.Update()
	for _, p := range ps[1:] {
		took := p.sees(2*time.Second, "100 disks", func(v *View) bool {
			n, ok := v.Node(1)
			return ok && len(n.Disks) == 100 && n.Disks[99] == disks[99]
		})
		t.Logf("disks seen after %v", took)
	}
}

// Leaving is not dying: the others must be able to tell.
func TestLeaveIsSeen(t *testing.T) {
	t.Parallel()
	_, ps := three(t)
	ps[0].g.Leave(time.Second)
	ps[0].kill()
	ps[1].sees(3*time.Second, "1 leaving", state(1, Left))
	ps[2].sees(3*time.Second, "1 leaving", state(1, Left))
}

// Clocks are measured by probes, so that a node whose clock is wrong is known as such.
func TestClockOffsetIsMeasured(t *testing.T) {
	t.Parallel()
	_, ps := three(t)
	ps[1].skew.Store(int64(30 * time.Second))
	ps[0].sees(5*time.Second, "2's clock ahead", func(v *View) bool {
		n, ok := v.Node(2)
		return ok && n.Measured && (n.Offset-30*time.Second).Abs() < time.Second
	})
}

// Another cluster, or another key, must not mix with ours, and a wrong key is said in words.
func TestStrangersDoNotEnter(t *testing.T) {
	t.Parallel()
	key, _ := auth.NewKey()
	other, _ := auth.NewKey()
	a := start(t, key, 1, 0)
	b := start(t, key, 2, 8)
	if n, err := b.g.Join(context.Background(), []string{a.addr}); n != 0 || err == nil {
		t.Errorf("another cluster joined: %d, %v", n, err)
	}
	c := start(t, other, 3, 0)
	n, err := c.g.Join(context.Background(), []string{a.addr})
	if n != 0 || !errors.Is(err, eggs.Permission) ||
		!bytes.Contains([]byte(err.Error()), []byte(auth.NotThisKey)) {
		t.Errorf("another key joined: %d, %v", n, err)
	}
	u, err := net.Dial("udp", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	label := "\xf4\x15eggs 0000000000000007"
	for _, junk := range []string{"", "\x00", "hello", label, label + "\x01garbage", label + string(make([]byte, 1300))} {
		u.Write([]byte(junk))
	}
	time.Sleep(300 * time.Millisecond)
	for _, p := range []*peer{a, b, c} {
		if got := len(p.g.View().Nodes); got != 1 {
			t.Errorf("node %d sees %d members", p.id, got)
		}
	}
}
