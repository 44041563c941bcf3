package raftgroup

import (
	"testing"
	"time"

	"eggsfs/eggs"
)

// Starting is what a user waits for: all groups of three nodes writable well
// within a second, and their leaders spread evenly from the beginning.
func TestAllGroupsStartSoonAndSpread(t *testing.T) {
	c := newTestCluster(t, 3, eggs.Groups, nil)
	c.startAll()
	c.begin()
	t.Logf("first start: all writable after %v", c.writable(10*time.Second))
	for _, x := range c.nodes {
		x.stop()
	}
	start := time.Now()
	c.startAll()
	opened := time.Since(start)
	c.writable(10 * time.Second)
	took := time.Since(start)
	t.Logf("restart: open after %v, all writable after %v", opened, took)
	for id, n := range c.spread() {
		if n < 80 || n > 92 {
			t.Errorf("node %s leads %d groups", id, n)
		}
	}
	if took > 3*time.Second {
		t.Errorf("all groups writable only after %v", took)
	}
}
