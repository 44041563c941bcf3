package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/jepsen/check"
	"eggsfs/jepsen/history"
)

const (
	hashWorkers  = 2
	finalWorkers = 6
	hashLimit    = 2 * time.Second  // of one question
	equalLimit   = 60 * time.Second // until all replicas of a group have applied the same
)

// replicas watches the states of replicas, from outside.
type replicas struct{ http http.Client }

func (*replicas) Name() string { return "replicas" }

func (w *replicas) Setup(context.Context, *Env) error {
	w.http.Timeout = hashLimit
	return nil
}

// Run asks all nodes about one group at a time, at nearly the same moment.
func (w *replicas) Run(ctx context.Context, e *Env) {
	e.workers(ctx, hashWorkers, func(p int, _ *client.Client, rng *rand.Rand) {
		group := eggs.GroupID(rng.IntN(eggs.Groups))
		if rng.IntN(8) == 0 {
			group = eggs.CDCGroup
		}
		var wg sync.WaitGroup
		for _, addr := range e.Web {
			wg.Go(func() { w.ask(ctx, e, p, group, addr) })
		}
		wg.Wait()
	})
}

// ask records the hash of one replica; held: the node answered that it has one.
func (w *replicas) ask(ctx context.Context, e *Env, p int, g eggs.GroupID, addr string) (
	hash, index uint64, held bool,
) {
	_ = e.do(history.Event{Workload: w.Name(), Process: p, Op: "hash", Key: g.String(), Name: addr},
		func(_ context.Context, ev *history.Event) error {
			var err error
			hash, index, held, err = w.get(ctx, g, addr)
			ev.Value, ev.Other = hash, index
			return err
		})
	return hash, index, held
}

func (w *replicas) get(ctx context.Context, g eggs.GroupID, addr string) (hash, index uint64, held bool, err error) {
	refuse := func(err error) error {
		return &eggs.Error{Op: "workload.Hash", Name: addr, Kind: eggs.Unavailable, Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/api/groups/%d", addr, g), nil)
	if err != nil {
		return 0, 0, false, refuse(err)
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return 0, 0, false, refuse(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, 0, resp.StatusCode != http.StatusNotFound, refuse(fmt.Errorf("%s", resp.Status))
	}
	var a struct {
		Hash  string `json:"state_hash"`
		Index uint64 `json:"hash_index"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return 0, 0, false, refuse(err)
	}
	if hash, err = strconv.ParseUint(a.Hash, 16, 64); err != nil {
		return 0, 0, false, refuse(err)
	}
	return hash, a.Index, true, nil
}

// Final waits until the replicas of each group are at the same entry.
func (w *replicas) Final(ctx context.Context, e *Env) error {
	ctx, cancel := context.WithTimeout(ctx, equalLimit)
	defer cancel()
	errs := make([]error, eggs.Groups)
	next := make(chan eggs.GroupID)
	var wg sync.WaitGroup
	for p := range finalWorkers {
		wg.Go(func() {
			for g := range next {
				errs[g] = w.equal(ctx, e, 1000+p, g)
			}
		})
	}
	for g := range eggs.GroupID(eggs.Groups) {
		next <- g
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}

func (w *replicas) equal(ctx context.Context, e *Env, p int, g eggs.GroupID) error {
	for {
		indices, replicas := map[uint64]bool{}, 0
		for _, addr := range e.Web {
			if _, index, held := w.ask(ctx, e, p, g, addr); held {
				indices[index] = true
				replicas++
			}
		}
		if replicas > 0 && len(indices) == 1 && !indices[0] {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("replicas: the %d replicas of group %s have not come to the same entry: %v",
				replicas, g, indices)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (w *replicas) Check(events []history.Event, _ string) []check.Verdict {
	return check.Replicas(w.Name(), events)
}
