package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"eggsfs/eggs"
)

// A cluster begins as one node and grows: every group gets two more voters,
// while it is being written to, and loses none of it.
func TestGrowFromOneToThree(t *testing.T) {
	c := newTestCluster(t, 1, eggs.Groups, nil)
	start := time.Now()
	c.startAll()
	c.begin()
	c.writable(5 * time.Second)
	t.Logf("one node: all writable after %v", time.Since(start))
	one := c.nodes[0]
	for range 2 {
		c.addNode()
	}
	for _, x := range c.nodes[1:] {
		x.start(c.groups)
	}
	one.host.SetPeers(c.ids())
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	start = time.Now()
	var all sync.WaitGroup
	slots := make(chan struct{}, 32)
	for _, g := range c.groups {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			grp := one.host.Group(g)
			for _, x := range c.nodes[1:] {
				for grp.AddLearner(ctx, x.id) != nil && ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
				if err := grp.Promote(ctx, x.id); err != nil {
					t.Errorf("promote %s in group %s: %v", x.id, g, err)
				}
			}
		})
	}
	all.Wait()
	t.Logf("257 groups from one to three voters in %v", time.Since(start))
	c.writable(5 * time.Second)
	one.stop()
	t.Logf("without the first: all writable after %v", c.writable(5*time.Second))
	for _, g := range c.groups[:10] {
		c.eventually(10*time.Second, "a leader serves reads", func() bool { // leadership moves for balance
			v, err := c.leader(g).get(g, "w", time.Second)
			if err == nil && v != "1" {
				t.Errorf("group %s: read %q", g, v)
			}
			return err == nil
		})
	}
}

// What a change of members refuses, and that repeating one changes nothing.
func TestMembershipRules(t *testing.T) {
	c := newTestCluster(t, 3, 1, nil)
	c.startAll()
	c.begin()
	c.writable(5 * time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	l := c.leader(0)
	g := l.host.Group(0)
	var follower *testNode
	for _, x := range c.nodes {
		if x != l {
			follower = x
		}
	}
	if err := follower.host.Group(0).AddLearner(ctx, 99); !errors.Is(err, eggs.NotLeader) {
		t.Errorf("a follower adds a learner: %v", err)
	} else if e := (*eggs.Error)(nil); !errors.As(err, &e) || e.Node != l.id {
		t.Errorf("a follower names %v as leader, want %v", e.Node, l.id)
	}
	if err := g.Promote(ctx, 99); !errors.Is(err, eggs.Conflict) {
		t.Errorf("promoting a stranger: %v", err)
	}
	if err := g.Promote(ctx, follower.id); err != nil {
		t.Errorf("promoting a voter: %v", err)
	}
	if err := g.Remove(ctx, 99); err != nil {
		t.Errorf("removing a stranger: %v", err)
	}
	if err := g.Remove(ctx, l.id); !errors.Is(err, eggs.NotLeader) {
		t.Errorf("a leader that leaves: %v", err)
	}
	n := c.leader(0)
	if n == l {
		t.Fatal("the leader that leaves still leads")
	}
	if err := n.host.Group(0).Remove(ctx, l.id); err != nil {
		t.Fatal(err)
	}
	if err := l.host.Drop(0); err != nil {
		t.Fatal(err)
	}
	if s := n.host.Group(0).Status(); len(s.Voters) != 2 || s.State != "leader" {
		t.Errorf("status %v", s)
	}
	// It comes back as an empty learner, and is a voter again.
	if _, err := l.host.Add(0, kvMachine{}); err != nil {
		t.Fatal(err)
	}
	if err := n.host.Group(0).AddLearner(ctx, l.id); err != nil {
		t.Fatal(err)
	}
	if err := n.host.Group(0).Promote(ctx, l.id); err != nil {
		t.Fatal(err)
	}
	c.eventually(5*time.Second, "equal state", func() bool {
		return l.host.Group(0).Hash() == n.host.Group(0).Hash()
	})
}

// A replica whose entries are gone from the leader's log gets the state as a
// snapshot over the transport, and afterwards follows as any other.
func TestSnapshotReachesAnEmptyNode(t *testing.T) {
	c := newTestCluster(t, 3, 4, func(cfg *Config) {
		cfg.Truncate = TruncateLimits{Limit: 256 << 10, Tail: 32 << 10}
	})
	c.startAll()
	c.begin()
	c.writable(5 * time.Second)
	late := c.addNode()
	var all sync.WaitGroup
	value := make([]byte, 4000)
	for i := range value {
		value[i] = 'a' + byte(i%26)
	}
	for _, g := range c.groups {
		for w := range 4 {
			all.Go(func() {
				for i := range 100 {
					if err := c.put(g, fmt.Sprintf("%d.%d=%s", w, i, value), 5*time.Second); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
	c.eventually(10*time.Second, "truncated logs", func() bool {
		for _, g := range c.groups {
			for _, x := range c.up() {
				if first, _ := x.host.Group(g).replica.log.FirstIndex(); first < 10 {
					return false
				}
			}
		}
		return true
	})
	late.start(c.groups)
	for _, x := range c.nodes {
		x.host.SetPeers(c.ids())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, g := range c.groups {
		l := c.leader(g).host.Group(g)
		if err := l.AddLearner(ctx, late.id); err != nil {
			t.Fatal(err)
		}
		if err := l.Promote(ctx, late.id); err != nil {
			t.Fatal(err)
		}
		if err := c.put(g, "last=1", 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	c.sameState()
	if n := late.host.Stats().SnapshotsIn; n < uint64(len(c.groups)) {
		t.Errorf("%d snapshots came", n)
	}
}

// sameState waits until all replicas of each group have the same state.
func (c *testCluster) sameState() {
	c.tb.Helper()
	for _, g := range c.groups {
		_ = c.put(g, "same=1", 5*time.Second)
		_ = c.put(g, "same=2", 5*time.Second) // tells that the one before is committed
		ok := false
		for deadline := time.Now().Add(15 * time.Second); !ok && time.Now().Before(deadline); {
			// a write tells followers what is committed
			_ = c.put(g, "same=3", 5*time.Second)
			time.Sleep(5 * time.Millisecond)
			hashes := map[uint32]bool{}
			for _, x := range c.up() {
				if grp := x.host.Group(g); grp != nil {
					hashes[grp.Hash()] = true
				}
			}
			ok = len(hashes) == 1
		}
		if !ok {
			for _, x := range c.up() {
				c.tb.Logf("node %s: %+v", x.id, x.host.Group(g).Status())
			}
			c.tb.Fatalf("group %s: replicas differ", g)
		}
	}
}
