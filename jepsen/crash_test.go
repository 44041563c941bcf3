package jepsen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
)

func library(t *testing.T, c *Cluster) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	l, err := client.Open(ctx, client.Config{Addrs: strings.Split(c.Addrs(), ","), KeyFile: c.Key()})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// put makes a small file whose content is its name.
func put(ctx context.Context, l *client.Client, dir eggs.InodeID, name string) error {
	w, err := l.Create(ctx, dir, name, client.CreateOptions{Mode: 0o644})
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, name); err != nil {
		w.Abort()
		return err
	}
	_, err = w.Close(ctx)
	return err
}

// load makes files in many directories until stop, and keeps a ledger of those that
// were acknowledged.
type load struct {
	dirs    []eggs.InodeID
	mu      sync.Mutex
	acked   map[eggs.InodeID][]string
	worst   atomic.Int64 // longest call, ns
	unknown atomic.Int64
	failed  atomic.Int64
	cause   atomic.Pointer[error]
}

func newLoad(t *testing.T, l *client.Client, name string, dirs int) *load {
	t.Helper()
	x := &load{acked: map[eggs.InodeID][]string{}}
	for i := range dirs {
		a, err := l.Mkdir(context.Background(), eggs.Root, fmt.Sprintf("%s%d", name, i),
			client.CreateOptions{Mode: 0o755})
		must(t, err)
		x.dirs = append(x.dirs, a.ID)
	}
	return x
}

func (x *load) run(ctx context.Context, l *client.Client, writers int) {
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				dir, name := x.dirs[(w+i)%len(x.dirs)], fmt.Sprintf("w%d-%d", w, i)
				begin := time.Now()
				err := put(context.Background(), l, dir, name)
				x.worst.Store(max(x.worst.Load(), int64(time.Since(begin))))
				switch {
				case err == nil:
					x.mu.Lock()
					x.acked[dir] = append(x.acked[dir], name)
					x.mu.Unlock()
				case errors.Is(err, eggs.Indeterminate):
					x.unknown.Add(1)
				default:
					x.failed.Add(1)
					x.cause.Store(&err)
				}
			}
		})
	}
	wg.Wait()
}

// verify fails unless every acknowledged file is there with its content.
func (x *load) verify(t *testing.T, l *client.Client) (files int) {
	t.Helper()
	ctx := context.Background()
	for dir, names := range x.acked {
		there := map[string]client.Entry{}
		for after := uint64(0); ; {
			entries, _, end, err := l.ReadDir(ctx, dir, after, 1000, true)
			must(t, err)
			for _, e := range entries {
				there[e.Name], after = e, e.Cursor
			}
			if end {
				break
			}
		}
		for i, name := range names {
			e, ok := there[name]
			if !ok {
				t.Fatalf("%s was acknowledged and is gone", name)
			}
			if e.Attr == nil || e.Attr.Size != int64(len(name)) {
				t.Fatalf("%s has attributes %+v", name, e.Attr)
			}
			if i%20 != 0 {
				continue
			}
			r, err := l.Open(ctx, e.Target)
			must(t, err)
			b := make([]byte, len(name))
			if _, err := r.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) || string(b) != name {
				t.Fatalf("%s reads %q, %v", name, b, err)
			}
			r.Close()
		}
		files += len(names)
	}
	return files
}

// TestKillAllUnderLoad: SIGKILL of every process at once, under load, loses
// nothing that was acknowledged, and the replicas come to the same state.
func TestKillAllUnderLoad(t *testing.T) {
	c := start(t, 3)
	l := library(t, c)
	x := newLoad(t, l, "load", 16)
	for round := range 3 {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { x.run(ctx, l, 32) })
		time.Sleep(1500 * time.Millisecond)
		var kills sync.WaitGroup
		for _, n := range c.Nodes() {
			kills.Go(n.Kill)
		}
		kills.Wait()
		must(t, c.Start())
		cancel()
		wg.Wait()
		files := x.verify(t, l)
		t.Logf("round %d: %d files acknowledged and there, %d unknown, %d failed", round, files,
			x.unknown.Load(), x.failed.Load())
		if files == 0 {
			t.Fatal("the load did nothing: the test shows nothing")
		}
	}
	if x.failed.Load() > 0 {
		t.Fatalf("%d operations failed, though the cluster came back in time: %v", x.failed.Load(), *x.cause.Load())
	}
	replicasEqual(t, c)
	run(t, c, "check")
}

// replicasEqual compares the state hashes of all replicas at the same index (invariant 32).
func replicasEqual(t *testing.T, c *Cluster) {
	t.Helper()
	for g := range eggs.Groups {
		name := eggs.GroupID(g).String()
		var first string
		for try := 0; ; try++ {
			first = ""
			same := true
			var all []string
			for _, n := range c.Nodes() {
				s := stateOf(t, n, name)
				all = append(all, s)
				if first == "" {
					first = s
				}
				same = same && s == first
			}
			if same {
				break
			}
			if try > 1200 { // an idle group tells its followers within 20 s that an entry is committed
				t.Fatalf("group %s: the replicas differ: %q", name, all)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func stateOf(t *testing.T, n *Node, group string) string {
	t.Helper()
	resp, err := http.Get("http://" + n.HTTP + "/api/groups/" + group)
	must(t, err)
	defer resp.Body.Close()
	var v struct {
		Hash  string `json:"state_hash"`
		Index uint64 `json:"hash_index"`
	}
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("/api/groups/%s of node %d: %s", group, n.Index+1, b)
	}
	return fmt.Sprintf("%s at %d", v.Hash, v.Index)
}

// TestFailover: with one node of three killed or stopped, operations go on
// after the failover time, and none fails.
func TestFailover(t *testing.T) {
	c := start(t, 3)
	l := library(t, c)
	for _, how := range []string{"SIGKILL", "SIGSTOP"} {
		x := newLoad(t, l, how, 16)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { x.run(ctx, l, 16) })
		time.Sleep(time.Second)
		n := c.Node(2)
		if how == "SIGKILL" {
			n.Kill()
		} else {
			n.Pause()
		}
		time.Sleep(5 * time.Second)
		if how == "SIGKILL" {
			must(t, n.Start())
			must(t, n.WaitReady())
		} else {
			n.Resume()
		}
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
		files := x.verify(t, l)
		t.Logf("%s: %d files, %d unknown, %d failed; the longest call took %s", how, files, x.unknown.Load(),
			x.failed.Load(), time.Duration(x.worst.Load()).Round(time.Millisecond))
		if x.failed.Load() > 0 {
			t.Fatalf("%s: %d operations failed: %v", how, x.failed.Load(), *x.cause.Load())
		}
		if files < 200 {
			t.Fatalf("%s: %d files only: the load stood still", how, files)
		}
	}
	replicasEqual(t, c)
}
