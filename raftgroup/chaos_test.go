package raftgroup

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"eggsfs/eggs"
)

// Whatever happens to nodes and links, a read shows at least what was
// acknowledged before it began, from whichever node it is answered, and what was
// refused for certain never shows. EGGS_CHAOS_SECONDS makes it longer.
func TestReadsAndWritesUnderFaults(t *testing.T) {
	secs, _ := strconv.Atoi(os.Getenv("EGGS_CHAOS_SECONDS"))
	secs = max(secs, 4)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := newTestCluster(t, 3, 6, func(cfg *Config) {
		cfg.Timers.Settle = 300 * time.Millisecond
		cfg.Truncate = TruncateLimits{Limit: 256 << 10, Tail: 32 << 10}
	})
	c.startAll()
	c.begin()
	c.writable(10 * time.Second)
	x := &chaos{c: c, over: make(chan struct{})}
	for i := range x.keys {
		x.keys[i].group = eggs.GroupID(i % 6)
		x.keys[i].name = fmt.Sprintf("k%d", i)
	}
	var all sync.WaitGroup
	for i := range x.keys {
		all.Go(func() { x.write(&x.keys[i], rand.New(rand.NewPCG(seed, uint64(i)))) })
		all.Go(func() { x.read(&x.keys[i], rand.New(rand.NewPCG(seed, 100+uint64(i)))) })
	}
	x.trouble(rand.New(rand.NewPCG(seed, 1000)), time.Duration(secs)*time.Second)
	close(x.over)
	all.Wait()
	c.writable(10 * time.Second)
	c.sameState()
	t.Logf("%d writes, %d reads, %d faults", x.writes.Load(), x.reads.Load(), x.faults)
	if x.writes.Load() == 0 || x.reads.Load() == 0 {
		t.Error("nothing happened")
	}
}

type chaos struct {
	c      *testCluster
	keys   [12]chaosKey
	mu     sync.RWMutex // written while a node is being restarted
	over   chan struct{}
	faults int

	writes, reads atomic.Int64
}

// chaosKey has one writer, which writes 1, 2, 3, …
type chaosKey struct {
	group    eggs.GroupID
	name     string
	acked    atomic.Int64 // greatest that was acknowledged
	possible atomic.Int64 // greatest that may have been written
}

func (x *chaos) ended() bool {
	select {
	case <-x.over:
		return true
	default:
		return false
	}
}

// some returns a random node's replica, nil if it is down.
func (x *chaos) some(k *chaosKey, r *rand.Rand) *Group {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := x.c.nodes[r.IntN(len(x.c.nodes))]
	if n.host == nil {
		return nil
	}
	return n.host.Group(k.group)
}

func (x *chaos) write(k *chaosKey, r *rand.Rand) {
	filler := make([]byte, 500)
	for next := int64(1); !x.ended(); {
		g := x.some(k, r)
		if g == nil {
			continue
		}
		k.possible.Store(next)
		ctx, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
		_, err := g.Propose(ctx, fmt.Appendf(nil, "%s=%d %x", k.name, next, filler))
		cancel()
		switch {
		case err == nil:
			k.acked.Store(next)
			x.writes.Add(1)
			next++
		case eggs.KindOf(err) == eggs.Indeterminate:
			next++ // never again under this number: it may come later
		default:
			k.possible.Store(next - 1)
			time.Sleep(time.Millisecond)
		}
	}
}

func (x *chaos) read(k *chaosKey, r *rand.Rand) {
	last := int64(0)
	for !x.ended() {
		g := x.some(k, r)
		if g == nil {
			continue
		}
		before := max(k.acked.Load(), last)
		ctx, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
		v, err := g.Read(ctx)
		cancel()
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		b, _ := v.Get([]byte(k.name))
		v.Close()
		var got int64
		_, _ = fmt.Sscanf(string(b), "%d", &got)
		if got < before {
			x.c.t.Errorf("key %s: read %d after %d was acknowledged or read", k.name, got, before)
		}
		if p := k.possible.Load(); got > p {
			x.c.t.Errorf("key %s: read %d, of which nobody was told that it may be", k.name, got)
		}
		last = max(last, got)
		x.reads.Add(1)
		time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond)
	}
}

// trouble makes faults, one after the other, and heals each.
func (x *chaos) trouble(r *rand.Rand, during time.Duration) {
	c := x.c
	wait := func(least, most int) {
		time.Sleep(time.Duration(least+r.IntN(most-least)) * time.Millisecond)
	}
	for end := time.Now().Add(during); time.Now().Before(end); x.faults++ {
		n := c.nodes[r.IntN(3)]
		switch r.IntN(5) {
		case 0:
			c.net.isolate(n.id, true)
			wait(100, 2500)
			c.net.isolate(n.id, false)
		case 1:
			m := c.nodes[r.IntN(3)]
			if m != n {
				c.net.cut(n.id, m.id, true)
				wait(100, 2000)
				c.net.cut(n.id, m.id, false)
			}
		case 2:
			x.mu.Lock()
			n.stop()
			x.mu.Unlock()
			wait(10, 700)
			x.mu.Lock()
			n.start(c.groups)
			x.mu.Unlock()
		case 3:
			for _, g := range c.groups {
				l := c.leader(g).host.Group(g)
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				_ = l.Transfer(ctx, n.id)
				cancel()
			}
		case 4: // connections break, and that is all
			c.net.isolate(n.id, true)
			for _, p := range n.host.allPeers() {
				if l := p.current(); l != nil {
					l.out.close()
				}
			}
			c.net.isolate(n.id, false)
		}
		wait(10, 400)
	}
}
