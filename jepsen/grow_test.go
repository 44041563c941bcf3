//go:build grow

package jepsen

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// grow adds a node and waits until it has its share.
func grow(t *testing.T, c *Cluster) *Node {
	t.Helper()
	n, err := c.Add()
	must(t, err)
	must(t, n.Start())
	must(t, n.WaitReady())
	return n
}

// refusedBy runs a command that must fail, with this in its words.
func refusedBy(t *testing.T, c *Cluster, words string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	if out, err := c.Eggs(ctx, args...); err == nil || !strings.Contains(err.Error(), words) {
		t.Fatalf("eggs %v: %v, want a refusal that says %q\n%s", args, err, words, out)
	}
}

// TestGrowShort: under a load, a fourth node joins and takes its share; one drains, leadership
// and replicas, is removed, and its identity is refused; one is lost with its folder, comes
// back empty at the same address, and the old identity goes by itself once declared lost.
func TestGrowShort(t *testing.T) {
	c := start(t, 3, "--block-services", "3", "--reserve", "1 MiB")
	refusedBy(t, c, "each group has 3 voters and only 2", "node", "drain", c.Node(2).Addr)
	l := startLoad(t, c)
	four := grow(t, c)
	waitEven(t, c, 4)

	refusedBy(t, c, "drain", "node", "remove", c.Node(1).Addr)
	refusedBy(t, c, "it answers", "node", "remove", "--lost", c.Node(1).Addr)
	run(t, c, "node", "drain", "--no-wait", c.Node(1).Addr)
	waitReplicas(t, c, c.Node(1).Addr, 0)
	run(t, c, "node", "drain", "--undo", c.Node(1).Addr)
	waitEven(t, c, 4)

	four.Kill()
	must(t, os.RemoveAll(four.Data))
	must(t, four.Start()) // a new identity at the same address
	old := ""
	for limit := time.Now().Add(readyLimit); old == "" && time.Now().Before(limit); time.Sleep(200 * time.Millisecond) {
		for _, n := range listNodes(t, c) {
			if n.Address == four.Addr && n.State == "down" {
				old = n.ID
			}
		}
	}
	run(t, c, "node", "remove", "--lost", old)
	must(t, four.WaitReady())
	waitEven(t, c, 4)
	for _, n := range listNodes(t, c) {
		if n.ID == old {
			t.Fatalf("the lost node is still a member: %+v", n)
		}
	}
	l.end()
	run(t, c, "check")
}

// waitReplicas waits until the node at an address holds so many replicas and leads none.
func waitReplicas(t *testing.T, c *Cluster, addr string, want int) {
	t.Helper()
	var last listedNode
	for limit := time.Now().Add(2 * readyLimit); time.Now().Before(limit); time.Sleep(200 * time.Millisecond) {
		for _, n := range listNodes(t, c) {
			if n.Address == addr {
				last = n
			}
		}
		if last.Replicas == want && last.Leads == 0 {
			return
		}
	}
	t.Fatalf("%+v, want %d replicas and no leader", last, want)
}
