package wire

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
)

const (
	testCluster = eggs.ClusterID(0xC1)
	testNode    = eggs.NodeID(0xA1)
)

// rig is a server behind a listener with TLS, as a node has it.
type rig struct {
	t   testing.TB
	key *auth.Key
	l   *Listener
	s   *Server
}

func newRig(t testing.TB, cfg ServerConfig) *rig {
	t.Helper()
	key, err := auth.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, key: key}
	tc, err := key.ServerTLS(auth.Identity{Node: testNode}, ALPNRPC, ALPNBlock)
	if err != nil {
		t.Fatal(err)
	}
	if r.l, err = Listen("127.0.0.1:0", tc, true, nil); err != nil {
		t.Fatal(err)
	}
	if cfg.Hello == nil {
		cfg.Hello = func() *Hello { return NewHello(testCluster, testNode, "test") }
	}
	r.s = NewServer(cfg)
	r.s.Handle(MethodPing, func(context.Context, []byte, *Hello) (Message, error) {
		return &Pong{Clock: 42}, nil
	})
	go r.s.Serve(r.l.ALPN(ALPNRPC))
	t.Cleanup(func() { r.s.Close(); r.l.Close() })
	return r
}

// config dials the rig with its key.
func (r *rig) config() DialConfig {
	return DialConfig{
		Addr: r.l.Addr().String(), Hello: NewHello(testCluster, 0, "test client"),
		Dial: dialWith(r.t, r.key),
	}
}

func dialWith(t testing.TB, key *auth.Key) func(context.Context, string) (net.Conn, error) {
	tc, err := key.ClientTLS(auth.Identity{}, ALPNRPC)
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, addr string) (net.Conn, error) {
		return DialTLS(ctx, addr, tc)
	}
}

func (r *rig) dial() *Conn {
	r.t.Helper()
	c, err := Dial(context.Background(), r.config())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c
}

// A call that works is the ground under every other test.
func TestCallIsAnswered(t *testing.T) {
	r := newRig(t, ServerConfig{})
	c := r.dial()
	var pong Pong
	if err := c.Call(context.Background(), MethodPing, &Ping{}, &pong); err != nil || pong.Clock != 42 {
		t.Fatalf("ping: %v, clock %d", err, pong.Clock)
	}
	if c.Peer().Node != uint64(testNode) {
		t.Errorf("the peer is %x", c.Peer().Node)
	}
}

func benchShard(b *testing.B, callers int) {
	r := newRig(b, ServerConfig{})
	reply := &ShardReply{Time: 1, Results: []*Result{{Result: &Result_Linked{
		Linked: &Linked{Time: 5, Replaced: 7},
	}}}}
	r.s.Handle(MethodShard, func(_ context.Context, body []byte, _ *Hello) (Message, error) {
		q := &ShardRequest{}
		if err := q.UnmarshalVT(body); err != nil {
			return nil, err
		}
		return reply, nil
	})
	c := r.dial()
	req := &ShardRequest{Shard: 3, Session: 4, Sequence: 5, Verbs: []*Verb{{Verb: &Verb_LinkFile{
		LinkFile: &LinkFile{File: 9, Cookie: make([]byte, 16), Dir: 8, Name: string(make([]byte, 80))},
	}}}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := i; n < b.N; n += callers {
				resp := ShardReply{}
				if err := c.Call(ctx, MethodShard, req, &resp); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
}

func BenchmarkCall1(b *testing.B)  { benchShard(b, 1) }
func BenchmarkCall64(b *testing.B) { benchShard(b, 64) }

// A key of another cluster must be refused in words on both ends: it is the
// mistake that people make.
func TestWrongKeyIsRefusedInWords(t *testing.T) {
	r := newRig(t, ServerConfig{})
	other, _ := auth.NewKey()
	d := r.config()
	d.Dial = dialWith(t, other)
	_, err := Dial(context.Background(), d)
	if !errors.Is(err, eggs.Permission) {
		t.Fatalf("got %v", err)
	}
	t.Log(err)
}
