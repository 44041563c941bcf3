package netns

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fake is a server in two lines: the harness's own road is what is tested.
const fake = `#!/bin/sh
while [ $# -gt 0 ]; do
  case $1 in --key-file) key=$2;; --data) data=$2;; esac
  shift
done
mkdir -p "$data"; touch "$key" "$data/node.json"
echo "ready, and more"
exec sleep 60
`

// TestCluster starts, pauses, kills and stops nodes, on loopback addresses and in
// namespaces, so that a fault does what its name says.
func TestCluster(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "eggsnode"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, loopback := range []bool{true, false} {
		c, err := New(Config{Bin: bin, Dir: t.TempDir(), Nodes: 3, Loopback: loopback})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if loopback != (c.Network() == nil) && os.Getuid() == 0 {
			t.Fatal("a network is there, or is not, against what was asked")
		}
		b, err := os.ReadFile(c.Node(2).Log())
		if err != nil || !strings.Contains(string(b), "--join "+c.Node(0).Addr+","+c.Node(1).Addr) {
			t.Fatalf("node 3 was not told whom to join: %v\n%s", err, b)
		}
		n := c.Node(1)
		n.Pause()
		if s := processState(t, n.PID()); s != "T" {
			t.Fatalf("a paused process is in state %s", s)
		}
		n.Kill()
		if n.Running() || n.Err() == nil {
			t.Fatal("a killed node runs")
		}
		n.SetRemoved()
		if len(c.Addrs()) != 2 {
			t.Fatal("a removed node's address is given out")
		}
		if err := c.Start(ctx); err != nil || n.Running() {
			t.Fatal("a removed node was started", err)
		}
		if err := c.Node(2).Stop(); err == nil || c.Node(2).Running() { // sh's child dies of the signal
			t.Fatal("a stopped node runs", err)
		}
	}
}

// processState is the letter in /proc, once it has settled.
func processState(t *testing.T, pid int) string {
	t.Helper()
	state := ""
	for range 100 {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			t.Fatal(err)
		}
		rest := string(b)[strings.LastIndex(string(b), ")")+2:]
		if state = rest[:1]; state == "T" {
			return state
		}
		time.Sleep(10 * time.Millisecond)
	}
	return state
}
