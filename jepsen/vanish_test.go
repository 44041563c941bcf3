package jepsen

import (
	"context"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// logged waits until the node's log says word.
func logged(t *testing.T, n *Node, word string) {
	t.Helper()
	for limit := time.Now().Add(readyLimit); ; time.Sleep(50 * time.Millisecond) {
		b, err := os.ReadFile(n.Data + ".log")
		must(t, err)
		if strings.Contains(string(b), word) {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("node %d does not say %q:\n%s", n.Index+1, word, n.LogTail())
		}
	}
}

// TestStateVanishes: a node whose state folder is removed under it says so and ends, at the next
// flush or at SIGTERM, without an endless log, and is not started again without its state;
// the others go on and nothing acknowledged is lost.
func TestStateVanishes(t *testing.T) {
	c := start(t, 3)
	l := library(t, c)
	x := newLoad(t, l, "load", 16)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { x.run(ctx, l, 8) })
	time.Sleep(time.Second)
	n := c.Node(2)
	must(t, os.RemoveAll(n.Data+"/state"))
	time.Sleep(time.Second)
	begin := time.Now()
	_ = n.Stop() // with an error, since its state could not be written; or it ended by itself
	t.Logf("SIGTERM ended the node in %s", time.Since(begin).Round(100*time.Millisecond))
	if n.Running() {
		t.Fatal("the node runs on after SIGTERM")
	}
	logged(t, n, "state store")
	st, err := os.Stat(n.Data + ".log")
	must(t, err)
	if st.Size() > 1<<20 {
		t.Errorf("the node wrote a log of %d bytes about it", st.Size())
	}
	must(t, n.Start())
	if err := n.WaitReady(); err == nil {
		t.Error("a node without its state calls itself ready")
	}
	n.Kill()
	logged(t, n, "eggsnode: ")
	if tail := n.LogTail(); !strings.Contains(tail, "state") || strings.Contains(tail, "goroutine ") {
		t.Errorf("a node without its state ends with:\n%s", tail)
	}
	cancel()
	wg.Wait()
	if x.failed.Load() > 0 {
		t.Fatalf("%d operations failed, though two nodes of three were well: %v", x.failed.Load(), *x.cause.Load())
	}
	if files := x.verify(t, l); files == 0 {
		t.Fatal("the load did nothing: the test shows nothing")
	}
}

// TestFullToTheLastByte: other users filled the file system of one node of three, so that not
// even its log can grow. The others go on, nothing acknowledged is lost, and with
// room again the node comes back as it was.
func TestFullToTheLastByte(t *testing.T) {
	dir := t.TempDir()
	c, err := New(Config{Bin: binaries, Dir: dir, Nodes: 3, Args: []string{"--reserve", "16MiB"}})
	must(t, err)
	t.Cleanup(c.Close)
	n := c.Node(2)
	must(t, os.Mkdir(n.Data, 0o700))
	must(t, syscall.Mount("none", n.Data, "tmpfs", 0, "size=256m"))
	t.Cleanup(func() { _ = syscall.Unmount(n.Data, syscall.MNT_DETACH) })
	must(t, c.Start())
	mnt := mount(t, c)
	kept := newLargeFiles(4)
	kept.write(t, mnt)
	sh(t, "dd if=/dev/zero of=%s/fill bs=4k 2>/dev/null || true", n.Data)
	if free := sh(t, "df --output=avail -B1 %s | tail -1", n.Data); free != "0" {
		t.Fatalf("the file system is not full: %s bytes are free", free)
	}
	l := library(t, c)
	x := newLoad(t, l, "load", 16)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	x.run(ctx, l, 8)
	kept.compare(t, c, "with one node's disk full to the last byte")
	more := newLargeFiles(1)
	must(t, os.WriteFile(mnt+"/more", more.content(0), 0o644))
	if x.failed.Load() > 0 {
		t.Fatalf("%d operations failed, though two nodes of three were well: %v", x.failed.Load(), *x.cause.Load())
	}
	if strings.Contains(n.LogTail(), "goroutine ") {
		t.Fatalf("the full node crashed:\n%s", n.LogTail())
	}
	t.Logf("the full node runs: %v", n.Running())
	must(t, os.Remove(n.Data+"/fill"))
	must(t, c.Start())
	files := x.verify(t, l)
	if files == 0 {
		t.Fatal("the load did nothing: the test shows nothing")
	}
	kept.compare(t, c, "with room again")
}
