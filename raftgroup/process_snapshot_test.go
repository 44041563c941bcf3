package raftgroup

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Why: the state store has no log of its own, so each step of an installation relies on the one
// before being durable. A process is killed at each of them, restarted, and must end
// equal to its peers, with all that was acknowledged; also if the kill comes while the start
// repeats a load that a kill cut off before.
func TestKilledWhileInstallingSnapshot(t *testing.T) {
	ps := newProcesses(t, 3, 2)
	for _, c := range ps.nodes {
		c.conf.Truncate = TruncateLimits{Limit: 100 << 10, Tail: 20 << 10}
	}
	ps.start(ps.nodes...)
	ps.writable(20 * time.Second)
	victim := ps.nodes[2]
	rest := &processes{t: t, nodes: ps.nodes[:2]}
	acked := 0
	for _, arrow := range []string{"received", "marked", "loading", "loaded", "flushed", "removed"} {
		victim.kill()
		acked = rest.behind(acked)
		victim.conf.KillAt = arrow
		ps.killed(victim, arrow)
		if arrow == "loading" {
			ps.killed(victim, "loading, again") // by the start, which repeats it
		}
		victim.conf.KillAt = ""
		ps.start(victim)
		ps.sameHashes()
		if t.Failed() {
			t.Fatalf("after %q", arrow)
		}
	}
	for g := range 2 {
		for i := range acked {
			if v := ps.get(g, fmt.Sprint("k", i)); !strings.HasPrefix(v, "xx") {
				t.Fatalf("group %d: key %d is lost: %.10q", g, i, v)
			}
		}
	}
}

// behind writes until what the node that is down lacks is truncated, and returns the number of keys.
func (ps *processes) behind(from int) int {
	ps.t.Helper()
	truncated := func() uint64 {
		return min(ps.nodes[0].stat(false).Stats.Truncated, ps.nodes[1].stat(false).Stats.Truncated)
	}
	before, to := truncated(), from+200
	value := strings.Repeat("x", 2000)
	for g := range 2 {
		var all sync.WaitGroup
		for w := range 8 {
			all.Go(func() {
				for i := from + w; i < to; i += 8 {
					if !ps.put(g, fmt.Sprintf("k%d=%s", i, value), 20*time.Second) {
						ps.t.Errorf("group %d takes no write", g)
						return
					}
				}
			})
		}
		all.Wait()
	}
	eventually(ps.t, "the log is truncated", func() bool { return truncated() > before })
	return to
}

// killed starts a node and waits until it has killed itself.
func (ps *processes) killed(c *child, at string) {
	ps.t.Helper()
	ps.start(c)
	ended := make(chan error, 1)
	cmd := c.cmd
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		ps.t.Fatalf("%s: it installed nothing", at)
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
		ps.t.Fatalf("%s: it ended with %v", at, cmd.ProcessState)
	}
	c.cmd = nil
	c.kill() // forgets its connections
}
