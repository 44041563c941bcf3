package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"eggsfs/eggs"
)

// DialConfig says whom to dial and who is meant.
type DialConfig struct {
	Addr        string
	Dial        func(ctx context.Context, addr string) (net.Conn, error) // see DialTLS
	Hello       *Hello                                                   // who this side is
	WantNode    eggs.NodeID                                              // 0: whoever is there
	WantCluster eggs.ClusterID                                           // 0: any
	Ping        time.Duration                                            // 0: DefaultPing
}

// Conn is the calling end of an RPC connection. It is safe for concurrent use.
type Conn struct {
	*link
	addr  string
	peer  *Hello
	calls map[uint64]*call // those that wait for an answer; link.mu
	id    uint64           // of the last call; link.mu
}

// call is one request that waits. Whoever takes it out of Conn.calls, under
// link.mu, has the duty and the right to send to done, once.
type call struct {
	id    uint64
	start uint64 // stream offset of its frame
	resp  Message
	items *itemQueue // of a stream
	err   error
	done  chan struct{} // 1 deep
}

var callPool = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// Dial connects and exchanges hellos. It fails with Kind Unavailable when
// nobody answers, Version or WrongCluster when it is not who was meant, or the error of Dial.
func Dial(ctx context.Context, d DialConfig) (*Conn, error) {
	fail := func(err error) (*Conn, error) {
		e := &eggs.Error{Op: "wire.Dial", Name: d.Addr, Err: err}
		switch {
		case eggs.KindOf(err) != eggs.Other:
		case errors.Is(err, context.Canceled):
			e.Kind = eggs.Canceled
		default:
			e.Kind = eggs.Unavailable
		}
		return nil, e
	}
	if d.Dial == nil || d.Hello == nil {
		return fail(eggs.E("", eggs.Invalid, "Dial and Hello are needed"))
	}
	conn, err := d.Dial(ctx, d.Addr)
	if err != nil {
		return fail(err)
	}
	c := &Conn{link: newLink(conn, d.Ping), addr: d.Addr, calls: map[uint64]*call{}}
	c.onDead = c.failCalls
	r := newFrameReader(c.link)
	if err := c.hello(ctx, r, d); err != nil {
		conn.Close()
		if over := ctx.Err(); over != nil {
			err = over
		}
		return fail(explainTLS(err))
	}
	c.start()
	go c.readLoop(r)
	return c, nil
}

// hello introduces both sides to each other, within helloTime and ctx.
func (c *Conn) hello(ctx context.Context, r *frameReader, d DialConfig) error {
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c.conn.SetReadDeadline(time.Now().Add(helloTime))
	if err := writeHello(c.conn, d.Hello); err != nil {
		return err
	}
	peer, err := readHello(r)
	if err != nil {
		return err
	}
	if err := checkHello(d.Hello, peer); err != nil {
		return err
	}
	if d.WantCluster != 0 && peer.Cluster != uint64(d.WantCluster) {
		return eggs.E("wire.Hello", eggs.WrongCluster, fmt.Sprintf("cluster %s was meant, %s answers",
			d.WantCluster, eggs.ClusterID(peer.Cluster)))
	}
	if d.WantNode != 0 && peer.Node != uint64(d.WantNode) {
		return eggs.E("wire.Hello", eggs.WrongCluster, fmt.Sprintf("node %s was meant, %s answers",
			d.WantNode, eggs.NodeID(peer.Node)))
	}
	if !stop() {
		return ctx.Err()
	}
	c.peer = peer
	return c.conn.SetReadDeadline(time.Time{})
}

// Peer is who answers.
func (c *Conn) Peer() *Hello { return c.peer }

// Done is closed when the connection is over.
func (c *Conn) Done() <-chan struct{} { return c.dead }

// Err says why, after Done.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Pending returns how many calls wait for an answer.
func (c *Conn) Pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

// Close ends the connection at once; calls in flight fail.
func (c *Conn) Close() { c.fail(eggs.E("wire.Close", eggs.Unavailable, "closed by this side")) }

// Call sends req and decodes the answer into resp, which must be empty. The package comment
// says what its errors mean. req is not used after Call returns.
func (c *Conn) Call(ctx context.Context, m Method, req, resp Message) error {
	k := callPool.Get().(*call)
	k.resp = resp
	err := c.send(ctx, m, req, k)
	if err == nil {
		select {
		case <-k.done:
		case <-ctx.Done():
			c.abandon(ctx.Err(), m, k)
			<-k.done
		}
		err = k.err
	}
	k.resp, k.err = nil, nil
	callPool.Put(k)
	return err
}

// send registers a call and adds its request. After an error nothing was or will be sent.
func (c *Conn) send(ctx context.Context, m Method, req Message, k *call) error {
	if err := ctx.Err(); err != nil {
		return c.notSent(m, err)
	}
	h := header{kind: frameRequest, method: m}
	var room [4]byte
	var prefix []byte
	if d, ok := ctx.Deadline(); ok {
		h.flags |= flagDeadline
		prefix = binary.LittleEndian.AppendUint32(room[:0], deadlineMillis(time.Until(d)))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.await(ctx); err != nil {
		return c.notSent(m, err)
	}
	c.id++
	h.id, k.id = c.id, c.id
	start, err := c.add(h, prefix, req)
	if err != nil {
		return &eggs.Error{Op: "wire.Call", Name: m.String(), Err: err}
	}
	k.start = start
	c.calls[k.id] = k
	return nil
}

// deadlineMillis rounds up, so that the server does not give up first.
func deadlineMillis(d time.Duration) uint32 {
	return uint32(min(max(int64(d+time.Millisecond-1)/int64(time.Millisecond), 1), 1<<32-1))
}

// notSent is the error of a call that never left.
func (c *Conn) notSent(m Method, err error) error {
	e := &eggs.Error{
		Op: "wire.Call", Name: m.String() + " " + c.addr, Kind: eggs.Unavailable, Err: err,
	}
	switch {
	case errors.Is(err, context.Canceled):
		e.Kind = eggs.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		e.Kind = eggs.Timeout
	}
	return e
}

// unanswered is the error of a call that counts as sent.
func (c *Conn) unanswered(err error) error {
	return &eggs.Error{Op: "wire.Call", Name: c.addr, Kind: eggs.Indeterminate, Err: err}
}

// abandon gives a call up, for a reason such as a context that is over: takes the request back
// if it has not left, else tells the peer. If the answer is being decoded, that is let finish.
func (c *Conn) abandon(why error, m Method, k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls[k.id] != k {
		return
	}
	delete(c.calls, k.id)
	if k.start >= c.handed {
		c.out[k.start-c.handed+4] = byte(frameVoid)
		k.err = c.notSent(m, why)
	} else {
		if c.err == nil && c.last == nil {
			c.add(header{kind: frameCancel, id: k.id}, nil, nil)
		}
		k.err = c.unanswered(why)
	}
	k.done <- struct{}{}
}

// failCalls ends what waits when the link is dead.
func (c *Conn) failCalls() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, k := range c.calls {
		delete(c.calls, id)
		if k.start >= c.handed {
			k.err = c.notSent(0, c.err)
		} else {
			k.err = c.unanswered(c.err)
		}
		k.done <- struct{}{}
	}
}

// claim takes the call that a frame answers, or nil when it was given up.
func (c *Conn) claim(id uint64) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.calls[id]
	delete(c.calls, id)
	return k
}

// readLoop takes answers until the connection ends.
func (c *Conn) readLoop(r *frameReader) {
	for {
		h, err := r.next(MaxBody)
		if err == nil {
			err = c.take(r, h)
		}
		switch {
		case err == nil:
		case broken(err):
			c.refuse(err)
			return
		default:
			c.fail(explainTLS(err))
			return
		}
	}
}

// take handles one frame.
func (c *Conn) take(r *frameReader, h header) error {
	if h.kind == frameItem {
		return c.takeItem(r, h)
	}
	body, large, err := r.view(h.size)
	defer release(large)
	if err != nil {
		return err
	}
	switch h.kind {
	case frameVoid, framePong:
		return nil
	case framePing:
		c.signal(header{kind: framePong})
		return nil
	case frameGoodbye:
		c.fail(goodbyeError(body))
		return nil
	case frameReply, frameEnd, frameFailure:
		return c.finishCall(h, body)
	}
	return eggs.E("wire.Read", eggs.Invalid, fmt.Sprintf(
		"a frame of type %d came to the calling side", h.kind))
}

// finishCall gives a call its answer.
func (c *Conn) finishCall(h header, body []byte) error {
	k := c.claim(h.id)
	if k == nil {
		return nil // given up
	}
	var bad error
	switch h.kind {
	case frameReply:
		if k.items != nil {
			bad = eggs.E("wire.Read", eggs.Invalid, "a single answer to a stream")
		} else {
			bad = k.resp.UnmarshalVT(body)
		}
	case frameEnd:
		if k.items == nil {
			bad = eggs.E("wire.Read", eggs.Invalid, "the end of a stream that is none")
		}
	default:
		e := &Error{}
		if bad = e.UnmarshalVT(body); bad == nil {
			k.err = e.AsError()
		}
	}
	if bad != nil {
		bad = &eggs.Error{Op: "wire.Read", Name: h.method.String(), Kind: eggs.Invalid, Err: bad}
		k.err = c.unanswered(bad)
	}
	k.done <- struct{}{}
	return bad
}
