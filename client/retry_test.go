package client_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"eggsfs/client"
	"eggsfs/client/clienttest"
	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

// TestLostReplies: an unlink whose answer is lost must not answer NotExist,
// nor a rename, nor a mkdir Exist: exactly once is what a retry means.
func TestLostReplies(t *testing.T) {
	for name, lose := range map[string]func(w *clienttest.World, m wire.Method){
		"as the leader's doubt": func(w *clienttest.World, m wire.Method) { w.Lose(m, 2) },
		"with the connection":   func(w *clienttest.World, m wire.Method) { w.Cut(m, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			w := clienttest.New(t, clienttest.Config{})
			c := w.Client()
			mkdir(t, c, eggs.Root, "first") // sessions are open
			put(t, c, eggs.Root, "a", []byte("1"))
			lose(w, wire.MethodShard)
			if err := c.Rename(bg, eggs.Root, "a", eggs.Root, "b", true); err != nil {
				t.Fatal(err)
			}
			lose(w, wire.MethodShard)
			if err := c.Unlink(bg, eggs.Root, "b", 0); err != nil {
				t.Fatal(err)
			}
			lose(w, wire.MethodCdc)
			mkdir(t, c, eggs.Root, "d")
			lose(w, wire.MethodCdc)
			if err := c.Rmdir(bg, eggs.Root, "d"); err != nil {
				t.Fatal(err)
			}
			lose(w, wire.MethodShardQuery)
			if _, err := c.Stat(bg, eggs.Root); err != nil {
				t.Fatal(err)
			}
			wr, err := c.Create(bg, eggs.Root, "ex", client.CreateOptions{Exclusive: true})
			if err != nil {
				t.Fatal(err)
			}
			lose(w, wire.MethodShard)
			if _, err := wr.Close(bg); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestLeaderChange: a wrong leader names the right one, whether or not the
// picture has been told, and a group without a leader is waited for.
func TestLeaderChange(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	c := w.Client()
	g := eggs.Root.Shard().Group()
	put(t, c, eggs.Root, "a", nil)
	w.Lead(g, (w.Leader(g)+1)%3) // not published
	put(t, c, eggs.Root, "b", nil)
	before := w.Count(wire.MethodShard)
	put(t, c, eggs.Root, "c", nil)
	if n := w.Count(wire.MethodShard) - before; n != 1 {
		t.Fatalf("%d requests: the hint was not remembered", n)
	}
	dead := w.Leader(g)
	w.Nodes[dead].Stop()
	done := make(chan error, 1)
	go func() { done <- c.Unlink(bg, eggs.Root, "a", 0) }()
	time.Sleep(50 * time.Millisecond)
	w.Lead(g, (dead+1)%3)
	w.Publish()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestTimeout: a call that surely did nothing says Timeout, one that may have
// been done says Indeterminate, one that was given up Canceled.
func TestTimeout(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	c := w.ClientWith(client.Options{Timeout: 150 * time.Millisecond})
	put(t, c, eggs.Root, "a", nil)
	w.Refuse(wire.MethodShard, 1<<30, eggs.E("test", eggs.Unavailable, "no majority"))
	wantKind(t, c.Unlink(bg, eggs.Root, "a", 0), eggs.Timeout)
	ctx, cancel := context.WithCancel(bg)
	time.AfterFunc(30*time.Millisecond, cancel)
	wantKind(t, c.Unlink(ctx, eggs.Root, "a", 0), eggs.Canceled)

	w2 := clienttest.New(t, clienttest.Config{})
	c2 := w2.ClientWith(client.Options{Timeout: 150 * time.Millisecond})
	put(t, c2, eggs.Root, "a", nil)
	w2.Lose(wire.MethodShard, 1<<30)
	wantKind(t, c2.Unlink(bg, eggs.Root, "a", 0), eggs.Indeterminate)
	w2.Refuse(wire.MethodShardQuery, 1<<30, eggs.E("test", eggs.Unavailable, "no majority"))
	_, err := c2.Stat(bg, eggs.Root)
	wantKind(t, err, eggs.Timeout)
}

// TestSessionEnds: a session that the group has forgotten is replaced when
// the request was never sent; when it may have been done, the caller is told.
func TestSessionEnds(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	c := w.Client()
	put(t, c, eggs.Root, "a", nil)
	wr, err := c.Create(bg, eggs.Root, "late", client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Advance(3 * time.Hour)
	if err := c.Unlink(bg, eggs.Root, "a", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := wr.Close(bg); err != nil {
		t.Fatal("a file with an id of the old session: ", err)
	}
	if e, err := c.Lookup(bg, eggs.Root, "late"); err != nil || e.Target != wr.ID() {
		t.Fatal(e, err)
	}
	w.Advance(3 * time.Hour)
	w.Lose(wire.MethodShard, 1)
	wantKind(t, c.Unlink(bg, eggs.Root, "late", 0), eggs.Indeterminate)
	if err := c.Unlink(bg, eggs.Root, "late", 0); err != nil {
		t.Fatal("the client did not open a new session: ", err)
	}
}

// TestManyCallers: one session serves many callers at once, with answers lost
// now and then; every file is there once.
func TestManyCallers(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	c := w.Client()
	const callers, files = 32, 20
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range files {
				wr, err := c.Create(bg, eggs.Root, fmt.Sprintf("f%d-%d", i, j), client.CreateOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				fmt.Fprintf(writerOf{wr}, "%d", j)
				if old, err := wr.Close(bg); err != nil || old != 0 {
					t.Error(old, err)
				}
				if j == 7 {
					w.Lose(wire.MethodShard, 1)
				}
			}
		})
	}
	wg.Wait()
	entries, _, end, err := c.ReadDir(bg, eggs.Root, 0, 10000, false)
	if err != nil || !end || len(entries) != callers*files {
		t.Fatal(len(entries), end, err)
	}
}

type writerOf struct{ client.Writer }

// TestOpenByAddress: a mount knows an address and a key; it finds the rest,
// follows the picture when its node goes, and is refused in words.
func TestOpenByAddress(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if err := os.WriteFile(path, w.Key.Text(), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := client.Config{Addrs: []string{w.Nodes[0].Addr}, KeyFile: path, Timeout: 3 * time.Second}
	c, err := client.Open(bg, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	put(t, c, eggs.Root, "a", nil)
	w.Nodes[0].Stop()
	for g := range eggs.Groups {
		if w.Leader(eggs.GroupID(g)) == 0 {
			w.Lead(eggs.GroupID(g), 1+g%2)
		}
	}
	w.Publish()
	put(t, c, eggs.Root, "b", nil)
	mkdir(t, c, eggs.Root, "d")
	s, err := c.ClusterStatus(bg)
	if err != nil || s.Health != client.Degraded || len(s.Silent) != 1 || len(s.Problems) == 0 {
		t.Fatalf("%+v %v", s, err)
	}
	w.Nodes[0].Start()
	w.Publish()
	deadline := time.Now().Add(30 * time.Second)
	for s.Health != client.Healthy && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
		s, _ = c.ClusterStatus(bg)
	}
	if s.Health != client.Healthy {
		t.Fatalf("%+v", s)
	}

	other, err := auth.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, other.Text(), 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = client.Open(bg, cfg)
	wantKind(t, err, eggs.Permission)
	if time.Since(start) > 2*time.Second {
		t.Fatal("the refusal was waited for")
	}
	_, err = client.Open(bg, client.Config{
		Addrs: []string{"127.0.0.1:1"}, KeyFile: path,
		Timeout: 300 * time.Millisecond,
	})
	if k := eggs.KindOf(err); k != eggs.Unavailable && k != eggs.Timeout {
		t.Fatal(err)
	}
}

// TestHungLeaderIsLeft: a leader that hangs keeps its connections, so whoever waits for it learns
// from the picture that it is down, and at once: that bounds how long a hung node stops writers.
func TestHungLeaderIsLeft(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	c := w.Client()
	put(t, c, eggs.Root, "a", []byte("1"))
	g := eggs.Root.Shard().Group()
	hung := w.Leader(g)
	w.Hang(wire.MethodShard, 1)
	before := w.Count(wire.MethodShard)
	done := make(chan error, 1)
	go func() { done <- c.Rename(bg, eggs.Root, "a", eggs.Root, "b", true) }()
	for w.Count(wire.MethodShard) == before {
		time.Sleep(time.Millisecond)
	}
	for i := range eggs.Groups {
		w.Lead(eggs.GroupID(i), (hung+1)%3)
	}
	w.Nodes[hung].Declare(false)
	w.Publish()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(1500 * time.Millisecond):
		t.Error("it still waits for the node that is down")
	}
}
