package cdc

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "first seed of the random test; 0: 1")
	seedsFlag = flag.Int("seeds", 40, "how many seeds the random test plays")
)

// chaos is a random run: clients that change few names, messages that are late, lost
// and doubled, and leaders that fall.
type chaos struct {
	*world
	mu    sync.Mutex
	rand  *rand.Rand
	known []uint64 // directories that are or were
	past  []pastVersion
	made  map[uint64]bool
	late  sync.WaitGroup
}

type pastVersion struct {
	dir    uint64
	name   string
	target uint64
	time   int64
}

func (c *chaos) n(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rand.IntN(n)
}

func (c *chaos) dir() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Mostly few and recent ones, so that transactions meet.
	if n := len(c.known); n > 4 && c.rand.IntN(4) > 0 {
		return c.known[n-1-c.rand.IntN(4)]
	}
	return c.known[c.rand.IntN(len(c.known))]
}

func (c *chaos) name() string { return string(rune('a' + c.n(4))) }

func (c *chaos) pause(limit int) { time.Sleep(time.Duration(c.n(limit*1000)) * time.Microsecond) }

// weather is what happens to messages.
func (c *chaos) weather() {
	c.before = func(_ int, r *wire.ShardRequest) error {
		c.pause(3)
		switch c.n(20) {
		case 0:
			return eggs.E("test", eggs.Unavailable, "lost on the way")
		case 1: // it arrives, but nobody waits for it any more
			c.late.Go(func() { c.pause(200); c.deliver(r) })
			return errLost
		}
		return nil
	}
	c.after = func(_ int, r *wire.ShardRequest) error {
		c.pause(2)
		switch c.n(20) {
		case 0:
			return errLost
		case 1:
			c.late.Go(func() { c.pause(500); c.deliver(r) })
		}
		return nil
	}
	c.g.lose = func() error { // under the group's mutex: no pause here
		switch c.n(40) {
		case 0:
			return errLost
		case 1:
			return eggs.E("test", eggs.Unavailable, "no majority")
		}
		return nil
	}
}

// act does one random thing as a client.
func (c *chaos) act() {
	switch c.n(10) {
	case 0, 1, 2:
		dir := c.dir()
		if reply := c.do(mkdir(dir, c.name())); reply.Error == nil {
			c.mu.Lock()
			if c.made[reply.Id] {
				c.t.Errorf("directory %x was made twice", reply.Id)
			}
			c.made[reply.Id] = true
			c.known = append(c.known, reply.Id)
			c.mu.Unlock()
		}
	case 3, 4:
		dir, name, target := c.dir(), c.name(), uint64(0)
		if c.n(2) == 0 {
			target = c.lookup(dir, name)
		}
		if target != 0 && !eggs.InodeID(target).IsDir() {
			target = 0
		}
		c.do(rmdir(dir, name, target))
	case 5, 6:
		from, to := c.dir(), c.dir()
		if from != to {
			c.do(rename(from, c.name(), to, c.name(), c.n(2) == 0))
		}
	case 7:
		_, _ = c.link(c.dir(), c.name(), eggs.KindFile)
	case 8:
		dir, name := c.dir(), c.name()
		if target, at, err := c.unlink(dir, name); err == nil {
			c.mu.Lock()
			c.past = append(c.past, pastVersion{dir, name, target, at})
			c.mu.Unlock()
		} else {
			_ = c.within(dir, name, c.name())
		}
	case 9:
		c.mu.Lock()
		n := len(c.past)
		var p pastVersion
		if n > 0 {
			p = c.past[c.rand.IntN(n)]
		}
		c.mu.Unlock()
		if n > 0 {
			c.do(unlink(p.dir, p.name, p.target, p.time))
		}
	}
}

func (c *chaos) run() {
	stop := make(chan struct{})
	var nemesis, clients sync.WaitGroup
	nemesis.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(1+c.n(60)) * time.Millisecond):
			}
			next := c.n(3)
			c.g.lead(next)
			if c.n(4) == 0 {
				c.g.restart((next+1)%3, c.post, clock)
			}
		}
	})
	for range 6 {
		clients.Go(func() {
			for range 30 {
				c.act()
			}
		})
	}
	clients.Wait()
	close(stop)
	nemesis.Wait()
	c.late.Wait()
}

// TestRandom plays many transactions on few names while leaders fall and
// messages are lost, doubled and late, and then runs the invariants: what no
// one thought of as a scenario turns up here. A seed repeats its choices, not the
// order of goroutines.
func TestRandom(t *testing.T) {
	first := max(*seedFlag, 1)
	for seed := first; seed < first+uint64(*seedsFlag); seed++ {
		onBoth(t, fmt.Sprint("seed=", seed), func(t *testing.T, w *world) {
			c := &chaos{
				world: w, rand: rand.New(rand.NewPCG(seed, 1)),
				known: []uint64{root}, made: map[uint64]bool{},
			}
			c.weather()
			c.run()
			c.g.mu.Lock()
			c.g.lose = nil
			c.g.mu.Unlock()
			c.holds()
		})
	}
}
