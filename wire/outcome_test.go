package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"eggsfs/eggs"
)

// puppet is a peer under the test's hand: it speaks frames and nothing else.
type puppet struct {
	t    *testing.T
	conn net.Conn
	r    *frameReader
}

// dialPuppet gives a client connected to a puppet by a pipe without any
// buffer, so that the test decides when a byte leaves.
func dialPuppet(t *testing.T, ping time.Duration) (*Conn, *puppet) {
	t.Helper()
	here, there := net.Pipe()
	p := &puppet{t: t, conn: there, r: newFrameReader(there)}
	go func() {
		readHello(p.r)
		writeHello(there, NewHello(testCluster, testNode, "puppet"))
	}()
	c, err := Dial(context.Background(), DialConfig{
		Addr: "puppet", Hello: NewHello(testCluster, 0, "client"), Ping: ping,
		Dial: func(context.Context, string) (net.Conn, error) { return here, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); there.Close() })
	return c, p
}

// next reads a frame's header and throws its body away.
func (p *puppet) next() header {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	h, err := p.r.next(MaxBody)
	if err == nil {
		err = p.r.skip(h.size)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return h
}

func (p *puppet) send(h header, m Message) {
	b, err := appendFrame(nil, h, nil, m)
	if err != nil {
		p.t.Fatal(err)
	}
	p.conn.Write(b)
}

// inBackground runs a call and returns where its error goes.
func inBackground(c *Conn, ctx context.Context) chan error {
	done := make(chan error, 1)
	before := c.Pending()
	go func() { done <- c.Call(ctx, MethodPing, &Ping{}, &Pong{}) }()
	for end := time.Now().Add(30 * time.Second); c.Pending() == before && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(10 * time.Millisecond) // the writer takes it
	return done
}

func wantKind(t *testing.T, what string, err error, k eggs.Kind) {
	t.Helper()
	if eggs.KindOf(err) != k {
		t.Errorf("%s: got %v, want kind %q", what, err, k)
	}
}

// Not done and unknown must never be taken for one another: a request whose
// bytes are with the socket may be executed, one that waits behind it may not.
func TestCanceledCallIsTakenBackOnlyBeforeItLeft(t *testing.T) {
	c, p := dialPuppet(t, 0)
	ctxA, cancelA := context.WithCancel(context.Background())
	ctxB, cancelB := context.WithCancel(context.Background())
	a := inBackground(c, ctxA) // the writer is stuck with it: nobody reads
	b := inBackground(c, ctxB) // waits behind it
	cancelB()
	wantKind(t, "the call that waits", <-b, eggs.Canceled)
	cancelA()
	wantKind(t, "the call that left", <-a, eggs.Indeterminate)
	var kinds []frameType
	for range 3 {
		kinds = append(kinds, p.next().kind)
	}
	if kinds[0] != frameRequest || kinds[1] != frameVoid || kinds[2] != frameCancel {
		t.Errorf("the peer saw frames of types %v", kinds)
	}
}

// When the connection is lost, what left is unknown and what did not is not done.
func TestLostConnectionTellsSentFromUnsent(t *testing.T) {
	c, p := dialPuppet(t, 0)
	ctx := context.Background()
	a := inBackground(c, ctx)
	b := inBackground(c, ctx)
	p.conn.Close()
	wantKind(t, "the call that left", <-a, eggs.Indeterminate)
	wantKind(t, "the call that waits", <-b, eggs.Unavailable)
	wantKind(t, "a call after the end", c.Call(ctx, MethodPing, &Ping{}, &Pong{}), eggs.Unavailable)
	select {
	case <-c.Done():
	case <-time.After(time.Second):
		t.Error("Done is not closed")
	}
}

// A context that is over before anything was sent is a plain refusal.
func TestContextOverBeforeSending(t *testing.T) {
	c, _ := dialPuppet(t, 0)
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	wantKind(t, "canceled", c.Call(canceled, MethodPing, &Ping{}, &Pong{}), eggs.Canceled)
	late, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	wantKind(t, "late", c.Call(late, MethodPing, &Ping{}, &Pong{}), eggs.Timeout)
}

// A deadline that passes while the peer thinks leaves the outcome unknown.
func TestDeadlinePassesAtThePeer(t *testing.T) {
	c, p := dialPuppet(t, 0)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	done := inBackground(c, ctx)
	if h := p.next(); h.flags&flagDeadline == 0 {
		t.Error("the request carries no deadline")
	}
	wantKind(t, "the call", <-done, eggs.Indeterminate)
	if h := p.next(); h.kind != frameCancel {
		t.Errorf("the peer got type %d, want a cancel", h.kind)
	}
}

// Callers wait when the peer does not read, and memory stays bounded.
func TestBackPressure(t *testing.T) {
	c, _ := dialPuppet(t, 0)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	req := &ShardRequest{Verbs: []*Verb{{Verb: &Verb_AddInline{
		AddInline: &AddInline{Data: make([]byte, 300<<10)},
	}}}}
	errs := make(chan error, 16)
	for range cap(errs) {
		go func() { errs <- c.Call(ctx, MethodShard, req, &ShardReply{}) }()
	}
	time.Sleep(150 * time.Millisecond)
	c.mu.Lock()
	if n := len(c.out); n > maxBuffered+400<<10 {
		t.Errorf("%d bytes wait to be written", n)
	}
	c.mu.Unlock()
	sent := 0
	for range cap(errs) {
		switch err := <-errs; eggs.KindOf(err) {
		case eggs.Indeterminate:
			sent++
		case eggs.Timeout:
		default:
			t.Error(err)
		}
	}
	if sent == 0 || sent > 5 {
		t.Errorf("%d calls count as sent; the writer took what had gathered at its first look", sent)
	}
}

// A peer that is alive but silent answers pings; one that is gone does not, and is given up.
func TestSilentPeerIsGivenUp(t *testing.T) {
	c, p := dialPuppet(t, 400*time.Millisecond)
	done := inBackground(c, context.Background())
	for range 3 { // as long as it answers pings, it lives
		for p.next().kind != framePing {
		}
		p.send(header{kind: framePong}, nil)
	}
	go io.Copy(io.Discard, p.conn) // it takes everything and says nothing
	begin := time.Now()
	err := <-done
	wantKind(t, "the call", err, eggs.Indeterminate)
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	if !strings.Contains(err.Error(), "no sign of life") {
		t.Error(err)
	}
}

// An answer nobody can read is an unknown outcome, not a failure.
func TestUnreadableAnswerIsIndeterminate(t *testing.T) {
	c, p := dialPuppet(t, 0)
	done := inBackground(c, context.Background())
	h := p.next()
	b, _ := appendFrame(nil, header{kind: frameReply, id: h.id}, []byte{0xff, 0xff, 0xff}, nil)
	p.conn.Write(b)
	wantKind(t, "the call", <-done, eggs.Indeterminate)
}

// What the handler says comes back as it was, and nothing else does.
func TestHandlersErrorCrosses(t *testing.T) {
	r := newRig(t, ServerConfig{})
	want := &eggs.Error{
		Op: "raftshard.LinkFile", Inode: eggs.Root, Name: "x", Kind: eggs.NotLeader,
		Node: 0xB2, Disks: []eggs.DiskID{1, 2}, Err: errors.New("ask the other"),
	}
	r.s.Handle(MethodShard, func(context.Context, []byte, *Hello) (Message, error) {
		return nil, want
	})
	err := r.dial().Call(context.Background(), MethodShard, &ShardRequest{}, &ShardReply{})
	var got *eggs.Error
	if !errors.As(err, &got) || got.Error() != want.Error() || got.Node != want.Node ||
		!errors.Is(err, eggs.NotLeader) {
		t.Errorf("got  %v\nwant %v", err, want)
	}
}

// The handler's context ends with the caller's deadline, its cancellation, and
// its connection: work that nobody waits for must stop.
func TestHandlersContextEnds(t *testing.T) {
	r := newRig(t, ServerConfig{})
	began, ended := make(chan struct{}, 1), make(chan bool, 1)
	r.s.Handle(MethodShard, func(ctx context.Context, _ []byte, _ *Hello) (Message, error) {
		began <- struct{}{}
		_, limited := ctx.Deadline()
		<-ctx.Done()
		ended <- limited
		return nil, ctx.Err()
	})
	expect := func(what string, limited bool) {
		t.Helper()
		select {
		case got := <-ended:
			if got != limited {
				t.Errorf("%s: the handler has a deadline: %v", what, got)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: the handler goes on", what)
		}
	}
	c := r.dial()
	call := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() { done <- c.Call(ctx, MethodShard, &ShardRequest{}, &ShardReply{}) }()
		<-began
		return done
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := call(ctx)
	cancel()
	expect("cancellation", false)
	wantKind(t, "canceled", <-done, eggs.Indeterminate)
	ctx, cancel = context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	done = call(ctx)
	expect("deadline", true)
	wantKind(t, "late", <-done, eggs.Indeterminate)
	done = call(context.Background())
	c.Close()
	expect("lost connection", false)
	wantKind(t, "lost", <-done, eggs.Indeterminate)
}

// More requests than a connection may have in work are refused as not done.
func TestBusyBeyondTheLimits(t *testing.T) {
	r := newRig(t, ServerConfig{MaxCalls: 2, MaxInFlight: 1 << 20})
	var running atomic.Int32
	goOn := make(chan struct{})
	r.s.Handle(MethodShard, func(context.Context, []byte, *Hello) (Message, error) {
		running.Add(1)
		<-goOn
		return &ShardReply{}, nil
	})
	c := r.dial()
	done := make(chan error, 2)
	req := &ShardRequest{Verbs: []*Verb{{Verb: &Verb_AddInline{
		AddInline: &AddInline{Data: make([]byte, 600<<10)},
	}}}}
	go func() { done <- c.Call(context.Background(), MethodShard, req, &ShardReply{}) }()
	for running.Load() < 1 {
		time.Sleep(time.Millisecond)
	}
	wantKind(t, "too many bytes",
		c.Call(context.Background(), MethodShard, req, &ShardReply{}), eggs.Busy)
	go func() {
		done <- c.Call(context.Background(), MethodShard, &ShardRequest{}, &ShardReply{})
	}()
	for running.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	wantKind(t, "too many calls",
		c.Call(context.Background(), MethodPing, &Ping{}, &Pong{}), eggs.Busy)
	close(goOn)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := c.Call(context.Background(), MethodPing, &Ping{}, &Pong{}); err != nil {
		t.Error("after the burst:", err)
	}
}

// Close lets handlers end and their answers leave, and refuses the rest as not done.
func TestServerClosesCleanly(t *testing.T) {
	r := newRig(t, ServerConfig{})
	began, goOn := make(chan struct{}), make(chan struct{})
	r.s.Handle(MethodShard, func(context.Context, []byte, *Hello) (Message, error) {
		close(began)
		<-goOn
		return &ShardReply{Time: 9}, nil
	})
	c := r.dial()
	var reply ShardReply
	done := make(chan error, 1)
	go func() { done <- c.Call(context.Background(), MethodShard, &ShardRequest{}, &reply) }()
	<-began
	closed := make(chan struct{})
	go func() { r.s.Close(); close(closed) }()
	for !r.s.closing.Load() {
		time.Sleep(time.Millisecond)
	}
	wantKind(t, "a call while closing",
		c.Call(context.Background(), MethodPing, &Ping{}, &Pong{}), eggs.Unavailable)
	close(goOn)
	if err := <-done; err != nil || reply.Time != 9 {
		t.Errorf("the call in work: %v, %d", err, reply.Time)
	}
	<-closed
	select {
	case <-c.Done():
	case <-time.After(time.Second):
		t.Error("the connection stays")
	}
	if _, err := Dial(context.Background(), r.config()); err == nil {
		t.Error("a closed server takes connections")
	}
}
