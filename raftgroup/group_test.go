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
	t.Logf("first start: all writable after %v", c.writable(60*time.Second))
	for _, x := range c.nodes {
		x.stop()
	}
	start := time.Now()
	c.startAll()
	opened := time.Since(start)
	c.writable(60 * time.Second)
	took := time.Since(start)
	t.Logf("restart: open after %v, all writable after %v", opened, took)
	c.eventually(60*time.Second, "even leaders", func() bool {
		s := c.spread()
		return s[1] == 86 && s[2] == 86 && s[3] == 85
	})
	if took > 30*time.Second { // 1 to 2 s on an idle machine
		t.Errorf("all groups writable only after %v", took)
	}
}
