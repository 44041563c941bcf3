//go:build grow

package jepsen

import (
	"os"
	"testing"
	"time"
)

// TestGrowAndShrink: the whole life of a cluster under writers and readers with checksums on two
// mounts: three nodes become five, two are drained and removed, each node is restarted in
// turn, one is lost for good and replaced by an empty one. Replicas and leaders are even after each
// step, nothing acknowledged is lost, and at the end every file has its full redundancy, with
// nobody doing anything but join, drain and remove.
func TestGrowAndShrink(t *testing.T) {
	c := start(t, 3, "--gc-interval", "2s", "--reserve", "1 MiB")
	retireAfter(t, c, 10*time.Second)
	l := startLoad(t, c)
	begun := time.Now()
	step := func(what string) {
		t.Logf("%s: %s; the longest write or read so far %s", what, time.Since(begun).Round(100*time.Millisecond),
			l.slowest().Round(time.Millisecond))
		begun = time.Now()
	}
	four, five := grow(t, c), grow(t, c)
	waitEven(t, c, 5)
	step("three nodes became five")

	for _, n := range []*Node{c.Node(1), four} {
		run(t, c, "node", "drain", n.Addr)
		if n := blockFiles(t, n); n > 0 {
			t.Fatalf("a drained node has %d blocks", n)
		}
		run(t, c, "node", "remove", n.Addr)
		n.Kill()
	}
	waitEven(t, c, 3)
	step("five became three")

	for _, n := range []*Node{c.Node(0), c.Node(2), five} {
		must(t, n.Stop())
		must(t, n.Start())
		must(t, n.WaitReady())
		waitHealthy(t, c)
	}
	waitEven(t, c, 3)
	step("each restarted in turn")

	six := grow(t, c)
	waitEven(t, c, 4)
	fullAgain(t, c, 5*time.Minute)
	five.Kill()
	must(t, os.RemoveAll(five.Data))
	run(t, c, "node", "remove", "--lost", five.Addr)
	waitEven(t, c, 3)
	step("a node was lost for good")
	must(t, five.Start()) // an empty folder: another node, at the same address
	must(t, five.WaitReady())
	waitEven(t, c, 4)
	step("an empty node took its place")

	// Every older node dies in the middle of the next move, the placer's among them.
	seven, err := c.Add()
	must(t, err)
	must(t, seven.Start())
	for _, n := range []*Node{c.Node(0), c.Node(2), five, six} {
		time.Sleep(300 * time.Millisecond)
		n.Kill()
		must(t, n.Start())
		must(t, n.WaitReady())
	}
	must(t, seven.WaitReady())
	waitEven(t, c, 5)
	step("a fifth joined while each of the others was killed once")
	l.end()
	t.Logf("full redundancy of every file after %s", fullAgain(t, c, 5*time.Minute).Round(time.Second))
	run(t, c, "check")
	nothingIsLeft(t, c, l.one)
}
