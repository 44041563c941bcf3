package client

import (
	"context"
	"fmt"

	"eggsfs/eggs"
	"eggsfs/wire"
)

func newShardReply() wire.Message  { return &wire.ShardReply{} }
func newShardAnswer() wire.Message { return &wire.ShardAnswer{} }
func newCdcReply() wire.Message    { return &wire.CdcReply{} }
func newCdcAnswer() wire.Message   { return &wire.CdcAnswer{} }

func shardRefusal(m wire.Message) *wire.Error { return m.(*wire.ShardReply).Error }
func queryRefusal(m wire.Message) *wire.Error { return m.(*wire.ShardAnswer).Error }
func cdcRefusal(m wire.Message) *wire.Error   { return m.(*wire.CdcReply).Error }
func cdcQRefusal(m wire.Message) *wire.Error  { return m.(*wire.CdcAnswer).Error }

// resultOf returns the i-th result of a reply, which must be of type R.
func resultOf[R any](r *wire.ShardReply, i int) (R, error) {
	var none R
	if i < len(r.Results) {
		if x, ok := any(r.Results[i].GetResult()).(R); ok {
			return x, nil
		}
	}
	return none, eggs.E("client.Shard", eggs.Corrupt,
		fmt.Sprintf("the answer lacks %T at %d of %d", none, i, len(r.Results)))
}

// Shard sends verbs in this client's session, exactly once.
func (c *Client) Shard(ctx context.Context, shard eggs.ShardID, verbs ...*wire.Verb) (
	*wire.ShardReply, error,
) {
	return c.shardIn(ctx, shard, nil, verbs...)
}

// shardIn sends verbs in the session s; nil means the current one.
func (c *Client) shardIn(ctx context.Context, shard eggs.ShardID, s *session,
	verbs ...*wire.Verb,
) (*wire.ShardReply, error) {
	msg, err := c.do(ctx, &change{
		group: shard.Group(), method: wire.MethodShard, in: s,
		build: func(session, sequence, lowest uint64) wire.Message {
			return &wire.ShardRequest{
				Shard: uint32(shard), Session: session,
				Sequence: sequence, Lowest: lowest, Verbs: verbs,
			}
		},
		reply: newShardReply, refusal: shardRefusal,
	})
	reply, _ := msg.(*wire.ShardReply)
	if err == nil && len(reply.Results) != len(verbs) {
		err = eggs.E("client.Shard", eggs.Corrupt, "the answer has too few results")
	}
	return reply, err
}

// Query asks a shard. A refusal is the error, and in the answer.
func (c *Client) Query(ctx context.Context, q *wire.ShardQuery) (*wire.ShardAnswer, error) {
	g := eggs.GroupID(q.Shard)
	if g >= eggs.CDCGroup {
		return nil, eggs.E("client.Query", eggs.Invalid, "there is no such shard")
	}
	msg, err := c.ask(ctx, g, wire.MethodShardQuery, q, newShardAnswer, queryRefusal)
	ans, _ := msg.(*wire.ShardAnswer)
	return ans, err
}

// CDC sends one operation in this client's session with the coordinator,
// exactly once. Session, Sequence and Lowest of r are filled in here.
func (c *Client) CDC(ctx context.Context, r *wire.CdcRequest) (*wire.CdcReply, error) {
	msg, err := c.do(ctx, &change{
		group: eggs.CDCGroup, method: wire.MethodCdc,
		build: func(session, sequence, lowest uint64) wire.Message {
			return &wire.CdcRequest{
				Session: session, Sequence: sequence, Lowest: lowest, Op: r.Op, IfVersion: r.IfVersion,
			}
		},
		reply: newCdcReply, refusal: cdcRefusal,
	})
	reply, _ := msg.(*wire.CdcReply)
	return reply, err
}

// QueryCDC asks the coordinator.
func (c *Client) QueryCDC(ctx context.Context, q *wire.CdcQuery) (*wire.CdcAnswer, error) {
	msg, err := c.ask(ctx, eggs.CDCGroup, wire.MethodCdcQuery, q, newCdcAnswer, cdcQRefusal)
	ans, _ := msg.(*wire.CdcAnswer)
	return ans, err
}

// Fenced sends the coordinator's steps: as cdc.Shards wants it, a shard's
// refusal stays in the reply, and an error means that no leader answered.
type Fenced struct{ c *Client }

// Fenced returns the sender of fenced requests. They may be repeated, as the
// fence makes each happen once.
func (c *Client) Fenced() Fenced { return Fenced{c} }

// Do sends a fenced request to its shard until a leader answers it. Kind
// Indeterminate when it may have happened and ctx is over.
func (f Fenced) Do(ctx context.Context, r *wire.ShardRequest) (*wire.ShardReply, error) {
	p := pacer{c: f.c, group: eggs.GroupID(r.Shard)}
	sent := false
	for {
		msg, err := f.c.attempt(ctx, &p, wire.MethodShard, r, newShardReply)
		if err == nil {
			return msg.(*wire.ShardReply), nil
		}
		kind := eggs.KindOf(err)
		if !elsewhere(kind) {
			return nil, err
		}
		sent = sent || kind == eggs.Indeterminate
		if p.wait(ctx, err) != nil {
			return nil, late(ctx, sent, err)
		}
	}
}

// Query asks a shard, likewise.
func (f Fenced) Query(ctx context.Context, q *wire.ShardQuery) (*wire.ShardAnswer, error) {
	p := pacer{c: f.c, group: eggs.GroupID(q.Shard)}
	for {
		msg, err := f.c.attempt(ctx, &p, wire.MethodShardQuery, q, newShardAnswer)
		if err == nil {
			return msg.(*wire.ShardAnswer), nil
		}
		if !elsewhere(eggs.KindOf(err)) {
			return nil, err
		}
		if p.wait(ctx, err) != nil {
			return nil, late(ctx, false, err)
		}
	}
}
