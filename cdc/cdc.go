package cdc

import (
	"context"
	"log/slog"
	"sync"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// Group is what the CDC needs of its raft group; *raftgroup.Group is one.
type Group interface {
	// Propose commits an entry and returns what Apply returned for it here. It
	// fails with NotLeader or Unavailable when nothing was done, else with Indeterminate.
	Propose(ctx context.Context, data []byte) (any, error)
	// Read returns a view that holds everything acknowledged before; the leader only.
	Read(ctx context.Context) (raftgroup.View, error)
	// Local returns what is applied here.
	Local() raftgroup.View
	// Leads reports whether this node believes that it leads.
	Leads() bool
	// OnLead calls f in a goroutine each time leadership is gained and all earlier entries
	// are applied; ctx ends when it is lost.
	OnLead(f func(ctx context.Context))
}

// Shards sends one request to the leader of the shard that it names. An error
// says nothing about the outcome unless its kind does; a refusal by
// the shard is in the reply.
type Shards interface {
	Do(ctx context.Context, r *wire.ShardRequest) (*wire.ShardReply, error)
	Query(ctx context.Context, q *wire.ShardQuery) (*wire.ShardAnswer, error)
}

// Config is what a CDC is made of. Logger may be nil.
type Config struct {
	Group   Group
	Machine *Machine
	Shards  Shards
	Clock   func() eggs.Time
	Logger  *slog.Logger
}

// CDC is one node's part of the coordinator: it takes requests, and while this
// node leads, its engine runs the transactions.
type CDC struct {
	group   Group
	machine *Machine
	shards  Shards
	clock   func() eggs.Time
	log     *slog.Logger

	term chan struct{} // holds a token while an engine runs: one at a time

	mu     sync.Mutex
	engine *engine       // of this node's leadership, or nil
	turn   chan struct{} // closed when engine changes
}

// New returns the CDC of a node and begins to run transactions when the group
// says that this node leads.
func New(c Config) *CDC {
	cdc := &CDC{
		group: c.Group, machine: c.Machine, shards: c.Shards, clock: c.Clock, log: c.Logger,
		term: make(chan struct{}, 1), turn: make(chan struct{}),
	}
	if cdc.log == nil {
		cdc.log = slog.New(slog.DiscardHandler)
	}
	c.Group.OnLead(cdc.lead)
	return cdc
}

// lead runs an engine until ctx ends.
func (c *CDC) lead(ctx context.Context) {
	select {
	case c.term <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-c.term }()
	e := newEngine(ctx, c)
	c.install(e)
	defer c.install(nil)
	e.run()
}

func (c *CDC) install(e *engine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.engine = e
	close(c.turn)
	c.turn = make(chan struct{})
}

// leading returns the engine. A node that has just become the leader has none
// for a moment; that is waited for.
func (c *CDC) leading(ctx context.Context) (*engine, error) {
	for {
		c.mu.Lock()
		e, turn := c.engine, c.turn
		c.mu.Unlock()
		if e != nil && e.ctx.Err() == nil {
			return e, nil
		}
		// Not the leader: the group's error knows who is.
		v, err := c.group.Read(ctx)
		if err != nil {
			return nil, err
		}
		v.Close()
		select {
		case <-turn:
		case <-ctx.Done():
			return nil, &eggs.Error{Op: "cdc.Do", Kind: eggs.Unavailable, Err: ctx.Err()}
		}
	}
}

// Do runs one request and answers what became of it. A refusal is in the
// reply. An error of kind NotLeader, Unavailable or Busy means that nothing was
// done, Indeterminate that it may have been: the same request sent again, to
// whoever leads, finds its transaction or its answer.
func (c *CDC) Do(ctx context.Context, r *wire.CdcRequest) (*wire.CdcReply, error) {
	if e := validate(r); e != nil {
		return &wire.CdcReply{Error: e}, nil
	}
	e, err := c.leading(ctx)
	if err != nil {
		return nil, err
	}
	t := c.machine.find(requestKey{r.Session, r.Sequence})
	if t == nil {
		if err := e.room(r); err != nil {
			return nil, err
		}
		entry := &wire.CdcEntry{Version: formatVersion, Clock: int64(c.clock()), Begin: r}
		result, err := c.group.Propose(ctx, encode(entry))
		if err != nil {
			return nil, err
		}
		a, ok := result.(applied)
		switch {
		case !ok:
			return nil, eggs.E("cdc.Do", eggs.Indeterminate, "the group gave no result")
		case a.txn == nil:
			return a.reply, nil
		}
		t = a.txn
	}
	return t.wait(ctx, e)
}

// wait returns the transaction's answer, or Indeterminate when the caller or
// the leader gives up before.
func (t *transaction) wait(ctx context.Context, e *engine) (*wire.CdcReply, error) {
	select {
	case <-t.decided:
		return t.reply, nil
	default:
	}
	cause := ctx
	select {
	case <-t.decided:
		return t.reply, nil
	case <-ctx.Done():
	case <-e.ctx.Done():
		cause = e.ctx
	}
	return nil, &eggs.Error{Op: "cdc.Do", Kind: eggs.Indeterminate, Err: context.Cause(cause)}
}
