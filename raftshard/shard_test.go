package raftshard

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// TestSmallFile is the road of most files: one entry from nothing to a name.
func TestSmallFile(t *testing.T) {
	b := newBench(t)
	index := b.g.mem.Index()
	r := b.do(t, b.create(t, "a", []byte("hello"))...)
	if got := b.g.mem.Index() - index; got != 2 { // one of them is the lease
		t.Fatalf("%d entries", got)
	}
	id := r.Results[0].GetConstructed().Id
	q, err := b.s.Query(context.Background(), &wire.ShardQuery{
		Shard: uint32(b.shard),
		Query: &wire.ShardQuery_GetSpans{GetSpans: &wire.GetSpans{File: id}},
	})
	if err != nil || q.Error != nil || string(q.GetGetSpans().Spans[0].Inline) != "hello" {
		t.Fatal(err, q)
	}
}

// TestNotLeader: who does not lead says so, and has no opinion on the request.
func TestNotLeader(t *testing.T) {
	b := newBench(t)
	req := b.request(b.create(t, "a", []byte("x"))...)
	b.g.follow = true
	_, err := b.s.Do(context.Background(), req)
	if !errors.Is(err, eggs.NotLeader) {
		t.Fatal(err)
	}
	_, err = b.s.Query(context.Background(), &wire.ShardQuery{
		Shard: uint32(b.shard),
		Query: &wire.ShardQuery_ShardStat{ShardStat: &wire.ShardStat{}},
	})
	if !errors.Is(err, eggs.NotLeader) {
		t.Fatal(err)
	}
	if s := b.s.Stats(); s.Failed != 1 || s.Underway != 0 {
		t.Fatalf("%+v", s)
	}
}

// TestWrongShard: a request that was routed wrongly changes nothing.
func TestWrongShard(t *testing.T) {
	b := newBench(t)
	req := b.request(b.create(t, "a", []byte("x"))...)
	req.Shard++
	r, err := b.s.Do(context.Background(), req)
	if err != nil || eggs.Kind(r.Error.GetKind()) != eggs.Invalid {
		t.Fatal(err, r)
	}
	a, err := b.s.Query(context.Background(), &wire.ShardQuery{Shard: req.Shard})
	if err != nil || eggs.Kind(a.Error.GetKind()) != eggs.Invalid {
		t.Fatal(err, a)
	}
	a, err = b.s.Query(context.Background(), &wire.ShardQuery{Shard: uint32(b.shard)})
	if err != nil || eggs.Kind(a.Error.GetKind()) != eggs.Invalid {
		t.Fatal(err, a)
	}
}

// TestLimits: what is too large is refused before it is proposed.
func TestLimits(t *testing.T) {
	b := newBench(t)
	index := b.g.mem.Index()
	many := make([]*wire.Verb, MaxVerbs+1)
	large := make([]*wire.Verb, 33)
	for i := range large {
		large[i] = inlineVerb(1, nil, 0, strings.Repeat("x", eggs.MaxInline))
	}
	for _, verbs := range [][]*wire.Verb{many, large} {
		r, err := b.s.Do(context.Background(), b.request(verbs...))
		if err != nil || eggs.Kind(r.Error.GetKind()) != eggs.TooLarge {
			t.Fatal(err, r)
		}
	}
	if b.g.mem.Index() != index {
		t.Fatal("it was proposed")
	}
}

// stuck is a group that answers nothing until it is told.
type stuck struct {
	*lone
	let chan struct{}
}

func (g *stuck) Propose(ctx context.Context, data []byte) (any, error) {
	<-g.let
	return nil, &eggs.Error{Kind: eggs.Indeterminate}
}

// TestBusy: a slow majority must not pile up memory without bound.
func TestBusy(t *testing.T) {
	b := newBench(t)
	g := &stuck{lone: b.g, let: make(chan struct{})}
	b.s.group = g
	large := strings.Repeat("x", eggs.MaxInline)
	verbs := make([]*wire.Verb, 31) // almost 2 MiB
	for i := range verbs {
		verbs[i] = inlineVerb(1, nil, 0, large)
	}
	var wait sync.WaitGroup
	results := make(chan error, 64)
	for range 64 {
		req := b.request(verbs...)
		wait.Go(func() {
			_, err := b.s.Do(context.Background(), req)
			results <- err
		})
	}
	busy := 0
	for range 64 - maxChangeBytes/(31*eggs.MaxInline) {
		if err := <-results; !errors.Is(err, eggs.Busy) {
			t.Fatal(err)
		}
		busy++
	}
	close(g.let)
	wait.Wait()
	if s := b.s.Stats(); s.Busy != uint64(busy) || s.Underway != 0 || b.s.bytes.Load() != 0 {
		t.Fatalf("%d busy, %+v", busy, s)
	}
}

// TestGenesis: the first entry, whoever proposes it, writes the format; only one
// shard has the root.
func TestGenesis(t *testing.T) {
	for _, shard := range []eggs.ShardID{eggs.Root.Shard(), eggs.Root.Shard() + 1} {
		key, err := auth.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		g := newLone(NewMachine(shard, key))
		s := New(Config{Shard: shard, Group: g, Machine: g.machine})
		for range 3 {
			s.onLead(context.Background())
		}
		if g.mem.Index() != 1 {
			t.Fatalf("%d entries", g.mem.Index())
		}
		a, err := s.Query(context.Background(), &wire.ShardQuery{
			Shard: uint32(shard),
			Query: &wire.ShardQuery_ShardStat{ShardStat: &wire.ShardStat{}},
		})
		want := uint64(0)
		if shard == eggs.Root.Shard() {
			want = 1
		}
		if err != nil || a.GetShardStat().GetDirectories() != want {
			t.Fatal(err, a)
		}
		g.mem.Close()
	}
}

// TestLaterFormat: a replica that does not understand an entry must not go on
// as if it did.
func TestLaterFormat(t *testing.T) {
	b := newBench(t)
	defer func() {
		if recover() == nil {
			t.Fatal("it went on")
		}
	}()
	b.g.machine.Apply(nil, raftgroup.Entry{Data: encode(&wire.ShardEntry{Version: FormatVersion + 1})})
}

// TestPages: pages of a listing join without gap or repetition, by number and by bytes.
func TestPages(t *testing.T) {
	b := newBench(t)
	const n = 300
	for i := range n {
		name := fmt.Sprintf("%d-%s", i, strings.Repeat("n", 200))
		r := b.do(t, b.create(t, name, []byte("x"))...)
		b.do(t, &wire.Verb{Verb: &wire.Verb_SetXattr{SetXattr: &wire.SetXattr{
			Id: r.Results[0].GetConstructed().Id, Name: "user.x", Value: make([]byte, 4000),
		}}})
		b.do(t, &wire.Verb{Verb: &wire.Verb_Unlink{Unlink: &wire.Unlink{
			Dir: uint64(eggs.Root), Name: name,
		}}})
		b.do(t, b.create(t, name, []byte("x"))...)
	}
	for _, limit := range []uint32{1, 7, 0} {
		seen, after := map[string]bool{}, uint64(0)
		for end := false; !end; {
			a, err := b.s.Query(context.Background(), &wire.ShardQuery{
				Shard: uint32(b.shard),
				Query: &wire.ShardQuery_ReadDir{ReadDir: &wire.ReadDir{
					Dir: uint64(eggs.Root), After: after, Limit: limit, Attrs: true,
				}},
			})
			if err != nil || a.Error != nil || a.SizeVT() > 3<<20 {
				t.Fatal(err, a.Error, a.SizeVT())
			}
			for _, e := range a.GetReadDir().Entries {
				if seen[e.Name] || e.Hash <= after {
					t.Fatalf("%q again", e.Name)
				}
				seen[e.Name], after = true, e.Hash
			}
			end = a.GetReadDir().End
		}
		if len(seen) != n {
			t.Fatalf("limit %d: %d of %d", limit, len(seen), n)
		}
		edges, after := 0, uint64(0)
		for end := false; !end; {
			a, err := b.s.Query(context.Background(), &wire.ShardQuery{
				Shard: uint32(b.shard),
				Query: &wire.ShardQuery_ListSnapshots{ListSnapshots: &wire.ListSnapshots{
					Dir: uint64(eggs.Root), After: after, Limit: limit,
				}},
			})
			if err != nil || a.Error != nil {
				t.Fatal(err, a)
			}
			edges += len(a.GetListSnapshots().Edges)
			after, end = a.GetListSnapshots().Next, a.GetListSnapshots().End
		}
		if edges != 3*n {
			t.Fatalf("limit %d: %d edges of %d", limit, edges, 3*n)
		}
	}
}

// FuzzApply: bytes that come out of the log, whatever they are, never stop a replica.
func FuzzApply(f *testing.F) {
	f.Add([]byte{1, 2, 3})
	f.Add(encode(&wire.ShardEntry{Clock: 5, Request: &wire.ShardRequest{
		Shard: uint32(eggs.Root.Shard()), Fence: &wire.Fence{Transaction: 1, Step: 1},
		Verbs: []*wire.Verb{{Verb: &wire.Verb_LockEdge{LockEdge: &wire.LockEdge{Name: "x"}}}},
	}}))
	f.Add(encode(&wire.ShardEntry{Clock: 5, Request: &wire.ShardRequest{
		Shard: uint32(eggs.Root.Shard()),
		Verbs: []*wire.Verb{{Verb: &wire.Verb_OpenSession{}}},
	}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var e wire.ShardEntry
		if e.UnmarshalVT(data) == nil && e.Version > FormatVersion {
			return
		}
		m := newLone(NewMachine(eggs.Root.Shard(), nil))
		defer m.mem.Close()
		m.mem.Apply(data)
		m.mem.Apply(data)
		v := m.mem.View()
		defer v.Close()
		if faults := Check(v, eggs.Root.Shard()); len(faults) > 0 && e.Clock >= 0 && e.Clock < 1<<62 {
			t.Fatal(faults[0])
		}
	})
}
