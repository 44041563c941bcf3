package raftshard

import (
	"context"
	"fmt"
	"hash/crc32"
	"testing"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

// bench is a shard on a store in memory, with a session and leased ids.
type bench struct {
	g        *lone
	s        *Shard
	shard    eggs.ShardID
	session  uint64
	sequence uint64
	ids      []uint64
}

func newBench(tb testing.TB) *bench {
	key, err := auth.NewKey()
	if err != nil {
		tb.Fatal(err)
	}
	b := &bench{shard: eggs.Root.Shard()}
	b.g = newLone(NewMachine(b.shard, key))
	tb.Cleanup(b.g.mem.Close)
	b.s = New(Config{Shard: b.shard, Group: b.g, Machine: b.g.machine})
	r := b.do(tb, &wire.Verb{Verb: &wire.Verb_OpenSession{OpenSession: &wire.OpenSession{}}})
	b.session = r.Results[0].GetSessionOpened().Session
	return b
}

func (b *bench) request(verbs ...*wire.Verb) *wire.ShardRequest {
	r := &wire.ShardRequest{Shard: uint32(b.shard), Session: b.session, Verbs: verbs}
	if b.session != 0 {
		b.sequence++
		r.Sequence, r.Lowest = b.sequence, b.sequence
	}
	return r
}

func (b *bench) do(tb testing.TB, verbs ...*wire.Verb) *wire.ShardReply {
	r, err := b.s.Do(context.Background(), b.request(verbs...))
	if err != nil || r.Error != nil {
		tb.Fatal(err, r.GetError().AsError())
	}
	return r
}

func (b *bench) id(tb testing.TB) uint64 {
	if len(b.ids) == 0 {
		r := b.do(tb, &wire.Verb{Verb: &wire.Verb_LeaseIds{LeaseIds: &wire.LeaseIds{Count: 256}}})
		b.ids = r.Results[0].GetIdsLeased().Ids
	}
	id := b.ids[0]
	b.ids = b.ids[1:]
	return id
}

func (b *bench) create(tb testing.TB, name string, data []byte) []*wire.Verb {
	return []*wire.Verb{
		{Verb: &wire.Verb_Construct{Construct: &wire.Construct{Id: b.id(tb), Mode: 0o644}}},
		{Verb: &wire.Verb_AddInline{AddInline: &wire.AddInline{
			Data: data, Crc: crc32.Checksum(data, castagnoli),
		}}},
		{Verb: &wire.Verb_LinkFile{LinkFile: &wire.LinkFile{Dir: uint64(eggs.Root), Name: name}}},
	}
}

// BenchmarkCreate is a small file in one entry, through prepare and apply, each
// in a batch of its own.
func BenchmarkCreate(b *testing.B) {
	x := newBench(b)
	data := make([]byte, 1024)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		x.do(b, x.create(b, fmt.Sprintf("file%d", i), data)...)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
}

// BenchmarkApply is apply alone, in batches as a busy node gets them: what every
// replica pays.
func BenchmarkApply(b *testing.B) {
	const batch = 32
	x := newBench(b)
	data := make([]byte, 1024)
	var entries [][]byte
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		if len(entries) == 0 {
			b.StopTimer()
			for len(entries) < 64*batch {
				n++
				x.ids = []uint64{0} // the shard chooses
				verbs := x.create(b, fmt.Sprintf("file%d", n), data)
				entries = append(entries, encode(&wire.ShardEntry{
					Clock: int64(x.s.clock()), Version: FormatVersion, Request: x.request(verbs...),
				}))
			}
			b.StartTimer()
		}
		x.g.mem.ApplyBatch(entries[:batch]...)
		entries = entries[batch:]
	}
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "creates/s")
}

// BenchmarkReadDir lists 10,000 files made by one client, with attributes.
func BenchmarkReadDir(b *testing.B) {
	for _, others := range []int{0, 200_000} {
		b.Run(fmt.Sprintf("beside%d", others), func(b *testing.B) {
			x := newBench(b)
			for i := range others {
				x.do(b, x.create(b, fmt.Sprintf("other%d", i), []byte("x"))[:2]...)
			}
			for i := range 10_000 {
				x.do(b, x.create(b, fmt.Sprintf("file%d", i), []byte("x"))...)
			}
			b.ReportAllocs()
			b.ResetTimer()
			n := 0
			for b.Loop() {
				for after := uint64(0); ; {
					a, err := x.s.Query(context.Background(), &wire.ShardQuery{
						Shard: uint32(x.shard), Query: &wire.ShardQuery_ReadDir{ReadDir: &wire.ReadDir{
							Dir: uint64(eggs.Root), After: after, Attrs: true,
						}},
					})
					if err != nil || a.Error != nil {
						b.Fatal(err, a)
					}
					encode(a)
					l := a.GetReadDir()
					n += len(l.Entries)
					if l.End {
						break
					}
					after = l.Entries[len(l.Entries)-1].Hash
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkLookup is one name with the attributes of its file.
func BenchmarkLookup(b *testing.B) {
	x := newBench(b)
	for i := range 10_000 {
		x.do(b, x.create(b, fmt.Sprintf("file%d", i), []byte("x"))...)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		a, err := x.s.Query(context.Background(), &wire.ShardQuery{
			Shard: uint32(x.shard), Query: &wire.ShardQuery_Lookup{Lookup: &wire.Lookup{
				Dir: uint64(eggs.Root), Name: fmt.Sprintf("file%d", i%10_000),
			}},
		})
		if err != nil || a.Error != nil {
			b.Fatal(err, a)
		}
	}
}
