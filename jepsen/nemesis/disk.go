package nemesis

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"eggsfs/jepsen/lossy"
	"eggsfs/jepsen/netns"
)

// diskKinds spoil what is below the data folders.
var diskKinds = []Kind{
	{
		"disk-slow", "every write and sync of one node takes 20 to 200 ms", Disks, "disk",
		disk(func(rng *rand.Rand) lossy.Fault {
			return lossy.Fault{
				Calls: lossy.Write | lossy.Sync, Delay: time.Duration(20+rng.IntN(180)) * time.Millisecond,
			}
		}),
	},
	{
		"disk-stuck", "no sync of one node returns", Disks | Many, "disk",
		disk(func(*rand.Rand) lossy.Fault { return lossy.Fault{Calls: lossy.Sync, Stuck: true} }),
	},
	{
		"disk-eio", "one node's blocks, or all its data, cannot be read or synced", Disks | Many, "disk",
		disk(func(rng *rand.Rand) lossy.Fault {
			f := lossy.Fault{Calls: lossy.Read | lossy.Sync, Errno: syscall.EIO, Match: "blocks/"}
			if rng.IntN(2) == 0 {
				f = lossy.Fault{Calls: lossy.Sync, Errno: syscall.EIO}
			}
			return f
		}),
	},
	{
		"disk-full", "one node's disk is full", Disks | Many, "disk",
		disk(func(*rand.Rand) lossy.Fault { return lossy.Fault{Calls: lossy.All, Full: true} }),
	},
	{
		"power-one", "one node loses its power, and what it had not synced", Disks, "process",
		power(func(int) int { return 1 }),
	},
	{
		"power-all", "all lose their power at once, and what they had not synced", Disks, "process",
		power(func(n int) int { return n }),
	},
	{"rot-blocks", "bits flip in blocks of one node, always the same one", Many, "rot", rotBlocks},
}

func disk(fault func(rng *rand.Rand) lossy.Fault) func(context.Context, *Target, *rand.Rand) (*running, error) {
	return func(ctx context.Context, t *Target, rng *rand.Rand) (*running, error) {
		n, f := t.alive(rng)[0], fault(rng)
		d := t.Disks[n.Index]
		before := d.Met()
		d.SetFault(&f)
		what := fmt.Sprintf("%s: delay %s, stuck %t, full %t", n.Name(), f.Delay, f.Stuck, f.Full)
		if f.Errno != 0 {
			what = fmt.Sprintf("%s %s: %v", n.Name(), f.Match, f.Errno)
		}
		return &running{what: what, met: func() uint64 { return d.Met() - before }, heal: func() error {
			d.SetFault(nil)
			// A disk that has failed is used again after a restart, as the manual says.
			if f.Errno != 0 || f.Full {
				if err := n.Stop(); err != nil && n.Running() {
					return err
				}
			}
			return start(ctx, []*netns.Node{n})
		}}, nil
	}
}

func power(count func(n int) int) func(context.Context, *Target, *rand.Rand) (*running, error) {
	return func(ctx context.Context, t *Target, rng *rand.Rand) (*running, error) {
		nodes := t.alive(rng)
		nodes = nodes[:count(len(nodes))]
		chance := []float64{0, 0, 0.3, 0.7}[rng.IntN(4)]
		seed := rng.Uint64()
		if _, err := kill(ctx, nodes); err != nil {
			return nil, err
		}
		var mu sync.Mutex
		var undone int
		var errs []error
		var wg sync.WaitGroup
		for _, n := range nodes {
			wg.Go(func() {
				k, err := t.Disks[n.Index].PowerLoss(chance, seed+uint64(n.Index))
				mu.Lock()
				defer mu.Unlock()
				undone += k
				if err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", n.Name(), err))
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		return &running{
			what: fmt.Sprintf("%s, %d pages and names undone, others kept with probability %.1f", names(nodes), undone,
				chance),
			heal: func() error { return start(ctx, nodes) },
		}, nil
	}
}

// rotBlocks flips one bit in each of some blocks. Only one node's rot in a run, which
// costs each span no more than a node may.
func rotBlocks(_ context.Context, t *Target, rng *rand.Rand) (*running, error) {
	t.mu.Lock()
	if t.rotten == 0 {
		t.rotten = 1 + t.alive(rng)[0].Index
	}
	n := t.Cluster.Node(t.rotten - 1)
	t.mu.Unlock()
	var d *lossy.FS
	if t.Disks != nil {
		d = t.Disks[n.Index]
	}
	paths, err := Blocks(n.Data, d)
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("nemesis: %s holds no block yet", n.Name())
	}
	rng.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	flipped := 0
	for _, p := range paths[:max(1, len(paths)/4)] {
		switch err := rot(n.Data, d, p, rng); {
		case err == nil:
			flipped++
		case !errors.Is(err, fs.ErrNotExist): // erased since
			return nil, err
		}
	}
	return &running{
		what: fmt.Sprintf("%s: one bit in each of %d blocks", n.Name(), flipped), heal: func() error { return nil },
	}, nil
}

// rot flips one bit of a file, given by its path below the data folder.
func rot(data string, d *lossy.FS, path string, rng *rand.Rand) error {
	if d != nil {
		size := d.Size(path)
		if size == 0 {
			return fs.ErrNotExist
		}
		return d.Rot(path, rng.Int64N(8*size))
	}
	full := filepath.Join(data, path)
	info, err := os.Stat(full)
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return fs.ErrNotExist
	}
	return lossy.FlipBit(full, rng.Int64N(8*info.Size()))
}

// Blocks lists the files that hold blocks, by their paths below a data folder: their names are
// 16 hexadecimal digits. disk is the file system of the folder if it is one of ours, else nil.
func Blocks(data string, disk *lossy.FS) ([]string, error) {
	var paths []string
	add := func(path string) {
		name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
		if len(name) == 16 && strings.Trim(name, "0123456789abcdef") == "" {
			paths = append(paths, path)
		}
	}
	if disk != nil {
		for _, path := range disk.Files("blocks") {
			add(path)
		}
		return paths, nil
	}
	err := filepath.WalkDir(filepath.Join(data, "blocks"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.Type().IsRegular() {
			rel, rerr := filepath.Rel(data, path)
			if rerr != nil {
				return rerr
			}
			add(rel)
		}
		return err
	})
	return paths, err
}
