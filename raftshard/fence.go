package raftshard

import (
	"bytes"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// The answers of finished transactions are forgotten each time the mark passes a
// multiple of purgeEvery: a look for them costs more than a step's own work. A
// transaction has fewer than eight steps in a shard, so purgePerEntry keeps up.
const (
	purgeEvery    = 128
	purgePerEntry = 8 * purgeEvery
)

// knownStep is known for a step of the CDC.
func (a *apply) knownStep(f *wire.Fence) (*wire.ShardReply, func(*wire.ShardReply)) {
	if f.Transaction == 0 {
		return a.refusal(eggs.Invalid, "transaction 0"), nil
	}
	// A transaction is unfinished while it has steps, so it is no lower than the mark.
	if oldest := min(f.Oldest, f.Transaction); oldest > a.state.oldest {
		passed := oldest/purgeEvery > a.state.oldest/purgeEvery
		a.state.oldest = oldest
		if passed {
			a.purgeSteps()
		}
	}
	if f.Transaction < a.state.oldest {
		return a.refusal(eggs.Stale, "a step of a finished transaction"), nil
	}
	k := fenceKey(f.Transaction, f.Step)
	if answer, ok := a.tx.Get(k); ok {
		return a.remembered(answer), nil
	}
	return nil, func(reply *wire.ShardReply) { a.tx.Set(k, encode(reply)) }
}

func (a *apply) purgeSteps() {
	var keys [][]byte
	a.tx.Scan([]byte{tableFence}, key1(tableFence, a.state.oldest), false,
		func(k, _ []byte) bool {
			keys = append(keys, bytes.Clone(k))
			return len(keys) < purgePerEntry
		})
	for _, k := range keys {
		a.tx.Delete(k)
	}
}

// doStep runs a verb of the CDC.
func (a *apply) doStep(v *wire.Verb) (*wire.Result, string, error) {
	switch x := v.Verb.(type) {
	case *wire.Verb_CreateDirectory:
		return verb("CreateDirectory", x.CreateDirectory, a.createDirectory)
	case *wire.Verb_UncreateDirectory:
		return verb("UncreateDirectory", x.UncreateDirectory, a.uncreateDirectory)
	case *wire.Verb_CreateEdge:
		return verb("CreateEdge", x.CreateEdge, a.createEdge)
	case *wire.Verb_LockEdge:
		return verb("LockEdge", x.LockEdge, a.lockEdge)
	case *wire.Verb_UnlockEdge:
		return verb("UnlockEdge", x.UnlockEdge, a.unlockEdge)
	case *wire.Verb_RemoveOwner:
		return verb("RemoveOwner", x.RemoveOwner, a.removeOwner)
	case *wire.Verb_RestoreOwner:
		return verb("RestoreOwner", x.RestoreOwner, a.restoreOwner)
	case *wire.Verb_RemoveEdge:
		return verb("RemoveEdge", x.RemoveEdge, a.removeEdge)
	case *wire.Verb_MakeTransient:
		return verb("MakeTransient", x.MakeTransient, a.makeTransient)
	}
	return nil, "Apply", fail(eggs.Invalid, 0, "", "the verb needs a session, or is unknown")
}

// seen answers a CDC verb, also beside a refusal, with what the name is.
func edgeSeen(e *EdgeRecord, replaced uint64) *wire.Result {
	s := &wire.EdgeSeen{Replaced: replaced}
	if e != nil {
		s.Target, s.Time = e.Target, e.Time
	}
	return &wire.Result{Result: &wire.Result_EdgeSeen{EdgeSeen: s}}
}

// createEdge makes a current edge of a directory or of a moved file.
func (a *apply) createEdge(v *wire.CreateEdge) (*wire.Result, error) {
	target := eggs.InodeID(v.Target)
	if !target.Valid() || v.ReplaceFile && target.IsDir() {
		return nil, fail(eggs.Invalid, target, v.Name, "the target of an edge")
	}
	p, err := a.place(v.Dir, v.Name)
	if err != nil {
		return nil, err
	}
	old := a.edge(&p)
	if err := a.mayReplace(&p, old, target, !v.ReplaceFile); err != nil {
		a.seen = edgeSeen(old, 0)
		return nil, err
	}
	replaced := a.occupy(&p, target, old)
	return edgeSeen(&EdgeRecord{Target: v.Target, Time: int64(a.now)}, replaced), nil
}

// step returns the current edge that a step is about.
func (a *apply) step(dir uint64, name string, target uint64) (place, *EdgeRecord, error) {
	p, err := a.place(dir, name)
	if err != nil {
		return p, nil, err
	}
	e := a.edge(&p)
	if e == nil {
		return p, nil, p.fail(eggs.NotExist, "")
	}
	if err := a.unlocked(&p, e); err != nil {
		a.seen = edgeSeen(e, 0)
		return p, nil, err
	}
	if target != 0 && target != e.Target {
		a.seen = edgeSeen(e, 0)
		return p, nil, p.fail(eggs.Conflict, "the name is another inode's now")
	}
	return p, e, nil
}

// lockEdge keeps everyone but the transaction from changing an edge.
func (a *apply) lockEdge(v *wire.LockEdge) (*wire.Result, error) {
	p, e, err := a.step(v.Dir, v.Name, v.Target)
	if err != nil {
		return nil, err
	}
	e.Locked = a.req.Fence.Transaction
	a.putEdge(&p, e, false)
	return edgeSeen(e, 0), nil
}

// unlockEdge frees a locked edge, or ends it when its target has moved on.
func (a *apply) unlockEdge(v *wire.UnlockEdge) (*wire.Result, error) {
	p, e, err := a.step(v.Dir, v.Name, v.Target)
	if err != nil {
		return nil, err
	}
	if e.Locked == 0 {
		return nil, p.fail(eggs.Conflict, "the edge is not locked")
	}
	if v.Moved {
		a.vacate(&p, e, false, a.now)
		return edgeSeen(e, 0), nil
	}
	e.Locked = 0
	a.putEdge(&p, e, false)
	return edgeSeen(e, 0), nil
}

// removeEdge removes an owned past edge whose file lives in another shard.
func (a *apply) removeEdge(v *wire.RemoveEdge) (*wire.Result, error) {
	p, err := a.history(v.Dir, v.Name)
	if err != nil {
		return nil, err
	}
	if err := a.pastEdge(&p, v.Time, v.Target, true); err != nil {
		return nil, err
	}
	a.forget(&p, eggs.Time(v.Time))
	return nil, nil
}

// makeTransient gives a file that no edge owns any more to the collector.
func (a *apply) makeTransient(v *wire.MakeTransient) (*wire.Result, error) {
	id := eggs.InodeID(v.File)
	if !id.Valid() || id.IsDir() || id.Shard() != a.m.shard {
		return nil, fail(eggs.Invalid, id, "", "not a file of this shard")
	}
	a.makeOrphan(id, eggs.InodeID(v.Dir), v.Name)
	return nil, nil
}
