package raftshard

import (
	"testing"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// The answers of finished transactions are forgotten in bulk, so nothing else looks at
// whether they are: that they do not grow without bound, that a step that may still be
// repeated keeps its answer, and that one which is too late is refused and changes nothing.
func TestAnswersOfStepsAreForgotten(t *testing.T) {
	shard := eggs.Root.Shard()
	m := newLone(NewMachine(shard, nil))
	defer m.mem.Close()
	ids := []uint64{0} // of this shard, one for each transaction
	for n := uint64(1000); len(ids) <= 10*purgeEvery; n++ {
		if id := eggs.MakeInodeID(eggs.KindDirectory, n); id.Shard() == shard {
			ids = append(ids, uint64(id))
		}
	}
	step := func(txn, oldest uint64) *wire.ShardReply {
		req := &wire.ShardRequest{
			Shard: uint32(shard), Fence: &wire.Fence{Transaction: txn, Step: 0x100, Oldest: oldest},
			Verbs: []*wire.Verb{{Verb: &wire.Verb_CreateDirectory{CreateDirectory: &wire.CreateDirectory{
				Id: ids[txn], Owner: uint64(eggs.Root), Mode: 0o755,
			}}}},
		}
		e := &wire.ShardEntry{Version: FormatVersion, Clock: int64(txn), Request: req}
		return m.mem.Apply(encode(e)).(*wire.ShardReply)
	}
	kept := func() (n int) {
		v := m.mem.View()
		defer v.Close()
		v.Scan([]byte{tableFence}, []byte{tableFence + 1}, false, func(_, _ []byte) bool {
			n++
			return true
		})
		return n
	}
	const behind = 50 // transactions that are unfinished at a time
	most := 0
	for txn := uint64(1); txn <= 10*purgeEvery; txn++ {
		oldest := uint64(1)
		if txn > behind {
			oldest = txn - behind
		}
		if r := step(txn, oldest); r.Error != nil {
			t.Fatalf("step of %d: %v", txn, r.Error)
		}
		if r := step(oldest, oldest); r.Error != nil {
			t.Fatalf("the oldest unfinished, %d, again: %v", oldest, r.Error)
		}
		most = max(most, kept())
	}
	if most > behind+purgeEvery+1 {
		t.Errorf("%d answers were kept, with %d transactions unfinished", most, behind)
	}
	late := uint64(3)
	if r := step(late, late); eggs.Kind(r.GetError().GetKind()) != eggs.Stale {
		t.Errorf("a step of a transaction long finished is answered %v", r)
	}
}
