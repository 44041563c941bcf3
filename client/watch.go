package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// Times of a subscription.
const (
	watchPing    = 400 * time.Millisecond // a hung node is found out in 2.5 of these: it costs a new subscription
	watchPause   = 100 * time.Millisecond // after a round in which no node answered; doubles
	watchPauseUp = time.Second            // and no further: a failover is shorter than a few of these
	doubtEvery   = time.Second            // a picture is left for another node's at most so often
)

// watcher is the Router of mounts and the command line: it subscribes to one
// node's picture, and at once to another's when that breaks.
type watcher struct {
	seeds []string
	ready chan struct{} // closed when there is a picture

	mu      sync.Mutex
	routes  *wire.Routes
	changed chan struct{}
	err     error // of the last round in which all refused
	refused chan struct{}
	leave   context.CancelFunc // ends the subscription under way
	left    time.Time          // when Doubt last did that
	current string             // address of the node subscribed to
}

func newWatcher(seeds []string) *watcher {
	return &watcher{
		seeds: seeds, ready: make(chan struct{}),
		changed: make(chan struct{}), refused: make(chan struct{}),
	}
}

// Routes implements Router.
func (w *watcher) Routes() *wire.Routes {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.routes
}

// Changed implements Router.
func (w *watcher) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Doubt implements Doubter: another node may know more.
func (w *watcher) Doubt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leave != nil && time.Since(w.left) > doubtEvery {
		w.left = time.Now()
		w.leave()
	}
}

// wait returns when there is a picture, or when every address refused.
func (w *watcher) wait(ctx context.Context) error {
	select {
	case <-w.ready:
		return nil
	case <-w.refused:
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		return &eggs.Error{Kind: eggs.Timeout, Err: errors.New("no node answers")}
	}
	return w.err
}

// run keeps a subscription until the client ends.
func (w *watcher) run(c *Client) {
	pause := watchPause
	for c.ctx.Err() == nil {
		got, refusals, tried := false, 0, w.candidates()
		var last error
		for _, addr := range tried {
			ok, err := w.subscribe(c, addr)
			if c.ctx.Err() != nil {
				return
			}
			if ok {
				got = true
				break // start over from the newest list of nodes
			}
			c.log.Debug("no routes from this node", "addr", addr, "err", err)
			last = err
			if refused(err) {
				refusals++
			}
		}
		if got {
			pause = watchPause
			continue
		}
		w.failed(last, refusals == len(tried))
		select {
		case <-c.ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, watchPauseUp)
	}
}

// failed notes why a whole round brought nothing.
func (w *watcher) failed(err error, all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	if all && w.routes == nil {
		select {
		case <-w.refused:
		default:
			close(w.refused)
		}
	}
}

// candidates lists whom to ask: nodes that were alive, then the addresses
// that were given, then the others; the one just left comes last.
func (w *watcher) candidates() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var alive, dead []string
	if w.routes != nil {
		for _, n := range w.routes.Nodes {
			if n.Alive {
				alive = append(alive, n.Address)
			} else {
				dead = append(dead, n.Address)
			}
		}
	}
	shuffle := func(s []string) { rand.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] }) }
	shuffle(alive)
	seeds := append([]string(nil), w.seeds...)
	shuffle(seeds)
	seen := map[string]bool{"": true, w.current: true}
	var out []string
	for _, list := range [][]string{alive, seeds, dead} {
		for _, a := range list {
			if !seen[a] {
				seen[a] = true
				out = append(out, a)
			}
		}
	}
	if w.current != "" {
		out = append(out, w.current)
	}
	return out
}

// subscribe follows one node's picture until that ends. ok: there was one.
func (w *watcher) subscribe(c *Client, addr string) (ok bool, err error) {
	conn, err := c.dial(c.ctx, addr, 0, watchPing)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	w.mu.Lock()
	w.leave, w.current = cancel, addr
	w.mu.Unlock()
	err = conn.Stream(ctx, wire.MethodWatchRoutes, &wire.WatchRoutes{}, func(body []byte) error {
		r := &wire.Routes{}
		if err := r.UnmarshalVT(body); err != nil {
			return &eggs.Error{Op: "client.WatchRoutes", Kind: eggs.Corrupt, Err: err}
		}
		ok = true
		w.take(r)
		return nil
	})
	w.mu.Lock()
	w.leave = nil
	w.mu.Unlock()
	return ok, err
}

// take makes r the picture, but keeps what the last one knew of later terms:
// the node subscribed to now may lag behind the one before.
func (w *watcher) take(r *wire.Routes) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.routes; old != nil && old.Cluster == r.Cluster {
		known := make(map[uint64]bool, len(r.Nodes))
		for _, n := range r.Nodes {
			known[n.Id] = true
		}
		for g := range min(len(old.Terms), len(r.Terms), len(old.Leaders), len(r.Leaders)) {
			if old.Terms[g] > r.Terms[g] && known[old.Leaders[g]] {
				r.Terms[g], r.Leaders[g] = old.Terms[g], old.Leaders[g]
			}
		}
	}
	if w.routes == nil {
		close(w.ready)
	}
	w.routes = r
	close(w.changed)
	w.changed = make(chan struct{})
}
