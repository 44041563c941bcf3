package node

import (
	"context"
	"fmt"

	"eggsfs/eggs"
	"eggsfs/raftshard"
	"eggsfs/wire"
)

// decoded is a message that can be read from bytes.
type decoded[T any] interface {
	*T
	wire.Message
}

// unary registers a handler of one message: decode, do, encode.
func unary[T any, P decoded[T]](s *wire.Server, m wire.Method, do func(context.Context, P) (wire.Message, error)) {
	s.Handle(m, func(ctx context.Context, body []byte, _ *wire.Hello) (wire.Message, error) {
		req := P(new(T))
		if err := req.UnmarshalVT(body); err != nil {
			return nil, &eggs.Error{Op: "node.Decode", Name: fmt.Sprint(m), Kind: eggs.Invalid, Err: err}
		}
		return do(ctx, req)
	})
}

// handle registers everything that this node answers.
func (n *Node) handle(s *wire.Server) {
	unary(s, wire.MethodShard, func(ctx context.Context, r *wire.ShardRequest) (wire.Message, error) {
		return n.local(ctx, wire.MethodShard, r)
	})
	unary(s, wire.MethodShardQuery, func(ctx context.Context, r *wire.ShardQuery) (wire.Message, error) {
		return n.local(ctx, wire.MethodShardQuery, r)
	})
	unary(s, wire.MethodCdc, func(ctx context.Context, r *wire.CdcRequest) (wire.Message, error) {
		return n.local(ctx, wire.MethodCdc, r)
	})
	unary(s, wire.MethodCdcQuery, func(ctx context.Context, r *wire.CdcQuery) (wire.Message, error) {
		return n.local(ctx, wire.MethodCdcQuery, r)
	})
	unary(s, wire.MethodNodeStatus, func(ctx context.Context, r *wire.GetNodeStatus) (wire.Message, error) {
		return n.local(ctx, wire.MethodNodeStatus, r)
	})
	unary(s, wire.MethodHostGroup, func(ctx context.Context, r *wire.HostGroup) (wire.Message, error) {
		return n.local(ctx, wire.MethodHostGroup, r)
	})
	unary(s, wire.MethodChangeMembers, func(ctx context.Context, r *wire.ChangeMembers) (wire.Message, error) {
		return n.local(ctx, wire.MethodChangeMembers, r)
	})
	unary(s, wire.MethodPing, func(ctx context.Context, r *wire.Ping) (wire.Message, error) {
		return n.local(ctx, wire.MethodPing, r)
	})
	s.HandleStream(wire.MethodWatchRoutes, n.watchRoutes)
}

// local answers a request on this node; our own client comes here without a network.
func (n *Node) local(ctx context.Context, m wire.Method, req wire.Message) (wire.Message, error) {
	switch r := req.(type) {
	case *wire.ShardRequest:
		s, err := n.shard(r.Shard)
		if err != nil {
			return nil, err
		}
		return answered(s.Do(ctx, r))
	case *wire.ShardQuery:
		s, err := n.shard(r.Shard)
		if err != nil {
			return nil, err
		}
		return answered(s.Query(ctx, r))
	case *wire.CdcRequest:
		c := n.cdc.Load()
		if c == nil {
			return nil, n.notHere(eggs.CDCGroup)
		}
		return answered(c.Do(ctx, r))
	case *wire.CdcQuery:
		c := n.cdc.Load()
		if c == nil {
			return nil, n.notHere(eggs.CDCGroup)
		}
		return answered(c.Query(ctx, r))
	case *wire.GetNodeStatus:
		return n.nodeStatus(), nil
	case *wire.HostGroup:
		return &wire.HostGroupReply{Error: wire.ErrorOf(n.hostGroups(r))}, nil
	case *wire.ChangeMembers:
		return &wire.ChangeMembersReply{Error: wire.ErrorOf(n.changeMembers(ctx, r))}, nil
	case *wire.Ping:
		return &wire.Pong{Clock: int64(n.clock())}, nil
	}
	return nil, eggs.E("node.Serve", eggs.Unsupported, fmt.Sprint(m))
}

// answered keeps a nil pointer from becoming a message that is not nil.
func answered[T any, P decoded[T]](reply P, err error) (wire.Message, error) {
	if err != nil {
		return nil, err
	}
	return reply, nil
}

func (n *Node) shard(id uint32) (*raftshard.Shard, error) {
	if id >= eggs.Shards {
		return nil, eggs.E("node.Serve", eggs.Invalid, fmt.Sprintf("shard %d: there are %d", id, eggs.Shards))
	}
	if s := n.shards[id].Load(); s != nil {
		return s, nil
	}
	return nil, n.notHere(eggs.GroupID(id))
}

// notHere is the answer for a group without a replica here: it names the leader, if known.
func (n *Node) notHere(g eggs.GroupID) error {
	e := &eggs.Error{Op: "node.Serve", Name: "group " + g.String(), Kind: eggs.NotLeader}
	if leaders, _ := n.host.Leaders(); int(g) < len(leaders) {
		e.Node = leaders[g]
	}
	return e
}

// watchRoutes sends the picture and every later one.
func (n *Node) watchRoutes(ctx context.Context, _ []byte, _ *wire.Hello, send func(wire.Message) error) error {
	for {
		changed := n.router.Changed()
		if err := send(n.router.Routes()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.ctx.Done():
			return eggs.E("node.WatchRoutes", eggs.Unavailable, "the node stops")
		case <-changed:
		}
	}
}

// hostGroups starts or drops replicas here, durably. A drop that was decided before the
// replica was hosted for the last time comes from a placer that does not decide any more: it
// would have a voter forget its votes.
func (n *Node) hostGroups(r *wire.HostGroup) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	held := map[int]bool{}
	for _, g := range n.identity.Groups {
		held[g] = true
	}
	if n.identity.Hosted == nil {
		n.identity.Hosted = map[int]uint64{}
	}
	var add []int
	for _, g := range r.Groups {
		g := int(g)
		switch {
		case g >= eggs.Groups:
			return eggs.E("node.HostGroup", eggs.Invalid, fmt.Sprintf("group %d: there are %d", g, eggs.Groups))
		case r.Drop && r.Version <= n.identity.Hosted[g]:
			return &eggs.Error{
				Op: "node.HostGroup", Name: "group " + eggs.GroupID(g).String(), Kind: eggs.Stale,
				Err: fmt.Errorf("a drop decided at version %d, hosted at %d", r.Version, n.identity.Hosted[g]),
			}
		case r.Drop && held[g]:
			if err := n.dropGroup(eggs.GroupID(g)); err != nil {
				return err
			}
			delete(held, g)
		case !r.Drop:
			if !held[g] {
				add = append(add, g)
			}
			held[g] = true
			n.identity.Hosted[g] = max(n.identity.Hosted[g], r.Version)
		}
	}
	n.identity.Groups = n.identity.Groups[:0]
	for g := range eggs.Groups {
		if held[g] {
			n.identity.Groups = append(n.identity.Groups, g)
		}
	}
	if err := n.identity.save(n.cfg.Data); err != nil {
		return err
	}
	return n.addGroups(add)
}

func (n *Node) dropGroup(g eggs.GroupID) error {
	if g == eggs.CDCGroup {
		n.cdc.Store(nil)
	} else {
		n.shards[g].Store(nil)
	}
	return n.host.Drop(g)
}

// changeMembers changes who holds a group that this node leads.
func (n *Node) changeMembers(ctx context.Context, r *wire.ChangeMembers) error {
	g := n.host.Group(eggs.GroupID(r.Group))
	if g == nil {
		return n.notHere(eggs.GroupID(r.Group))
	}
	to := eggs.NodeID(r.Node)
	switch r.Change {
	case wire.ChangeMembers_ADD_LEARNER:
		return g.AddLearner(ctx, to)
	case wire.ChangeMembers_PROMOTE:
		return g.Promote(ctx, to)
	case wire.ChangeMembers_REMOVE:
		return g.Remove(ctx, to)
	case wire.ChangeMembers_TRANSFER:
		return g.Transfer(ctx, to)
	}
	return eggs.E("node.ChangeMembers", eggs.Invalid, fmt.Sprintf("change %d", r.Change))
}
