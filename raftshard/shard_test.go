package raftshard

import (
	"context"
	"testing"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

// TestSmallFile is the road of most files: one entry from nothing to a name.
func TestSmallFile(t *testing.T) {
	key, err := auth.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	shard := eggs.Root.Shard()
	g := newLone(NewMachine(shard, key))
	defer g.mem.Close()
	s := New(Config{Shard: shard, Group: g, Machine: g.machine})
	ctx := context.Background()
	r, err := s.Do(ctx, &wire.ShardRequest{Shard: uint32(shard), Verbs: []*wire.Verb{
		{Verb: &wire.Verb_OpenSession{OpenSession: &wire.OpenSession{Client: 5}}},
	}})
	if err != nil || r.Error != nil {
		t.Fatal(err, r.GetError())
	}
	session := r.Results[0].GetSessionOpened().Session
	data := []byte("hello")
	req := &wire.ShardRequest{
		Shard: uint32(shard), Session: session, Sequence: 1, Lowest: 1,
		Verbs: []*wire.Verb{
			{Verb: &wire.Verb_Construct{Construct: &wire.Construct{Mode: 0o644}}},
			{Verb: &wire.Verb_AddInline{AddInline: &wire.AddInline{Data: data, Crc: 0x9a71bb4c}}},
			{Verb: &wire.Verb_LinkFile{LinkFile: &wire.LinkFile{Dir: uint64(eggs.Root), Name: "a"}}},
		},
	}
	r, err = s.Do(ctx, req)
	if err != nil || r.Error != nil {
		t.Fatal(err, r.GetError())
	}
	id := r.Results[0].GetConstructed().Id
	q, err := s.Query(ctx, &wire.ShardQuery{Shard: uint32(shard), Query: &wire.ShardQuery_Lookup{
		Lookup: &wire.Lookup{Dir: uint64(eggs.Root), Name: "a"},
	}})
	if err != nil || q.Error != nil || q.GetLookup().Target != id || q.GetLookup().Attr.Size != 5 {
		t.Fatal(err, q)
	}
	q, err = s.Query(ctx, &wire.ShardQuery{Shard: uint32(shard), Query: &wire.ShardQuery_ReadDir{
		ReadDir: &wire.ReadDir{Dir: uint64(eggs.Root), Attrs: true},
	}})
	if err != nil || q.Error != nil || len(q.GetReadDir().Entries) != 1 || !q.GetReadDir().End {
		t.Fatal(err, q)
	}
	q, err = s.Query(ctx, &wire.ShardQuery{Shard: uint32(shard), Query: &wire.ShardQuery_GetSpans{
		GetSpans: &wire.GetSpans{File: id},
	}})
	if err != nil || q.Error != nil || string(q.GetGetSpans().Spans[0].Inline) != "hello" {
		t.Fatal(err, q)
	}
}
