package clienttest

import (
	"context"
	"errors"
	"net"
	"time"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

// fault is something that goes wrong with requests of one method.
type fault struct {
	method wire.Method
	left   int
	before error // the request is refused with it
	cut    bool  // the connection is lost after it is done
	hang   bool  // the answer never comes
}

// Lose has the next n answers of a method replaced by Indeterminate; what was asked is done.
func (w *World) Lose(m wire.Method, n int) { w.fault(&fault{method: m, left: n}) }

// Cut loses the connection after each of the next n requests of a method.
func (w *World) Cut(m wire.Method, n int) { w.fault(&fault{method: m, left: n, cut: true}) }

// Hang gives no answer to the next n requests of a method, which are done.
func (w *World) Hang(m wire.Method, n int) { w.fault(&fault{method: m, left: n, hang: true}) }

// Refuse answers the next n requests of a method with err.
func (w *World) Refuse(m wire.Method, n int, err error) {
	w.fault(&fault{method: m, left: n, before: err})
}

func (w *World) fault(f *fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, f)
}

// take returns the fault that a request meets.
func (w *World) take(m wire.Method) *fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[m]++
	for _, f := range w.faults {
		if f.method == m && f.left > 0 {
			f.left--
			return f
		}
	}
	return nil
}

// Count returns how many requests of a method have come.
func (w *World) Count(m wire.Method) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[m]
}

// start opens the node's port and serves.
func (n *Node) start() {
	id := auth.Identity{Node: n.ID}
	cfg, err := n.w.Key.ServerTLS(id, wire.ALPNRPC, wire.ALPNBlock)
	if err != nil {
		n.w.TB.Fatal(err)
	}
	l, err := wire.Listen(n.Addr, cfg, true, nil)
	if err != nil {
		n.w.TB.Fatal(err)
	}
	n.Addr = l.Addr().String()
	s := wire.NewServer(wire.ServerConfig{
		Hello:     func() *wire.Hello { return wire.NewHello(n.w.Cluster, n.ID, "test") },
		CloseWait: 100 * time.Millisecond,
	})
	n.handlers(s)
	n.mu.Lock()
	n.listen, n.server = l, s
	n.blocks = make(map[net.Conn]struct{})
	n.mu.Unlock()
	rpc, blocks := l.ALPN(wire.ALPNRPC), l.ALPN(wire.ALPNBlock)
	n.w.wg.Go(func() { s.Serve(rpc) })
	n.w.wg.Go(func() { n.serveBlocks(blocks) })
}

func (n *Node) up() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listen != nil && !n.dead
}

// Declare has the picture say that the node lives, or not, whatever is true.
func (n *Node) Declare(alive bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead = !alive
}

// Stop ends the node as SIGKILL does. Its groups have no leader until Lead.
func (n *Node) Stop() {
	n.mu.Lock()
	l, s := n.listen, n.server
	n.listen, n.server = nil, nil
	for c := range n.blocks {
		c.Close()
	}
	n.mu.Unlock()
	if l != nil {
		l.Close()
		s.Close()
	}
}

// Start brings a stopped node back at its address.
func (n *Node) Start() { n.start() }

func (n *Node) handlers(s *wire.Server) {
	n.handle(s, wire.MethodShard, func(ctx context.Context, body []byte) (wire.Message, error) {
		r := &wire.ShardRequest{}
		if err := r.UnmarshalVT(body); err != nil {
			return nil, err
		}
		if err := n.leads(eggs.GroupID(r.Shard)); err != nil {
			return nil, err
		}
		return n.w.Shard(eggs.ShardID(r.Shard)).Do(ctx, r)
	})
	n.handle(s, wire.MethodShardQuery, func(ctx context.Context, body []byte) (wire.Message, error) {
		q := &wire.ShardQuery{}
		if err := q.UnmarshalVT(body); err != nil {
			return nil, err
		}
		if err := n.leads(eggs.GroupID(q.Shard)); err != nil {
			return nil, err
		}
		return n.w.Shard(eggs.ShardID(q.Shard)).Query(ctx, q)
	})
	n.handle(s, wire.MethodCdc, func(ctx context.Context, body []byte) (wire.Message, error) {
		r := &wire.CdcRequest{}
		if err := r.UnmarshalVT(body); err != nil {
			return nil, err
		}
		if err := n.leads(eggs.CDCGroup); err != nil {
			return nil, err
		}
		return n.w.cdc.Do(ctx, r)
	})
	n.handle(s, wire.MethodCdcQuery, func(ctx context.Context, body []byte) (wire.Message, error) {
		q := &wire.CdcQuery{}
		if err := q.UnmarshalVT(body); err != nil {
			return nil, err
		}
		if err := n.leads(eggs.CDCGroup); err != nil {
			return nil, err
		}
		return n.w.cdc.Query(ctx, q)
	})
	n.handle(s, wire.MethodNodeStatus, func(context.Context, []byte) (wire.Message, error) {
		return n.status(), nil
	})
	s.HandleStream(wire.MethodWatchRoutes, func(ctx context.Context, _ []byte, _ *wire.Hello,
		send func(wire.Message) error,
	) error {
		for {
			changed, r := n.w.Changed(), n.w.Routes()
			if err := send(r); err != nil {
				return err
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			case <-n.w.ctx.Done():
				return n.w.ctx.Err()
			}
		}
	})
}

// handle answers a method, with the faults that were asked for.
func (n *Node) handle(s *wire.Server, m wire.Method,
	h func(ctx context.Context, body []byte) (wire.Message, error),
) {
	s.Handle(m, func(ctx context.Context, body []byte, _ *wire.Hello) (wire.Message, error) {
		f := n.w.take(m)
		if f != nil && f.before != nil {
			return nil, f.before
		}
		msg, err := h(ctx, body)
		switch {
		case f == nil:
			return msg, err
		case f.cut:
			go n.restart()
			<-ctx.Done()
		case f.hang:
			<-ctx.Done()
		}
		return nil, &eggs.Error{
			Op: "clienttest.Lose", Kind: eggs.Indeterminate,
			Err: errors.New("the answer was lost"),
		}
	})
}

// restart loses all connections.
func (n *Node) restart() {
	n.Stop()
	if n.w.ctx.Err() == nil {
		n.start()
	}
}

func (n *Node) leads(g eggs.GroupID) error {
	if leader := n.w.Leader(g); leader != n.index {
		return &eggs.Error{Op: "clienttest.Do", Kind: eggs.NotLeader, Node: n.w.Nodes[leader].ID}
	}
	return nil
}

func (n *Node) status() *wire.NodeStatus {
	s := &wire.NodeStatus{Id: uint64(n.ID), Address: n.Addr, Ready: true, Cluster: uint64(n.w.Cluster)}
	for g := range eggs.Groups {
		if n.w.Leader(eggs.GroupID(g)) == n.index {
			s.Groups = append(s.Groups, &wire.GroupStatus{
				Group: uint32(g), State: "leader",
				Leader: uint64(n.ID),
			})
		}
	}
	return s
}
