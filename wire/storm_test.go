package wire

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eggsfs/eggs"
)

// Every goroutine must end with what it serves: a node lives for months.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Calls, cancellations and streams of many callers on one connection must not
// be mixed up: an answer that reaches the wrong caller is the worst bug there is here.
func TestStorm(t *testing.T) {
	r := newRig(t, ServerConfig{})
	r.s.Handle(MethodShard, func(ctx context.Context, body []byte, _ *Hello) (Message, error) {
		q := &ShardRequest{}
		if err := q.UnmarshalVT(body); err != nil {
			return nil, err
		}
		if q.Sequence%7 == 0 {
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
		}
		if q.Sequence%11 == 0 {
			return nil, &eggs.Error{Op: "storm", Inode: eggs.InodeID(q.Session), Kind: eggs.Conflict}
		}
		size := int(q.Sequence*37) % 70000 // over the read buffer now and then
		return &ShardReply{Time: int64(q.Session), Error: &Error{Text: string(make([]byte, size))}}, nil
	})
	streamOf(r, 50, 2000)
	c := r.dial()
	var all sync.WaitGroup
	for caller := range 32 {
		all.Go(func() {
			for n := range 150 {
				ctx, cancel := context.WithCancel(context.Background())
				if rand.IntN(4) == 0 {
					time.AfterFunc(time.Duration(rand.IntN(1500))*time.Microsecond, cancel)
				}
				id := uint64(caller)<<32 | uint64(n) + 1
				var reply ShardReply
				err := c.Call(ctx, MethodShard, &ShardRequest{Session: id, Sequence: uint64(n)}, &reply)
				switch kind := eggs.KindOf(err); {
				case err == nil && reply.Time != int64(id):
					t.Errorf("call %x got the answer of %x", id, reply.Time)
				case kind == eggs.Conflict && err.(*eggs.Error).Inode != eggs.InodeID(id):
					t.Errorf("call %x got the error of %v", id, err)
				case err != nil && kind != eggs.Conflict && ctx.Err() == nil:
					t.Error(err)
				}
				if n%50 == 0 {
					c.Stream(ctx, MethodWatchRoutes, &WatchRoutes{}, func([]byte) error { return nil })
				}
				cancel()
			}
		})
	}
	all.Wait()
	if n := c.Pending(); n != 0 {
		t.Errorf("%d calls are still waiting", n)
	}
	if err := c.Call(context.Background(), MethodPing, &Ping{}, &Pong{}); err != nil {
		t.Error(err)
	}
}
