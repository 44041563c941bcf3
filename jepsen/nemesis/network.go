package nemesis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"eggsfs/eggs"
	"eggsfs/jepsen/netns"
)

// networkKinds cut and spoil what is between the nodes.
var networkKinds = []Kind{
	{
		"partition-halves", "a minority and a majority do not hear each other", Network | Many, "network",
		cut(func(order []int) ([]netns.Pair, string) {
			k := (len(order) - 1) / 2
			return netns.Between(order[:k], order[k:]), fmt.Sprint(up(order[:k]), " | ", up(order[k:]))
		}),
	},
	{
		"partition-ring", "each node hears a majority, no two the same", Network | Many, "network",
		cut(func(order []int) ([]netns.Pair, string) {
			pairs := netns.Ring(len(order))
			for i := range pairs {
				pairs[i] = netns.Pair{From: order[pairs[i].From], To: order[pairs[i].To]}
			}
			return pairs, fmt.Sprint("ring ", up(order))
		}),
	},
	{
		"partition-bridge", "two halves that only one node hears both of", Network | Many, "network",
		cut(func(order []int) ([]netns.Pair, string) {
			k := len(order) / 2
			return netns.Bridge(order), fmt.Sprint(up(order[:k]), " - ", up(order[k:k+1]), " - ", up(order[k+1:]))
		}),
	},
	{
		"partition-one", "one node hears no other; clients hear it", Network | Many, "network",
		cut(func(order []int) ([]netns.Pair, string) {
			return netns.Between(order[:1], order[1:]), fmt.Sprint(up(order[:1]))
		}),
	},
	{
		"partition-oneway", "one node is not heard, and hears", Network | Many, "network",
		cut(func(order []int) (pairs []netns.Pair, what string) {
			for _, to := range order[1:] {
				pairs = append(pairs, netns.Pair{From: order[0], To: to})
			}
			return pairs, fmt.Sprint(up(order[:1]), " is not heard")
		}),
	},
	{
		"partition-clients", "one node hears neither nodes nor clients", Network | Many, "network",
		cut(func(order []int) ([]netns.Pair, string) {
			return netns.Between(order[:1], append(order[1:], netns.Host)), fmt.Sprint(up(order[:1]))
		}),
	},
	{
		"partition-leader", "whoever leads the coordinator or a shard hears no other; clients hear it",
		Network | Many, "network", cutLeader,
	},
	{
		"slow", "one node's frames take 20 to 100 ms longer, by turns", Network, "cable",
		spoil(func(rng *rand.Rand) netns.Weather {
			d := time.Duration(20+rng.IntN(80)) * time.Millisecond
			return netns.Weather{Delay: d, Jitter: d / 2}
		}),
	},
	{
		"loss", "one node loses 2 to 15 % of its frames each way", Network, "cable",
		spoil(func(rng *rand.Rand) netns.Weather {
			return netns.Weather{Loss: 0.02 + 0.13*rng.Float64()}
		}),
	},
	{
		"duplicate", "one node's frames come twice and out of order", Network, "cable",
		spoil(func(rng *rand.Rand) netns.Weather {
			return netns.Weather{
				Duplicate: 0.1 + 0.3*rng.Float64(), Delay: time.Millisecond, Jitter: 3 * time.Millisecond,
			}
		}),
	},
}

// up shows nodes as people count them.
func up(order []int) []int {
	some := make([]int, len(order))
	for i, n := range order {
		some[i] = n + 1
	}
	return some
}

func cut(shape func(order []int) ([]netns.Pair, string)) func(context.Context, *Target, *rand.Rand) (*running, error) {
	return func(_ context.Context, t *Target, rng *rand.Rand) (*running, error) {
		var order []int
		for _, n := range t.alive(rng) {
			order = append(order, n.Index)
		}
		pairs, what := shape(order)
		return t.cut(pairs, what)
	}
}

func (t *Target) cut(pairs []netns.Pair, what string) (*running, error) {
	net := t.Cluster.Network()
	before := net.Dropped()
	if err := net.Cut(pairs); err != nil {
		return nil, err
	}
	return &running{
		what: what, heal: func() error { return net.Mend(pairs) },
		met: func() uint64 { return net.Dropped() - before },
	}, nil
}

func cutLeader(_ context.Context, t *Target, rng *rand.Rand) (*running, error) {
	g := eggs.CDCGroup
	if rng.IntN(2) == 0 {
		g = eggs.GroupID(rng.IntN(eggs.Shards))
	}
	n, err := t.leader(g)
	if err != nil {
		return nil, err
	}
	var others []int
	for _, o := range t.alive(rng) {
		others = append(others, o.Index)
	}
	return t.cut(netns.Between([]int{n.Index}, others), fmt.Sprintf("%s, which leads group %s", n.Name(), g))
}

func spoil(weather func(rng *rand.Rand) netns.Weather) func(context.Context, *Target, *rand.Rand) (*running, error) {
	return func(_ context.Context, t *Target, rng *rand.Rand) (*running, error) {
		n, w := t.alive(rng)[0], weather(rng)
		c, err := t.Cluster.Network().Lay(n.Index, w, rng.Uint64())
		if err != nil {
			return nil, err
		}
		return &running{
			what: fmt.Sprintf("%s: delay %s ± %s, loss %.0f %%, duplicates %.0f %%", n.Name(), w.Delay, w.Jitter,
				100*w.Loss, 100*w.Duplicate),
			heal: func() error { c.Close(); return nil }, met: c.Met,
		}, nil
	}
}
