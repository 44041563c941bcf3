package raftshard

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"testing"

	"pgregory.net/rapid"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// TestRandom does random things to a shard, right and wrong ones, from clients,
// the collector and the CDC, with lost replies, clocks that jump and new leaders. At every
// step a refused request has changed nothing and a retry has the first answer; now and then
// the invariants hold, names show what a simple model says, files hold
// what was written; and a replay of the log gives the same state.
func TestRandom(t *testing.T) {
	key, err := auth.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, key)
		defer w.g.mem.Close()
		steps := rapid.IntRange(20, 120).Draw(rt, "steps")
		for i := range steps {
			w.step(i)
			if i%20 == 19 {
				w.verify()
			}
		}
		w.verify()
		w.replay()
	})
}

type namedEdge struct {
	target uint64
	time   int64
	lock   uint64
}

// world is a shard and what a simple model says of it.
type world struct {
	t       *rapid.T
	key     *auth.Key
	g       *lone
	s       *Shard
	shard   eggs.ShardID
	clock   eggs.Time
	session uint64
	seq     uint64
	txn     uint64
	next    uint64

	dirs    []uint64
	edges   map[uint64]map[string]*namedEdge
	open    []uint64 // files under construction
	linked  []uint64
	content map[uint64][]byte
	dirty   map[uint64]bool
	certs   map[uint64][]*wire.Certificate
	past    []*wire.RemoveSnapshotEdge
	leased  []uint64
	held    []uint64 // locking transactions
}

func newWorld(t *rapid.T, key *auth.Key) *world {
	w := &world{
		t: t, key: key, shard: eggs.Root.Shard(), clock: scriptT0,
		dirs:  []uint64{uint64(eggs.Root)},
		edges: map[uint64]map[string]*namedEdge{}, content: map[uint64][]byte{},
		dirty: map[uint64]bool{}, certs: map[uint64][]*wire.Certificate{},
	}
	w.edges[uint64(eggs.Root)] = map[string]*namedEdge{}
	w.g = newLone(NewMachine(w.shard, key))
	w.g.keep = true
	w.serve()
	w.openSession()
	return w
}

func (w *world) serve() {
	w.s = New(Config{
		Shard: w.shard, Group: w.g, Machine: w.g.machine, Blocks: w,
		Clock: func() eggs.Time { return w.clock },
	})
}

func (w *world) Choose(c BlockChoice) ([]eggs.DiskID, error) {
	n := c.Parity.Blocks()
	if rapid.IntRange(0, 9).Draw(w.t, "full") == 0 {
		return nil, eggs.E("test.Choose", eggs.NoSpace, "")
	}
	first := rapid.IntRange(0, 7).Draw(w.t, "disk")
	out := make([]eggs.DiskID, n)
	for i := range out {
		out[i] = eggs.DiskID((first+i)%8 + 1)
	}
	return out, nil
}

func (w *world) Retired(d eggs.DiskID) bool { return d == 8 }

func (w *world) openSession() {
	w.session, w.seq = 0, 0
	r := w.send(&wire.ShardRequest{Shard: uint32(w.shard), Verbs: []*wire.Verb{
		{Verb: &wire.Verb_OpenSession{OpenSession: &wire.OpenSession{Client: w.next}}},
	}})
	w.session = r.Results[0].GetSessionOpened().Session
	w.leased = nil
}

// do sends verbs in the session. A refusal must have changed nothing, and a
// retry, also of a new leader, must get the same answer.
func (w *world) do(verbs ...*wire.Verb) *wire.ShardReply {
	w.seq++
	req := &wire.ShardRequest{
		Shard: uint32(w.shard), Session: w.session, Sequence: w.seq,
		Lowest: w.seq - min(w.seq, 3), Verbs: verbs,
	}
	return w.twice(req)
}

func (w *world) stepOf(txn uint64, step uint32, verb *wire.Verb) *wire.ShardReply {
	oldest := w.txn
	for _, t := range w.held {
		oldest = min(oldest, t)
	}
	return w.twice(&wire.ShardRequest{
		Shard: uint32(w.shard), Verbs: []*wire.Verb{verb},
		Fence: &wire.Fence{Transaction: txn, Step: step, Oldest: oldest},
	})
}

func (w *world) twice(req *wire.ShardRequest) *wire.ShardReply {
	before := w.sum()
	r := w.send(req)
	after := w.sum()
	if r.Error != nil && before != after && eggs.Kind(r.Error.Kind) != eggs.BadSession {
		w.t.Fatalf("a refused request had an effect: %v", r.Error)
	}
	if rapid.IntRange(0, 5).Draw(w.t, "retry") == 0 {
		again := w.send(req)
		if !bytes.Equal(encode(r), encode(again)) && r.Error.GetKind() != uint32(eggs.BadSession) {
			w.t.Fatalf("a retry was answered %v, first %v", again, r)
		}
		if w.sum() != after {
			w.t.Fatal("a retry had an effect")
		}
	}
	return r
}

func (w *world) send(req *wire.ShardRequest) *wire.ShardReply {
	r, err := w.s.Do(context.Background(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	if e := r.Error; e != nil {
		switch eggs.Kind(e.Kind) {
		case eggs.Corrupt, eggs.Stale, eggs.Busy, eggs.Other:
			w.t.Fatalf("%v", e.AsError())
		}
	}
	return r
}

// sum is a checksum of all but sessions, the fence's memory, and the state.
func (w *world) sum() uint32 {
	v := w.g.mem.View()
	defer v.Close()
	h := crc32.New(castagnoli)
	v.Scan(nil, nil, false, func(k, val []byte) bool {
		switch k[0] {
		case tableSessions, tableFence, tableState, tableLease, tableReserved, tableReservedBy:
		default:
			h.Write(k)
			h.Write(val)
		}
		return true
	})
	return h.Sum32()
}

func pick[T any](w *world, what string, all []T) (x T, ok bool) {
	if len(all) == 0 {
		return x, false
	}
	return all[rapid.IntRange(0, len(all)-1).Draw(w.t, what)], true
}

func (w *world) name() string {
	return rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(w.t, "name")
}

func (w *world) dir() uint64 { d, _ := pick(w, "dir", w.dirs); return d }

// step does one random thing.
func (w *world) step(i int) {
	actions := []func(){
		w.construct, w.construct, w.inline, w.inline, w.initiate, w.initiate, w.certify, w.certify,
		w.link, w.link, w.link, w.small, w.small, w.symlink, w.unlink, w.unlink, w.rename, w.rename,
		w.mkdir, w.rmdir, w.lockAndLeave, w.release, w.forget, w.forget, w.collect, w.collect,
		w.attributes, w.reserve, w.undelete, w.undelete, w.time, w.leader, w.lease, w.garbage,
	}
	actions[rapid.IntRange(0, len(actions)-1).Draw(w.t, fmt.Sprint("action", i))]()
}

func (w *world) time() {
	d := rapid.SampledFrom([]int64{-3600, 0, 1, 1800, 7300}).Draw(w.t, "seconds")
	w.clock += eggs.Time(d * 1e9)
	if d > 3600 {
		w.openSession()
		w.open = nil // all are past their deadline
	}
}

func (w *world) leader() {
	w.g.machine = NewMachine(w.shard, w.key)
	w.g.mem.Reopen(w.g.machine)
	w.serve()
}

func (w *world) lease() {
	r := w.do(&wire.Verb{Verb: &wire.Verb_LeaseIds{LeaseIds: &wire.LeaseIds{Count: 3}}})
	if r.Error == nil {
		w.leased = append(w.leased, r.Results[0].GetIdsLeased().Ids...)
	}
}

// expect fails unless the reply's kind is the wanted one.
func (w *world) expect(what string, r *wire.ShardReply, want eggs.Kind) bool {
	if got := eggs.Kind(r.Error.GetKind()); got != want {
		w.t.Fatalf("%s: %v, want %v: %v", what, got, want, r.Error.AsError())
	}
	return want == eggs.Other
}

// verify compares the shard with the model.
func (w *world) verify() {
	v := w.g.mem.View()
	defer v.Close()
	for _, f := range Check(v, w.shard) {
		w.t.Fatalf("invariant %d: %s", f.Invariant, f.Text)
	}
	for dir, names := range w.edges {
		seen := 0
		for after, end := uint64(0), false; !end; {
			l := w.query(&wire.ShardQuery{Query: &wire.ShardQuery_ReadDir{
				ReadDir: &wire.ReadDir{Dir: dir, After: after, Limit: 2, Attrs: true},
			}}).GetReadDir()
			for _, e := range l.Entries {
				m := names[e.Name]
				if m == nil || m.target != e.Target || m.time != e.Time {
					w.t.Fatalf("%x %s points to %x; the model says %v", dir, e.Name, e.Target, m)
				}
				if id := eggs.InodeID(e.Target); e.Attr.GetId() != e.Target && m.lock == 0 {
					w.t.Fatalf("%v has no attributes", id)
				}
				seen, after = seen+1, e.Hash
			}
			end = l.End
		}
		if seen != len(names) {
			w.t.Fatalf("%x lists %d names; the model has %d", dir, seen, len(names))
		}
	}
	for _, id := range w.linked {
		w.readBack(id)
	}
}

// readBack checks the bytes of a linked file, a span's worth of CRC where they are in blocks.
func (w *world) readBack(id uint64) {
	a := w.query(&wire.ShardQuery{Query: &wire.ShardQuery_GetSpans{
		GetSpans: &wire.GetSpans{File: id},
	}})
	var got []byte
	for _, s := range a.GetGetSpans().GetSpans() {
		if len(s.Locations) == 0 {
			got = append(got, s.Inline...)
		} else {
			got = append(got, fmt.Sprintf("[%d]", s.Crc)...)
		}
	}
	if !bytes.Equal(got, w.content[id]) {
		w.t.Fatalf("file %x holds %q; %q was written", id, got, w.content[id])
	}
}

func (w *world) query(q *wire.ShardQuery) *wire.ShardAnswer {
	q.Shard = uint32(w.shard)
	a, err := w.s.Query(context.Background(), q)
	if err != nil || a.Error != nil {
		w.t.Fatal(err, a.Error)
	}
	return a
}

// replay applies the log to a machine without the key, in random batches.
func (w *world) replay() {
	m := NewMachine(w.shard, nil)
	other := raftgroup.NewMemoryState(w.shard.Group(), m)
	defer other.Close()
	for rest := w.g.entries; len(rest) > 0; {
		n := rapid.IntRange(1, len(rest)).Draw(w.t, "batch")
		other.ApplyBatch(rest[:n]...)
		rest = rest[n:]
		if rapid.Bool().Draw(w.t, "restart") {
			other.Reopen(NewMachine(w.shard, nil))
		}
	}
	if a, b := w.g.mem.Hash(), other.Hash(); a != b {
		w.t.Fatalf("the replay differs: %08x and %08x", a, b)
	}
}
