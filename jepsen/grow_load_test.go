//go:build grow

package jepsen

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// growLoad is writers on one mount and readers on another, with checksums, for as long as a
// cluster changes under them.
type growLoad struct {
	t        *testing.T
	one, two string
	stop     chan struct{}
	wg       sync.WaitGroup

	mu      sync.Mutex
	files   map[string][32]byte
	names   []string
	longest time.Duration // of one file's write or read
}

func startLoad(t *testing.T, c *Cluster) *growLoad {
	t.Helper()
	l := &growLoad{
		t: t, one: mount(t, c), two: mount(t, c), stop: make(chan struct{}), files: map[string][32]byte{},
	}
	t.Cleanup(l.quit) // before the mounts go
	for w := range 2 {
		must(t, os.Mkdir(filepath.Join(l.one, fmt.Sprint("w", w)), 0o755))
		l.wg.Go(func() { l.write(w) })
		l.wg.Go(func() { l.read(w) })
	}
	return l
}

func (l *growLoad) quit() {
	if !l.over() {
		close(l.stop)
	}
	l.wg.Wait()
}

func (l *growLoad) over() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

func (l *growLoad) took(since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.longest = max(l.longest, time.Since(since))
}

func (l *growLoad) slowest() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.longest
}

func (l *growLoad) write(w int) {
	r := rand.New(rand.NewPCG(uint64(w), 7))
	for i := 0; !l.over(); i++ {
		b := make([]byte, r.IntN([]int{200, 64 << 10, 2 << 20}[i%3]))
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		name := fmt.Sprintf("w%d/f%d", w, i)
		begun := time.Now()
		if err := os.WriteFile(filepath.Join(l.one, name), b, 0o644); err != nil {
			l.t.Errorf("writing %s: %v", name, err)
			return
		}
		l.took(begun)
		l.mu.Lock()
		l.files[name] = sha256.Sum256(b)
		l.names = append(l.names, name)
		l.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
}

func (l *growLoad) read(w int) {
	r := rand.New(rand.NewPCG(uint64(w), 8))
	for !l.over() {
		l.mu.Lock()
		name := ""
		if len(l.names) > 0 {
			name = l.names[r.IntN(len(l.names))]
		}
		l.mu.Unlock()
		if name != "" {
			begun := time.Now()
			if err := l.check(l.two, name); err != nil {
				l.t.Error(err)
				return
			}
			l.took(begun)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (l *growLoad) check(mnt, name string) error {
	b, err := os.ReadFile(filepath.Join(mnt, name))
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	l.mu.Lock()
	want := l.files[name]
	l.mu.Unlock()
	if sha256.Sum256(b) != want {
		return fmt.Errorf("%s has %d wrong bytes", name, len(b))
	}
	return nil
}

// end stops the load and reads every file that was ever acknowledged.
func (l *growLoad) end() {
	l.t.Helper()
	l.quit()
	for _, name := range l.names {
		if err := l.check(l.two, name); err != nil {
			l.t.Fatal(err)
		}
	}
	l.t.Logf("%d files; the longest write or read of one took %s", len(l.names), l.longest.Round(time.Millisecond))
	if len(l.names) == 0 {
		l.t.Fatal("nothing was written")
	}
}

type listedNode struct {
	ID, Address, State string
	Replicas, Leads    int
	Blocks             int
}

func listNodes(t *testing.T, c *Cluster) []listedNode {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	out, err := c.Eggs(ctx, "node", "list", "-o", "json")
	must(t, err)
	var nodes []listedNode
	must(t, json.Unmarshal(out, &nodes))
	return nodes
}

// waitEven waits until the ready nodes, of which there are so many, hold and lead as many
// groups each, give or take one.
func waitEven(t *testing.T, c *Cluster, nodes int) {
	t.Helper()
	var last []listedNode
	for limit := time.Now().Add(2 * readyLimit); time.Now().Before(limit); time.Sleep(200 * time.Millisecond) {
		last = listNodes(t, c)
		ready, least, most, leads, leadm := 0, 1<<30, 0, 1<<30, 0
		for _, n := range last {
			if n.State == "ready" {
				ready++
				least, most = min(least, n.Replicas), max(most, n.Replicas)
				leads, leadm = min(leads, n.Leads), max(leadm, n.Leads)
			}
		}
		if ready == nodes && most-least <= 1 && leadm-leads <= 1 {
			return
		}
	}
	t.Fatalf("replicas and leaders are not even on %d nodes: %+v", nodes, last)
}

func waitHealthy(t *testing.T, c *Cluster) {
	t.Helper()
	var out []byte
	var err error
	for limit := time.Now().Add(2 * readyLimit); time.Now().Before(limit); time.Sleep(500 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
		out, err = c.Eggs(ctx, "status", "--exit-code")
		cancel()
		if err == nil {
			return
		}
	}
	t.Fatalf("not healthy: %v\n%s", err, out)
}
