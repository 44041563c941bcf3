package client

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// peers keeps one rpc connection to each node, made when first needed.
type peers struct {
	mu     sync.Mutex
	byID   map[eggs.NodeID]*peer
	closed bool
}

// peer is the connection to one node. At most one dial is under way; those who
// need it wait for its end.
type peer struct {
	mu      sync.Mutex
	conn    *wire.Conn
	dialing chan struct{} // closed when the dial under way has ended
	err     error         // of the last dial
	failed  time.Time     // when it failed
}

func (ps *peers) get(id eggs.NodeID) *peer {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.byID[id]
	if p == nil {
		p = &peer{}
		ps.byID[id] = p
	}
	return p
}

// drop closes the connection to a node; calls that wait on it end with Indeterminate.
func (ps *peers) drop(id eggs.NodeID) {
	ps.mu.Lock()
	p := ps.byID[id]
	ps.mu.Unlock()
	if p != nil {
		p.put(nil)
	}
}

func (ps *peers) close() {
	ps.mu.Lock()
	ps.closed = true
	all := make([]*peer, 0, len(ps.byID))
	for _, p := range ps.byID {
		all = append(all, p)
	}
	ps.mu.Unlock()
	for _, p := range all {
		p.put(nil)
	}
}

func (ps *peers) isClosed() bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.closed
}

// put replaces the connection.
func (p *peer) put(conn *wire.Conn) {
	p.mu.Lock()
	old := p.conn
	p.conn = conn
	p.mu.Unlock()
	if old != nil && old != conn {
		old.Close()
	}
}

// live returns the connection if it is not broken. p.mu is held.
func (p *peer) live() *wire.Conn {
	if p.conn == nil {
		return nil
	}
	select {
	case <-p.conn.Done():
		p.conn = nil
		return nil
	default:
		return p.conn
	}
}

// conn returns a connection to a node. Kind Unavailable when it cannot be
// reached; Permission, WrongCluster, Version when one side refuses the other.
func (c *Client) conn(ctx context.Context, id eggs.NodeID) (*wire.Conn, error) {
	p := c.peers.get(id)
	for {
		p.mu.Lock()
		if conn := p.live(); conn != nil {
			p.mu.Unlock()
			return conn, nil
		}
		if p.dialing == nil {
			if p.err != nil && time.Since(p.failed) < redialAfter {
				err := p.err
				p.mu.Unlock()
				return nil, err
			}
			p.dialing = make(chan struct{})
			if !c.spawn(func() { c.dialPeer(p, id) }) {
				close(p.dialing)
				p.dialing = nil
				p.mu.Unlock()
				return nil, eggs.E("client.Dial", eggs.Unavailable, "the client is closed")
			}
		}
		wait := p.dialing
		p.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, &eggs.Error{Op: "client.Dial", Kind: eggs.Canceled, Err: ctx.Err()}
		}
		p.mu.Lock()
		conn, err := p.live(), p.err
		p.mu.Unlock()
		if conn != nil {
			return conn, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// dialPeer makes the connection and wakes those who wait. It belongs to no
// caller, so that one who gives up does not take it from the others.
func (c *Client) dialPeer(p *peer, id eggs.NodeID) {
	var conn *wire.Conn
	err := error(&eggs.Error{
		Op: "client.Dial", Name: id.String(), Kind: eggs.Unavailable,
		Err: errors.New("no address is known for this node"),
	})
	if n := c.see().nodes[id]; n != nil && n.Address != "" {
		conn, err = c.dial(c.ctx, n.Address, id, pingEvery)
	}
	if c.peers.isClosed() && conn != nil {
		conn.Close()
		conn, err = nil, eggs.E("client.Dial", eggs.Unavailable, "the client is closed")
	}
	p.mu.Lock()
	p.conn, p.err = conn, err
	if err != nil {
		p.failed = time.Now()
	}
	close(p.dialing)
	p.dialing = nil
	p.mu.Unlock()
}

// dial connects to an address; want 0 takes whoever answers. It is given up when 2.5 pings bring nothing.
func (c *Client) dial(ctx context.Context, addr string, want eggs.NodeID, ping time.Duration) (*wire.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	cluster := c.cluster()
	conn, err := wire.Dial(ctx, wire.DialConfig{
		Addr: addr,
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			return c.o.Dial(ctx, addr, wire.ALPNRPC)
		},
		Hello:       wire.NewHello(cluster, c.o.Self, c.o.Software),
		WantNode:    want,
		WantCluster: cluster,
		Ping:        ping,
	})
	if err != nil {
		return nil, &eggs.Error{Op: "client.Dial", Err: err}
	}
	return conn, nil
}

// refused reports whether dialling again cannot help.
func refused(err error) bool {
	k := eggs.KindOf(err)
	return k == eggs.Permission || k == eggs.Version || k == eggs.WrongCluster
}
