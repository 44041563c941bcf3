package wire

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"eggsfs/eggs"
)

// streamOf serves n events of size bytes each and counts those sent.
func streamOf(r *rig, n, size int) (sent *atomic.Int64, ended chan error) {
	sent, ended = &atomic.Int64{}, make(chan error, 1000) // one a stream
	text := strings.Repeat("x", size)
	r.s.HandleStream(MethodWatchRoutes,
		func(ctx context.Context, _ []byte, _ *Hello, send func(Message) error) error {
			for i := range n {
				if err := send(&Event{Time: int64(i + 1), Text: text}); err != nil {
					ended <- err
					return err
				}
				sent.Add(1)
			}
			ended <- nil
			return nil
		})
	return sent, ended
}

// All items come, in order, even those longer than the window.
func TestStreamInOrder(t *testing.T) {
	for _, size := range []int{0, 100, 3 << 20} {
		r := newRig(t, ServerConfig{})
		n := 300
		if size > StreamWindow {
			n = 3
		}
		streamOf(r, n, size)
		last := int64(0)
		err := r.dial().Stream(context.Background(), MethodWatchRoutes, &WatchRoutes{},
			func(b []byte) error {
				var e Event
				if err := e.UnmarshalVT(b); err != nil {
					return err
				}
				if e.Time != last+1 || len(e.Text) != size {
					t.Errorf("item %d after %d", e.Time, last)
				}
				last = e.Time
				return nil
			})
		if err != nil || last != int64(n) {
			t.Errorf("size %d: %d items, %v", size, last, err)
		}
	}
}

// A slow taker holds its own stream up, within the window, and nobody else.
func TestStreamIsBounded(t *testing.T) {
	r := newRig(t, ServerConfig{})
	sent, _ := streamOf(r, 1000, 100<<10)
	c := r.dial()
	first := make(chan struct{})
	goOn := make(chan struct{})
	taken := 0
	done := make(chan error, 1)
	go func() {
		done <- c.Stream(context.Background(), MethodWatchRoutes, &WatchRoutes{}, func([]byte) error {
			if taken++; taken == 1 {
				close(first)
				<-goOn
			}
			return nil
		})
	}()
	<-first
	time.Sleep(100 * time.Millisecond)
	if n := sent.Load(); n > StreamWindow/(100<<10)+1 {
		t.Errorf("%d items were sent to one who took none", n)
	}
	if err := c.Call(context.Background(), MethodPing, &Ping{}, &Pong{}); err != nil {
		t.Error(err)
	}
	close(goOn)
	if err := <-done; err != nil || taken != 1000 {
		t.Errorf("%d items, %v", taken, err)
	}
}

// Whoever stops listening stops the sender: by an error of its own, by its
// context, by its connection, or because the server goes.
func TestStreamEndsEarly(t *testing.T) {
	enough := errors.New("enough")
	ctx, cancel := context.WithCancel(context.Background())
	rows := []struct {
		name string
		on   func(r *rig, c *Conn) error
		want func(error) bool
	}{
		{
			"the taker has enough", func(*rig, *Conn) error { return enough },
			func(err error) bool { return err == enough },
		},
		{
			"the context is over", func(*rig, *Conn) error { cancel(); return nil },
			func(err error) bool { return errors.Is(err, eggs.Indeterminate) },
		},
		{
			"the connection is closed", func(_ *rig, c *Conn) error { c.Close(); return nil },
			func(err error) bool { return errors.Is(err, eggs.Indeterminate) },
		},
		{
			"the server closes", func(r *rig, _ *Conn) error { go r.s.Close(); return nil },
			func(err error) bool { return err != nil },
		},
	}
	for _, row := range rows {
		r := newRig(t, ServerConfig{})
		_, ended := streamOf(r, 1<<30, 1000)
		c := r.dial()
		n := 0
		err := c.Stream(ctx, MethodWatchRoutes, &WatchRoutes{}, func([]byte) error {
			if n++; n == 10 {
				return row.on(r, c)
			}
			return nil
		})
		if !row.want(err) {
			t.Errorf("%s: %v", row.name, err)
		}
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s: the sender sent all", row.name)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s: the sender goes on", row.name)
		}
		ctx, cancel = context.WithCancel(context.Background())
	}
	cancel()
}

// The end of a stream may be an error, which crosses like any other.
func TestStreamFails(t *testing.T) {
	r := newRig(t, ServerConfig{})
	r.s.HandleStream(MethodWatchRoutes,
		func(_ context.Context, _ []byte, _ *Hello, send func(Message) error) error {
			send(&Event{Time: 1})
			return eggs.E("node.WatchRoutes", eggs.NoSpace, "no")
		})
	n := 0
	err := r.dial().Stream(context.Background(), MethodWatchRoutes, &WatchRoutes{},
		func([]byte) error { n++; return nil })
	if n != 1 || !errors.Is(err, eggs.NoSpace) {
		t.Errorf("%d items, %v", n, err)
	}
}
