package client

import (
	"context"
	"sync"
)

// group runs functions at the same time, at most so many; the first error
// cancels the others' context and is the one returned.
type group struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	slots  chan struct{}
	once   sync.Once
	err    error
}

func newGroup(ctx context.Context, limit int) *group {
	g := &group{slots: make(chan struct{}, limit)}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	return g
}

// run starts f, or waits until it may.
func (g *group) run(f func(ctx context.Context) error) {
	g.slots <- struct{}{}
	g.wg.Go(func() {
		defer func() { <-g.slots }()
		if err := f(g.ctx); err != nil {
			g.once.Do(func() {
				g.err = err
				g.cancel(err)
			})
		}
	})
}

func (g *group) wait() error {
	g.wg.Wait()
	g.cancel(nil)
	return g.err
}
