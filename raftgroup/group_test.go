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
	c.eventually(20*time.Second, "even leaders", func() bool {
		s := c.spread()
		return s[1] == 86 && s[2] == 86 && s[3] == 85
	})
	if took > 8*time.Second {
		t.Errorf("all groups writable only after %v", took)
	}
}
