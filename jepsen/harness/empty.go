package harness

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/jepsen/lossy"
	"eggsfs/jepsen/nemesis"
)

const removers = 24 // requests at a time

// empty removes all and waits until the nodes' own collectors have left nothing,
// in any shard or on any disk.
func (r *run) empty(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, emptyLimit)
	defer cancel()
	r.say("remove everything")
	if _, err := r.cluster.Eggs(ctx, "policy", "set", "/", "snapshot=0"); err != nil {
		return err
	}
	sweep := &remover{c: r.clients[0], slots: make(chan struct{}, removers)}
	sweep.dir(ctx, eggs.Root)
	if err := errors.Join(sweep.errs...); err != nil {
		return fmt.Errorf("%d removals failed: %w", len(sweep.errs), sweep.errs[0])
	}
	r.say("wait until all is collected")
	const want = "1 directories, 0 files, 0 edges, 0 blocks"
	for {
		out, err := r.cluster.Eggs(ctx, "check", "--count")
		left := strings.TrimSpace(string(out))
		files := 0
		for i, n := range r.cluster.Nodes() {
			var d *lossy.FS
			if r.disks != nil {
				d = r.disks[i]
			}
			paths, berr := nemesis.Blocks(n.Data, d)
			files, err = files+len(paths), errors.Join(err, berr)
		}
		if err == nil && left == want && files == 0 {
			_, err = r.cluster.Eggs(ctx, "check")
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("left after %s: %q in shards, %d files of blocks on disks (%w)", emptyLimit, left, files,
				errors.Join(err, ctx.Err()))
		}
		time.Sleep(time.Second)
	}
}

// remover removes a tree, many names at a time.
type remover struct {
	c     *client.Client
	slots chan struct{}

	mu   sync.Mutex
	errs []error
}

func (x *remover) fail(err error) {
	if err == nil || eggs.KindOf(err) == eggs.NotExist {
		return
	}
	x.mu.Lock()
	x.errs = append(x.errs, err)
	x.mu.Unlock()
}

// dir empties a directory: what is below each of its directories first.
func (x *remover) dir(ctx context.Context, id eggs.InodeID) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for after, end := uint64(0), false; !end; {
		entries, _, last, err := x.c.ReadDir(ctx, id, after, 1000, false)
		if err != nil {
			x.fail(err)
			return
		}
		end = last
		for _, e := range entries {
			after = e.Cursor
			wg.Go(func() {
				if e.Target.IsDir() {
					x.dir(ctx, e.Target)
				}
				x.slots <- struct{}{}
				defer func() { <-x.slots }()
				if e.Target.IsDir() {
					x.fail(x.c.Rmdir(ctx, id, e.Name))
				} else {
					x.fail(x.c.Unlink(ctx, id, e.Name, e.Target))
				}
			})
		}
	}
}
