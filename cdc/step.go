package cdc

import (
	"context"
	"math/rand/v2"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// steps is a transaction on its way.
type steps struct {
	e *engine
	t *transaction
}

// The stages of transactions. A step's number is stage<<8 | try, where try
// counts the refusals with Locked; the shard remembers each of them, so that
// a replay gives up exactly when the first run did.
const (
	stageFirst  = 1 // create the inode, lock the source, remove the edge
	stageSecond = 2 // create the edge, remove the owner, make the file transient
	stageLast   = 3 // what makes the transaction's outcome complete
	stageUndo   = 4 // what takes the first stage back
)

// do sends one verb to the shard of inode at until it is answered. It returns
// the result, or the refusal; ok is false when the leadership ended first.
func (s *steps) do(
	stage uint32, at uint64, v *wire.Verb,
) (r *wire.Result, no *wire.Error, ok bool) {
	pause := firstPause
	for try := range uint32(lockTries) {
		r, no, ok = s.step(stage<<8|try, at, v)
		if !ok || no == nil || eggs.Kind(no.Kind) != eggs.Locked {
			return r, no, ok
		}
		if !sleep(s.e.ctx, pause) {
			return nil, nil, false
		}
		pause = min(2*pause, lockPause)
	}
	gaveUp := &wire.Error{
		Op: no.Op, Kind: uint32(eggs.Timeout), Inode: no.Inode, Name: no.Name,
		Text: "locked by another transaction for too long",
	}
	return nil, gaveUp, true
}

// step sends one numbered step, again and again, until there is an answer. A
// time-out, a lost connection, a shard without leader: none of them is one.
func (s *steps) step(number uint32, at uint64, v *wire.Verb) (*wire.Result, *wire.Error, bool) {
	pause := firstPause
	for tries := 1; ; tries++ {
		reply, err := s.send(number, at, v)
		switch {
		case s.e.ctx.Err() != nil:
			return nil, nil, false
		case err == nil && reply.GetError() == nil && len(reply.GetResults()) == 1:
			return reply.Results[0], nil, true
		case err == nil && isAnswer(reply.GetError()):
			return nil, reply.Error, true
		}
		if tries%16 == 0 {
			s.e.c.log.Warn("a step is not answered", "transaction", s.t.id, "step", number,
				"shard", eggs.InodeID(at).Shard(), "tries", tries, "error", err,
				"refusal", reply.GetError())
		}
		if !sleep(s.e.ctx, pause/2+rand.N(pause)) {
			return nil, nil, false
		}
		pause = min(2*pause, lastPause)
	}
}

// send makes one attempt. The fence is made anew each time: what is oldest moves on.
func (s *steps) send(number uint32, at uint64, v *wire.Verb) (*wire.ShardReply, error) {
	ctx, cancel := context.WithTimeout(s.e.ctx, stepTimeout)
	defer cancel()
	oldest := s.t.id
	if first, ok := s.e.c.machine.oldest(); ok && first.id < oldest {
		oldest = first.id
	}
	return s.e.c.shards.Do(ctx, &wire.ShardRequest{
		Shard: uint32(eggs.InodeID(at).Shard()),
		Fence: &wire.Fence{Transaction: s.t.id, Step: number, Oldest: oldest},
		Verbs: []*wire.Verb{v},
	})
}

// isAnswer reports whether a reply's error decides a step. The kinds that say where, when or
// by whom to ask do not; nor does Stale, which tells a deposed leader that it is one.
func isAnswer(e *wire.Error) bool {
	if e == nil {
		return false
	}
	switch eggs.Kind(e.Kind) {
	case eggs.NotExist, eggs.Exist, eggs.NotDir, eggs.IsDir, eggs.NotEmpty, eggs.NameTooLong,
		eggs.Invalid, eggs.ReadOnly, eggs.CrossDir, eggs.Loop, eggs.TooLarge, eggs.Permission,
		eggs.Conflict, eggs.Locked, eggs.Expired, eggs.Unsupported:
		return true
	}
	return false
}

// must sends a step that only a broken invariant makes a shard refuse: what it
// relies on was fixed by an earlier step. A refusal is logged, and answered Corrupt.
func (s *steps) must(stage uint32, at uint64, v *wire.Verb) (no *wire.Error, ok bool) {
	_, no, ok = s.do(stage, at, v)
	if !ok || no == nil {
		return nil, ok
	}
	s.e.c.log.Error("a shard refused a step that it can't refuse",
		"transaction", s.t.id, "stage", stage, "inode", eggs.InodeID(at), "refusal", no)
	return &wire.Error{
		Op: no.Op, Kind: uint32(eggs.Corrupt), Inode: no.Inode, Name: no.Name,
		Text: "transaction broken: " + eggs.Kind(no.Kind).String() + " " + no.Text,
	}, true
}

// query asks a shard until there is an answer. A refusal counts as none: ok
// with a nil answer.
func (s *steps) query(q *wire.ShardQuery) (a *wire.ShardAnswer, ok bool) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		a, err := s.ask(q)
		switch {
		case s.e.ctx.Err() != nil:
			return nil, false
		case err == nil && a.GetError() == nil && a != nil:
			return a, true
		case err == nil && isAnswer(a.GetError()):
			return nil, true
		}
		if !sleep(s.e.ctx, pause/2+rand.N(pause)) {
			return nil, false
		}
	}
}

func (s *steps) ask(q *wire.ShardQuery) (*wire.ShardAnswer, error) {
	ctx, cancel := context.WithTimeout(s.e.ctx, stepTimeout)
	defer cancel()
	return s.e.c.shards.Query(ctx, q)
}
