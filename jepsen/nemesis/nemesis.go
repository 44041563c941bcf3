// Package nemesis breaks a running cluster: processes, network, disks and clocks, on
// a schedule that a seed decides and that is recorded as it went.
package nemesis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/jepsen/lossy"
	"eggsfs/jepsen/netns"
)

// Needs are what a fault cannot do without.
type Needs uint8

// What a fault may need.
const (
	Network Needs = 1  // network namespaces
	Disks   Needs = 2  // a lossy file system below each node's data
	Clocks  Needs = 4  // binaries whose clock can be set
	Mounts  Needs = 8  // mounts
	Many    Needs = 16 // three nodes or more
)

// Kind is one way to break a cluster.
type Kind struct {
	Name  string
	About string
	Needs Needs
	class string // faults of one class do not overlap
	start func(ctx context.Context, t *Target, rng *rand.Rand) (*running, error)
}

// Counts reports whether the fault counts the packets or calls that met it. Others count
// as met when operations were under way.
func (k Kind) Counts() bool {
	return k.class == "network" || k.class == "cable" || k.class == "disk"
}

// running is a fault that goes on.
type running struct {
	what string
	heal func() error
	met  func() uint64 // how often something met the fault; nil: the operations of its time count
}

// Target is what is to be broken.
type Target struct {
	Cluster *netns.Cluster
	Client  *client.Client // for whom leads; not one of the workloads'
	Disks   []*lossy.FS    // by node; nil without
	Mounts  []*netns.Mount
	Clocks  []string // files of clock offsets, by node; nil without

	mu     sync.Mutex
	rotten int // the one node whose blocks rot, from 1; 0: not chosen yet
}

// Injected is what was done to the cluster.
type Injected struct {
	Kind  string `json:"kind"`
	What  string `json:"what"`
	Seed  uint64 `json:"seed"`
	Begin int64  `json:"begin"` // ns of the run's clock
	End   int64  `json:"end"`
	Met   uint64 `json:"met"` // packets, calls or operations that met it
	Err   string `json:"err,omitempty"`
}

// Step is one fault of a schedule.
type Step struct {
	At   time.Duration `json:"at"`
	For  time.Duration `json:"for"`
	Kind string        `json:"kind"`
	Seed uint64        `json:"seed"`
}

// Bounds of a schedule.
const (
	Shortest = 2 * time.Second // fault
	longest  = 9 * time.Second
	firstAt  = 3 * time.Second
	gap      = 5 * time.Second // between faults, at most
	overlap  = 4               // one in so many begins before the last has ended
)

// Schedule decides by a seed what happens when. Every kind comes once before any
// comes twice. Nothing begins when less than twice the shortest fault is left.
func Schedule(kinds []string, total time.Duration, seed uint64) ([]Step, error) {
	for _, k := range kinds {
		if find(k) == nil {
			return nil, fmt.Errorf("nemesis: there is no %q; see eggsjepsen list", k)
		}
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	var steps []Step
	var order []string
	for at := firstAt; len(kinds) > 0 && at+2*Shortest <= total; {
		if len(order) == 0 {
			order = slices.Clone(kinds)
			rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		}
		s := Step{At: at, Kind: order[0], Seed: rng.Uint64()}
		order = order[1:]
		s.For = min(Shortest+time.Duration(rng.Int64N(int64(longest-Shortest))), total-at-Shortest)
		steps = append(steps, s)
		next := s.For + time.Second + time.Duration(rng.Int64N(int64(gap)))
		if rng.IntN(overlap) == 0 && len(order) > 0 && find(order[0]).class != find(s.Kind).class {
			next = s.For / 2
		}
		at += next
	}
	return steps, nil
}

// Kinds are all faults, in the order of the help.
func Kinds() []Kind {
	return slices.Concat(processKinds, networkKinds, diskKinds, clockKinds)
}

func find(name string) *Kind {
	for _, k := range Kinds() {
		if k.Name == name {
			return &k
		}
	}
	return nil
}

// Want returns what the kinds need together.
func Want(kinds []string) Needs {
	var all Needs
	for _, name := range kinds {
		if k := find(name); k != nil {
			all |= k.Needs
		}
	}
	return all
}

// Run goes through the steps until ctx is done; all is healed when it returns, or
// the error of an Injected says what is not.
func Run(ctx context.Context, t *Target, steps []Step, clock func() int64, under func() int,
	say func(format string, a ...any),
) []Injected {
	var mu sync.Mutex
	var done []Injected
	var wg sync.WaitGroup
	begin := time.Now()
	for _, s := range steps {
		if !sleep(ctx, time.Until(begin.Add(s.At))) {
			break
		}
		wg.Go(func() {
			in := t.inject(ctx, s, clock, under, say)
			mu.Lock()
			done = append(done, in)
			mu.Unlock()
		})
	}
	wg.Wait()
	slices.SortFunc(done, func(a, b Injected) int { return int(a.Begin - b.Begin) })
	return done
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// inject does one fault and heals it after its time.
func (t *Target) inject(ctx context.Context, s Step, clock func() int64, under func() int,
	say func(format string, a ...any),
) Injected {
	in := Injected{Kind: s.Kind, Seed: s.Seed, Begin: clock()}
	r, err := find(s.Kind).start(ctx, t, rand.New(rand.NewPCG(s.Seed, 1)))
	if err != nil {
		in.Err, in.End = err.Error(), clock()
		say("%s: %v", s.Kind, err)
		return in
	}
	in.What = r.what
	say("%s: %s for %s, %d operations under way", s.Kind, r.what, s.For.Round(100*time.Millisecond), under())
	sleep(ctx, s.For)
	if r.met != nil {
		in.Met = r.met()
	}
	if err := r.heal(); err != nil {
		in.Err = "heal: " + err.Error()
	}
	in.End = clock()
	say("%s: healed %s", s.Kind, in.Err)
	return in
}

// alive are the nodes that were not removed, in an order by chance.
func (t *Target) alive(rng *rand.Rand) []*netns.Node {
	var some []*netns.Node
	for _, n := range t.Cluster.Nodes() {
		if !n.Removed() {
			some = append(some, n)
		}
	}
	rng.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	return some
}

// leader is the node that leads a group, as far as the client knows.
func (t *Target) leader(g eggs.GroupID) (*netns.Node, error) {
	routes := t.Client.Routes()
	leaders := routes.GetLeaders()
	if int(g) < len(leaders) {
		for _, n := range routes.GetNodes() {
			if n.Id != leaders[g] {
				continue
			}
			for _, node := range t.Cluster.Nodes() {
				if node.Addr == n.Address {
					return node, nil
				}
			}
		}
	}
	return nil, fmt.Errorf("nemesis: nobody is known to lead group %s", g)
}

func names(nodes []*netns.Node) string {
	s := ""
	for _, n := range nodes {
		s += " " + n.Name()
	}
	return s[min(1, len(s)):]
}

// clockKinds set clocks by the test knob of the binaries.
var clockKinds = []Kind{
	{
		"clock-jump", "one node's clock jumps by seconds to an hour, either way", Clocks | Many, "clock",
		func(_ context.Context, t *Target, rng *rand.Rand) (*running, error) {
			d := time.Duration(1+rng.Int64N(3600)) * time.Second
			if rng.IntN(2) == 0 {
				d = -d
			}
			n := t.alive(rng)[0]
			return &running{what: fmt.Sprintf("%s by %s", n.Name(), d), heal: func() error { return t.setClock(n, 0) }},
				t.setClock(n, d)
		},
	},
	{
		"clock-drift", "all clocks drift apart by up to 2 s", Clocks, "clock",
		func(_ context.Context, t *Target, rng *rand.Rand) (*running, error) {
			nodes := t.alive(rng)
			for _, n := range nodes {
				if err := t.setClock(n, time.Duration(rng.Int64N(int64(4*time.Second)))-2*time.Second); err != nil {
					return nil, err
				}
			}
			return &running{what: names(nodes), heal: func() error {
				for _, n := range nodes {
					if err := t.setClock(n, 0); err != nil {
						return err
					}
				}
				return nil
			}}, nil
		},
	},
}

// setClock writes a node's offset; whoever reads it sees the old or the new one.
func (t *Target) setClock(n *netns.Node, d time.Duration) error {
	path := t.Clocks[n.Index]
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(temp, []byte(strconv.FormatInt(int64(d), 10)), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
