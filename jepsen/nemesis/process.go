package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/jepsen/netns"
)

// processKinds kill, pause and restart.
var processKinds = []Kind{
	{
		"kill-one", "SIGKILL of one node, started again after the fault's time", 0, "process",
		killSome(func(int) int { return 1 }),
	},
	{
		"kill-minority", "SIGKILL of as many as the others can do without", Many, "process",
		killSome(func(n int) int { return (n - 1) / 2 }),
	},
	{
		"kill-majority", "SIGKILL of one more than that", Many, "process",
		killSome(func(n int) int { return n/2 + 1 }),
	},
	{"kill-all", "SIGKILL of every node at once", 0, "process", killSome(func(n int) int { return n })},
	{"kill-leader", "SIGKILL of the node that leads the coordinator", Many, "process", killLeader},
	{"pause-one", "SIGSTOP of one node, then SIGCONT", 0, "process", pauseSome(func(int) int { return 1 })},
	{
		"pause-minority", "SIGSTOP of as many as the others can do without", Many, "process",
		pauseSome(func(n int) int { return (n - 1) / 2 }),
	},
	{
		"leaders", "storm: whoever leads the coordinator or a shard is stopped for a moment, again and again", Many,
		"process", leaderStorm,
	},
	{"rolling", "every node in turn is stopped by SIGTERM and started again", Many, "process", rolling},
	{"kill-mount", "SIGKILL of a mount's daemon", Mounts, "mount", killMount},
}

func killSome(count func(n int) int) func(context.Context, *Target, *rand.Rand) (*running, error) {
	return func(ctx context.Context, t *Target, rng *rand.Rand) (*running, error) {
		nodes := t.alive(rng)
		return kill(ctx, nodes[:count(len(nodes))])
	}
}

func killLeader(ctx context.Context, t *Target, _ *rand.Rand) (*running, error) {
	n, err := t.leader(eggs.CDCGroup)
	if err != nil {
		return nil, err
	}
	return kill(ctx, []*netns.Node{n})
}

// kill kills nodes as nearly at once as can be.
func kill(ctx context.Context, nodes []*netns.Node) (*running, error) {
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(n.Kill)
	}
	wg.Wait()
	return &running{what: names(nodes), heal: func() error { return start(ctx, nodes) }}, nil
}

// start starts nodes and waits until they are ready: a fault ends when it is over.
// Those that another fault keeps from being ready are left to the end of the run.
func start(ctx context.Context, nodes []*netns.Node) error {
	for _, n := range nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, n := range nodes {
		err := n.WaitReady(ctx)
		if err != nil && ctx.Err() == nil && !strings.Contains(err.Error(), "signal: killed") { // by another fault
			return err
		}
	}
	return nil
}

func pauseSome(count func(n int) int) func(context.Context, *Target, *rand.Rand) (*running, error) {
	return func(_ context.Context, t *Target, rng *rand.Rand) (*running, error) {
		nodes := t.alive(rng)
		nodes = nodes[:count(len(nodes))]
		for _, n := range nodes {
			n.Pause()
		}
		return &running{what: names(nodes), heal: func() error {
			for _, n := range nodes {
				n.Resume()
			}
			return nil
		}}, nil
	}
}

// leaderStorm stops leaders for long enough that they are replaced.
func leaderStorm(ctx context.Context, t *Target, rng *rand.Rand) (*running, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			g := eggs.CDCGroup
			if rng.IntN(2) == 0 {
				g = eggs.GroupID(rng.IntN(eggs.Shards))
			}
			if n, err := t.leader(g); err == nil {
				n.Pause()
				sleep(ctx, time.Second+time.Duration(rng.Int64N(int64(2*time.Second))))
				n.Resume()
			}
			sleep(ctx, time.Duration(rng.Int64N(int64(500*time.Millisecond))))
		}
	})
	return &running{what: "leaders, one after the other", heal: func() error {
		cancel()
		wg.Wait()
		return nil
	}}, nil
}

// rolling goes on until every node was restarted, whatever the fault's time is.
func rolling(ctx context.Context, t *Target, rng *rand.Rand) (*running, error) {
	nodes := t.alive(rng)
	done := make(chan error, 1)
	go func() {
		var all error
		for _, n := range nodes {
			err := n.Stop()
			if err == nil {
				err = start(ctx, []*netns.Node{n})
			}
			if err != nil {
				all = errors.Join(all, fmt.Errorf("%s: %w", n.Name(), err), n.Start())
			}
			if ctx.Err() != nil {
				break
			}
		}
		done <- all
	}()
	return &running{what: names(nodes), heal: func() error { return <-done }}, nil
}

func killMount(_ context.Context, t *Target, rng *rand.Rand) (*running, error) {
	m := t.Mounts[rng.IntN(len(t.Mounts))]
	m.Kill()
	return &running{what: m.Dir, heal: m.Start}, nil
}
