package jepsen

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
)

// Why: the leader's clock is the group's time, and that never goes back: an hour ahead would
// expire all that is deleted or unfinished. A node with such a clock must lead nothing within
// seconds, without stopping anybody, say so, and lead again when it is right.
func TestClockAnHourAhead(t *testing.T) {
	dir := t.TempDir()
	shift := filepath.Join(dir, "clock")
	c, err := New(Config{Bin: binaries, Dir: filepath.Join(dir, "c"), Nodes: 3, Args: []string{
		"--unsafe-test-knobs", "--test-clock-file", shift + "-0",
	}})
	must(t, err)
	defer c.Close()
	for i, n := range c.Nodes() { // each node has a clock of its own
		n.c.cfg.Args[2] = fmt.Sprintf("%s-%d", shift, i)
		must(t, n.Start())
	}
	must(t, c.WaitReady())
	ctx := context.Background()
	l, err := client.Open(ctx, client.Config{Addrs: []string{c.Node(1).Addr, c.Node(2).Addr}, KeyFile: c.Key()})
	must(t, err)
	defer l.Close()
	id := nodeAt(t, l, c.Node(0).Addr)
	leads := func() (n int) {
		for _, leader := range l.Routes().Leaders[:eggs.Shards] {
			if eggs.NodeID(leader) == id {
				n++
			}
		}
		return n
	}
	within := func(what string, limit time.Duration, f func() bool) {
		t.Helper()
		begin := time.Now()
		for i := 0; !f(); i++ {
			if time.Since(begin) > limit {
				t.Fatalf("not within %v: %s; it leads %d shards", limit, what, leads())
			}
			must(t, put(ctx, l, eggs.Root, fmt.Sprintf("%s %d", what, i))) // writes go on
			time.Sleep(50 * time.Millisecond)
		}
		t.Logf("%s: after %v", what, time.Since(begin))
	}
	within("it leads", 30*time.Second, func() bool { return leads() > 60 })
	must(t, os.WriteFile(shift+"-0", []byte(fmt.Sprint(int64(time.Hour))), 0o644))
	within("it leads nothing", 15*time.Second, func() bool { return leads() == 0 })
	out, _ := c.Eggs(ctx, "status")
	if !strings.Contains(string(out), "ahead of the others") {
		t.Errorf("status says nothing of the clock:\n%s", out)
	}
	must(t, os.WriteFile(shift+"-0", []byte("0"), 0o644))
	within("it leads again", 30*time.Second, func() bool { return leads() > 60 })
}

// nodeAt returns the id of the node with an address.
func nodeAt(t *testing.T, l *client.Client, addr string) eggs.NodeID {
	t.Helper()
	for _, n := range l.Routes().Nodes {
		if n.Address == addr {
			return eggs.NodeID(n.Id)
		}
	}
	t.Fatalf("no node at %s", addr)
	return 0
}
