package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// Pauses between attempts. A healthy leader change takes some 100 ms, so the
// first ones are short; the last bounds what a long outage costs.
const (
	pauseFirst = 2 * time.Millisecond
	pauseLast  = 200 * time.Millisecond
	maxHops    = 4 // leaders that name each other are left for a pause after so many
)

// pacer is the patience of one call: whom to ask next, and after which pause.
type pacer struct {
	c       *Client
	group   eggs.GroupID
	changed <-chan struct{} // as of the last attempt
	asked   eggs.NodeID     // by the last attempt
	next    eggs.NodeID     // by the next one; 0: the leader
	misses  int             // attempts that did not reach a leader
	hops    int
	pause   time.Duration
}

// attempt sends one request to whom the pacer says.
func (c *Client) attempt(ctx context.Context, p *pacer, m wire.Method, req wire.Message,
	reply func() wire.Message,
) (wire.Message, error) {
	p.changed = c.o.Router.Changed()
	pic := c.see()
	node := p.next
	p.next = 0
	if node == 0 {
		node = c.leader(pic, p.group)
	}
	if node == 0 {
		node = pic.someNode(p.misses) // it names the leader, or answers NotLeader
	}
	if node == 0 {
		return nil, eggs.E("client.Route", eggs.Unavailable, "no node of the cluster is known")
	}
	p.asked = node
	return c.CallNode(ctx, node, m, req, reply)
}

// CallNode sends one request to one node, once, and waits at most 5 s. The
// answer is what reply makes, or a message that belongs to this node itself and
// must only be read. Kinds as wire.Conn.Call.
func (c *Client) CallNode(ctx context.Context, node eggs.NodeID, m wire.Method, req wire.Message,
	reply func() wire.Message,
) (wire.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, min(attemptTimeout, c.o.Timeout))
	defer cancel()
	if node == c.o.Self && c.o.Local != nil {
		msg, err := c.o.Local(ctx, m, req)
		if err != nil && eggs.KindOf(err) == eggs.Other && ctx.Err() != nil {
			err = &eggs.Error{Kind: eggs.Indeterminate, Err: err}
		}
		return msg, err
	}
	conn, err := c.conn(ctx, node)
	if err != nil {
		if eggs.KindOf(err) == eggs.WrongCluster { // the address is another node's now
			err = &eggs.Error{Kind: eggs.Unavailable, Err: err}
		}
		return nil, err
	}
	resp := reply()
	if err := conn.Call(ctx, m, req, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// wait returns nil when the next attempt may begin, and an error when ctx is over.
func (p *pacer) wait(ctx context.Context, err error) error {
	p.c.count.retries.Add(1)
	var e *eggs.Error
	if eggs.KindOf(err) == eggs.NotLeader && errors.As(err, &e) {
		if e = namesLeader(err); e != nil && e.Node != p.asked && p.hops < maxHops {
			p.hops++
			p.c.learn(p.group, e.Node)
			return ctx.Err()
		}
	}
	p.hops = 0
	p.misses++
	if p.misses%2 == 0 { // the picture may be old: whoever answers may know more
		p.next = p.c.see().someNode(p.misses / 2)
	}
	if d, ok := p.c.o.Router.(Doubter); ok && p.misses%8 == 0 {
		d.Doubt()
	}
	p.pause = min(max(2*p.pause, pauseFirst), pauseLast)
	t := time.NewTimer(p.pause/2 + rand.N(p.pause))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.c.ctx.Done():
		return p.c.ctx.Err()
	case <-t.C:
	case <-p.changed:
	}
	return nil
}

// namesLeader finds the error in err's chain that names a leader.
func namesLeader(err error) *eggs.Error {
	for err != nil {
		if e, ok := err.(*eggs.Error); ok && e.Kind == eggs.NotLeader && e.Node != 0 {
			return e
		}
		err = errors.Unwrap(err)
	}
	return nil
}

// elsewhere reports whether an error of an attempt means that the group's
// leader, or another try, may answer: nothing was done, or nobody knows.
func elsewhere(k eggs.Kind) bool {
	switch k {
	case eggs.NotLeader, eggs.Unavailable, eggs.Busy, eggs.Canceled, eggs.Indeterminate,
		eggs.Timeout:
		return true
	}
	return false
}

// late is the error of a call whose time is over.
func late(ctx context.Context, sent bool, last error) error {
	e := &eggs.Error{Kind: eggs.Timeout, Err: last}
	switch {
	case sent:
		e.Kind = eggs.Indeterminate
	case errors.Is(ctx.Err(), context.Canceled):
		e.Kind = eggs.Canceled
	}
	if last == nil {
		e.Err = ctx.Err()
	}
	return e
}

// ask sends a request that may be repeated until a leader answers it or time is over. Nearly
// all are answered at once, so the clock of the whole call is set only for a second attempt.
func (c *Client) ask(ctx context.Context, g eggs.GroupID, m wire.Method, req wire.Message,
	reply func() wire.Message, refusal func(wire.Message) *wire.Error,
) (wire.Message, error) {
	begin, limited := time.Now(), false
	p := pacer{c: c, group: g}
	for {
		msg, err := c.attempt(ctx, &p, m, req, reply)
		if err == nil {
			if err = refusal(msg).AsError(); err == nil {
				return msg, nil
			}
		}
		if !elsewhere(eggs.KindOf(err)) {
			return msg, err
		}
		if !limited {
			limited = true
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, begin.Add(c.o.Timeout))
			defer cancel()
		}
		if p.wait(ctx, err) != nil {
			return nil, late(ctx, false, err)
		}
	}
}

// change is one change of a group, sent exactly once.
type change struct {
	group   eggs.GroupID
	method  wire.Method
	in      *session // nil: the group's current one
	build   func(session, sequence, lowest uint64) wire.Message
	reply   func() wire.Message
	refusal func(wire.Message) *wire.Error
}

// do sends a change until its result is known or time is over. A message that
// comes with an error is the refusal.
func (c *Client) do(ctx context.Context, ch *change) (wire.Message, error) {
	ctx, cancel := c.limit(ctx)
	defer cancel()
	p := pacer{c: c, group: ch.group}
	for {
		s := ch.in
		if s == nil {
			var err error
			if s, err = c.session(ctx, ch.group); err != nil {
				return nil, err
			}
		}
		sequence, lowest, ok := s.begin()
		if !ok {
			if ch.in != nil {
				return nil, eggs.E("client.Change", eggs.BadSession, "the session is over")
			}
			continue
		}
		msg, again, err := c.deliver(ctx, &p, ch, s, sequence, lowest)
		s.end(sequence)
		if !again {
			return msg, err
		}
		if p.wait(ctx, err) != nil {
			return nil, late(ctx, false, err)
		}
	}
}

// deliver sends a change under one sequence number until it is answered.
// again: it was surely not done, and may be sent under another number.
func (c *Client) deliver(ctx context.Context, p *pacer, ch *change, s *session,
	sequence, lowest uint64,
) (msg wire.Message, again bool, err error) {
	req := ch.build(s.id, sequence, lowest)
	sent := false // an attempt may have reached the group
	for {
		msg, err = c.attempt(ctx, p, ch.method, req, ch.reply)
		answered := err == nil
		if answered {
			if err = ch.refusal(msg).AsError(); err == nil {
				s.answered()
				return msg, false, nil
			}
		}
		kind := eggs.KindOf(err)
		switch {
		case kind == eggs.BadSession:
			s.kill()
			if sent {
				return nil, false, &eggs.Error{Kind: eggs.Indeterminate, Err: err}
			}
			return nil, ch.in == nil, err
		case kind == eggs.Locked:
			return msg, true, err
		case answered && kind != eggs.Indeterminate && elsewhere(kind) && !sent:
			return msg, true, err // a recorded refusal would be repeated for ever
		case answered && (kind == eggs.Indeterminate || !elsewhere(kind)):
			s.answered()
			return msg, false, err
		case !elsewhere(kind):
			return nil, false, err
		}
		sent = sent || kind == eggs.Indeterminate
		if p.wait(ctx, err) != nil {
			return nil, false, late(ctx, sent, err)
		}
	}
}
