package cdc

import (
	"context"
	"sync"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// shardSet is all the shards, as the tests see them: the CDC's side, the
// clients' verbs, and a look at everything.
type shardSet interface {
	// deliver is the arrival of a step at its shard.
	deliver(r *wire.ShardRequest) *wire.ShardReply
	query(q *wire.ShardQuery) *wire.ShardAnswer

	// link makes a file or symlink and its edge, replacing a file.
	link(dir uint64, name string, kind eggs.InodeKind) (uint64, error)
	// unlink makes an owned past version and answers its target and time.
	unlink(dir uint64, name string) (uint64, int64, error)
	// within renames within one directory.
	within(dir uint64, from, to string) error

	// picture is all that there is.
	picture() *namespace
	// faults runs the shards' own checks.
	faults() []string
}

// post is the way from the CDC to the shards. It keeps every request, so that
// a test can deliver it again, late. It is the CDC's Shards.
type post struct {
	shardSet
	mu     sync.Mutex
	record []*wire.ShardRequest
	sent   int
	quick  bool // keep no record

	// before and after surround a delivery. An error is what the CDC gets.
	before func(n int, r *wire.ShardRequest) error
	after  func(n int, r *wire.ShardRequest) error
}

func (p *post) Do(ctx context.Context, r *wire.ShardRequest) (*wire.ShardReply, error) {
	p.mu.Lock()
	p.sent++
	n := p.sent
	if !p.quick {
		p.record = append(p.record, r)
	}
	p.mu.Unlock()
	if p.before != nil {
		if err := p.before(n, r); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, &eggs.Error{Op: "test.Do", Kind: eggs.Indeterminate, Err: err}
	}
	reply := p.deliver(r)
	if p.after != nil {
		if err := p.after(n, r); err != nil {
			return nil, err
		}
	}
	return reply, nil
}

func (p *post) Query(_ context.Context, q *wire.ShardQuery) (*wire.ShardAnswer, error) {
	return p.query(q), nil
}

// forget begins a new record.
func (p *post) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent, p.record = 0, nil
}

// steps counts the different steps that were sent.
func (p *post) steps() int {
	type step struct {
		transaction uint64
		number      uint32
	}
	set := map[step]bool{}
	for _, r := range p.record {
		set[step{r.Fence.Transaction, r.Fence.Step}] = true
	}
	return len(set)
}
