package upkeep_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand"
	"sync"
	"testing"
	"time"

	"eggsfs/client"
	"eggsfs/client/clienttest"
	"eggsfs/eggs"
	"eggsfs/upkeep"
	"eggsfs/wire"
)

// newLargeWorld is four nodes of four disks, so that there is room to repair to.
func newLargeWorld(t *testing.T) (*clienttest.World, *client.Client) {
	t.Helper()
	w := clienttest.New(t, clienttest.Config{Nodes: 4, Disks: 4})
	c := w.Client()
	must(t, c.SetPolicy(bg, eggs.Root, policy(0, 0), 0))
	return w, c
}

// putBytes makes a file of random bytes and returns them.
func putBytes(t testing.TB, c client.API, name string, n int) (eggs.InodeID, []byte) {
	t.Helper()
	data := make([]byte, n)
	rand.New(rand.NewSource(int64(n))).Read(data)
	w, err := c.Create(bg, eggs.Root, name, client.CreateOptions{Mode: 0o644})
	must(t, err)
	_, err = w.Write(data)
	must(t, err)
	_, err = w.Close(bg)
	must(t, err)
	return w.ID(), data
}

func reads(t testing.TB, c client.API, id eggs.InodeID, want []byte) {
	t.Helper()
	r, err := c.Open(bg, id)
	must(t, err)
	defer r.Close()
	got := make([]byte, len(want))
	if _, err := r.ReadAt(got, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("file %s reads as something else", id)
	}
}

// on counts the blocks of linked files on a disk.
func on(t testing.TB, c client.Operator, ids []eggs.InodeID, d eggs.DiskID) (n int) {
	t.Helper()
	for _, id := range ids {
		spans, _, err := c.BlockSpans(bg, id, 0)
		must(t, err)
		for _, s := range spans {
			for _, b := range s.Blocks {
				if b.Disk == uint64(d) {
					n++
				}
			}
		}
	}
	return n
}

// spread checks invariant 19 as far as there are nodes: no node has more blocks of a
// span than an even share.
func spread(t testing.TB, w *clienttest.World, c client.Operator, ids []eggs.InodeID) {
	t.Helper()
	for _, id := range ids {
		spans, _, err := c.BlockSpans(bg, id, 0)
		must(t, err)
		for _, s := range spans {
			nodes := map[*clienttest.Node]int{}
			disks := map[uint64]bool{}
			for _, b := range s.Blocks {
				nodes[w.Disk(eggs.DiskID(b.Disk)).Node]++
				if disks[b.Disk] {
					t.Errorf("file %s: two blocks on disk %x", id, b.Disk)
				}
				disks[b.Disk] = true
			}
			for _, n := range nodes {
				if n > (len(s.Blocks)+len(w.Nodes)-1)/len(w.Nodes) {
					t.Errorf("file %s at %d: %d of %d blocks on one node", id, s.Offset, n, len(s.Blocks))
				}
			}
		}
	}
}

// collected lets the collector have the old blocks.
func collected(t testing.TB, c client.Operator) {
	t.Helper()
	_, err := upkeep.NewCollector(upkeep.Config{Client: c}).CollectAll(bg)
	must(t, err)
	check(t, c)
}

// TestRetiredDisk: what was on a disk that is gone for good is rebuilt from parity on
// others, of other nodes; nothing leaks, though the old blocks can't be erased;
// and what was deleted meanwhile can be collected without it.
func TestRetiredDisk(t *testing.T) {
	w, c := newLargeWorld(t)
	var ids []eggs.InodeID
	var want [][]byte
	for i := range 12 {
		id, data := putBytes(t, c, fmt.Sprint("f", i), 5000+40_000*i)
		ids, want = append(ids, id), append(want, data)
	}
	_, _ = putBytes(t, c, "deleted", 300_000)
	dead := w.Disks()[1]
	if on(t, c, ids, dead.ID) == 0 {
		t.Fatal("nothing is on the disk")
	}
	must(t, c.Unlink(bg, eggs.Root, "deleted", 0))
	dead.Lose()
	dead.Fail(eggs.E("test", eggs.IO, "gone"))
	w.SetDisk(bg, c, dead.ID, "retired")
	m := upkeep.NewMigrator(upkeep.MigratorConfig{Client: c, Rate: -1})
	st, err := m.Once(bg, nil)
	must(t, err)
	if st.Rebuilt == 0 || st.Rebuilt != st.Blocks {
		t.Errorf("%+v: all must be rebuilt", st)
	}
	if n := on(t, c, ids, dead.ID); n != 0 {
		t.Errorf("%d blocks of files are still on the disk", n)
	}
	spread(t, w, c, ids)
	collected(t, c)
	left, err := upkeep.LeftOn(bg, c, []eggs.DiskID{dead.ID})
	must(t, err)
	if left[dead.ID] != (upkeep.Left{}) {
		t.Errorf("left on the disk: %+v", left)
	}
	for i, id := range ids {
		reads(t, c, id, want[i])
	}
	wipe(t, c, eggs.Root)
	collected(t, c)
	nothingLeft(t, w, c)
}

// TestDrain: a disk that is drained is copied from, not rebuilt, and ends empty.
func TestDrain(t *testing.T) {
	w, c := newLargeWorld(t)
	var ids []eggs.InodeID
	var want [][]byte
	for i := range 8 {
		id, data := putBytes(t, c, fmt.Sprint("f", i), 5000+60_000*i)
		ids, want = append(ids, id), append(want, data)
	}
	d := w.Disks()[0]
	w.SetDisk(bg, c, d.ID, "draining")
	st, err := upkeep.NewMigrator(upkeep.MigratorConfig{Client: c, Rate: -1}).Once(bg, []eggs.DiskID{d.ID})
	must(t, err)
	if st.Blocks == 0 || st.Rebuilt != 0 {
		t.Errorf("%+v: all must be copied", st)
	}
	collected(t, c)
	if n := d.Len(); n != 0 {
		t.Errorf("the disk still has %d blocks", n)
	}
	spread(t, w, c, ids)
	for i, id := range ids {
		reads(t, c, id, want[i])
	}
}

// order notes the files that get new blocks.
type order struct {
	slog.Handler
	mu    sync.Mutex
	files []string
}

func (o *order) Enabled(context.Context, slog.Level) bool { return true }

func (o *order) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "file" {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.files = append(o.files, fmt.Sprint(a.Value.Any()))
		}
		return true
	})
	return nil
}

// TestLeastRedundancyFirst: a file that has lost two blocks of a span is repaired before
// those that have lost one.
func TestLeastRedundancyFirst(t *testing.T) {
	w, c := newLargeWorld(t)
	disks := w.Disks()
	for i := range 10 {
		putBytes(t, c, fmt.Sprint("one", i), 9000) // 3 copies: fewer disks than the large one
	}
	large, _ := putBytes(t, c, "two", 60_000)
	small, _ := putBytes(t, c, "one", 9000)
	var both []eggs.DiskID
	for _, d := range disks {
		if len(both) < 2 && on(t, c, []eggs.InodeID{large}, d.ID) > 0 &&
			(len(both) == 0) == (on(t, c, []eggs.InodeID{small}, d.ID) > 0) {
			both = append(both, d.ID)
		}
	}
	if len(both) != 2 {
		t.Fatal("the disks were chosen otherwise than this test thinks")
	}
	for _, d := range both {
		w.Disk(d).Fail(eggs.E("test", eggs.IO, "gone"))
		w.SetDisk(bg, c, d, "retired")
	}
	o := &order{}
	m := upkeep.NewMigrator(upkeep.MigratorConfig{Client: c, Rate: -1, Parallel: 1, Logger: slog.New(o)})
	_, err := m.Once(bg, nil)
	must(t, err)
	if len(o.files) < 5 || o.files[0] != large.String() {
		t.Errorf("%s was to be the first of %v", large, o.files)
	}
}

// TestTwoMigrators: several at the same shards, as when leadership moves, with a collector
// and a reader that holds old addresses beside them, do no harm.
func TestTwoMigrators(t *testing.T) {
	w, c := newLargeWorld(t)
	var ids []eggs.InodeID
	var want [][]byte
	for i := range 16 {
		id, data := putBytes(t, c, fmt.Sprint("f", i), 5000+20_000*i)
		ids, want = append(ids, id), append(want, data)
	}
	old, err := c.Open(bg, ids[15])
	must(t, err)
	defer old.Close()
	for i, d := range w.Disks()[:3] {
		w.SetDisk(bg, c, d.ID, []string{"draining", "retired", "draining"}[i])
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			m := upkeep.NewMigrator(upkeep.MigratorConfig{Client: w.Client(), Rate: -1})
			if _, err := m.Once(bg, nil); err != nil {
				t.Error(err)
			}
			if _, err := upkeep.NewCollector(upkeep.Config{Client: c}).CollectAll(bg); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	collected(t, c)
	for _, d := range w.Disks()[:3] {
		if n := on(t, c, ids, d.ID) + d.Len(); n != 0 {
			t.Errorf("%d blocks are still on disk %s", n, d.ID)
		}
	}
	got := make([]byte, len(want[15]))
	if _, err := old.ReadAt(got, 0); err != nil && err != io.EOF || !bytes.Equal(got, want[15]) {
		t.Errorf("a reader with old addresses: %v", err)
	}
	for i, id := range ids {
		reads(t, c, id, want[i])
	}
	wipe(t, c, eggs.Root)
	collected(t, c)
	nothingLeft(t, w, c)
}

// TestBadBlock: a block that was reported is looked at and rebuilt if it is bad, along with
// others of its span that prove bad then; one that is good stays where it is.
func TestBadBlock(t *testing.T) {
	w, c := newLargeWorld(t)
	id, data := putBytes(t, c, "f", 64<<10)
	spans, _, err := c.BlockSpans(bg, id, 0)
	must(t, err)
	s := spans[0]
	w.Disk(eggs.DiskID(s.Blocks[0].Disk)).Corrupt(false)
	w.Disk(eggs.DiskID(s.Blocks[2].Disk)).Lose()
	bad := func(i int) *wire.BadBlock {
		return &wire.BadBlock{File: uint64(id), Offset: 0, Disk: s.Blocks[i].Disk, Block: s.Blocks[i].Block}
	}
	m := upkeep.NewMigrator(upkeep.MigratorConfig{Client: c, Rate: -1})
	m.Report(bad(1)) // is good
	m.Report(bad(2))
	st, err := m.Once(bg, nil)
	must(t, err)
	if st.Blocks == 0 || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
	after, _, err := c.BlockSpans(bg, id, 0)
	must(t, err)
	if after[0].Blocks[1].Block != s.Blocks[1].Block || after[0].Blocks[2].Block == s.Blocks[2].Block {
		t.Error("the wrong block was replaced")
	}
	m.Report(bad(0))
	_, err = m.Once(bg, nil)
	must(t, err)
	collected(t, c)
	after, _, err = c.BlockSpans(bg, id, 0)
	must(t, err)
	for _, b := range after[0].Blocks {
		must(t, c.CheckBlock(bg, b))
	}
	reads(t, c, id, data)
}

// TestTooFewBlocks: a span with fewer than D good blocks is left alone and told of; what
// can be saved is.
func TestTooFewBlocks(t *testing.T) {
	w, c := newLargeWorld(t)
	id, _ := putBytes(t, c, "lost", 64<<10) // 4+2
	spans, _, err := c.BlockSpans(bg, id, 0)
	must(t, err)
	for _, b := range spans[0].Blocks[:3] {
		w.Disk(eggs.DiskID(b.Disk)).Lose()
		w.SetDisk(bg, c, eggs.DiskID(b.Disk), "retired")
	}
	small, data := putBytes(t, c, "small", 9000)
	told := 0
	m := upkeep.NewMigrator(upkeep.MigratorConfig{
		Client: c, Rate: -1, Event: func(string, string) { told++ },
	})
	st, err := m.Once(bg, nil)
	if err == nil || st.Lost == 0 || told != 1 {
		t.Errorf("%+v %v, told %d times", st, err, told)
	}
	check(t, c)
	reads(t, c, small, data)
}

// TestScratchExpires: what a crashed repairer left is the collector's after minutes, not hours.
func TestScratchExpires(t *testing.T) {
	w, c := newLargeWorld(t)
	_, err := c.Shard(bg, 7,
		&wire.Verb{Verb: &wire.Verb_Construct{Construct: &wire.Construct{
			Name: "repair of something", LifeNs: int64(5 * time.Minute),
		}}},
		&wire.Verb{Verb: &wire.Verb_InitiateSpan{InitiateSpan: &wire.InitiateSpan{
			Size: 4096, D: 1, Stripes: 1, CellSize: 4096, BlockCrcs: []uint32{1}, StripeCrcs: []uint32{1}, Crc: 1,
		}}})
	must(t, err)
	w.Advance(6 * time.Minute)
	g := upkeep.NewCollector(upkeep.Config{
		Client: c, Clock: func() eggs.Time { return eggs.TimeOf(time.Now().Add(6 * time.Minute)) },
	})
	_, err = g.CollectAll(bg)
	must(t, err)
	nothingLeft(t, w, c)
}

// TestScrub: rot and loss that nobody has read are found and mended, and nothing else is touched.
func TestScrub(t *testing.T) {
	w, c := newLargeWorld(t)
	var ids []eggs.InodeID
	var want [][]byte
	for i := range 6 {
		id, data := putBytes(t, c, fmt.Sprint("f", i), 5000+30_000*i)
		ids, want = append(ids, id), append(want, data)
	}
	rotten, lost := w.Disks()[0], w.Disks()[5]
	n := uint64(rotten.Len() + lost.Len())
	if n == 0 {
		t.Fatal("nothing is on the disks")
	}
	rotten.Corrupt(false)
	lost.Lose()
	m := upkeep.NewMigrator(upkeep.MigratorConfig{Client: c, Rate: -1})
	s := upkeep.NewScrubber(upkeep.ScrubberConfig{Client: c, Rate: -1, Bad: m.Report})
	must(t, s.All(bg))
	if st := s.Stats(); st.Bad != n || st.Files != 6 || st.Blocks == 0 {
		t.Errorf("%+v, want %d bad", st, n)
	}
	st, err := m.Once(bg, []eggs.DiskID{})
	must(t, err)
	if st.Blocks != n {
		t.Errorf("%+v, want %d blocks made anew", st, n)
	}
	collected(t, c)
	again := upkeep.NewScrubber(upkeep.ScrubberConfig{Client: c, Rate: -1})
	must(t, again.All(bg))
	if st := again.Stats(); st.Bad != 0 {
		t.Errorf("after repair: %+v", st)
	}
	for i, id := range ids {
		reads(t, c, id, want[i])
	}
}

// TestReaderReports: a block that a reader found bad is told of and mended, once somebody
// takes the reports of its shard.
func TestReaderReports(t *testing.T) {
	w, c := newLargeWorld(t)
	id, data := putBytes(t, c, "f", 64<<10)
	spans, _, err := c.BlockSpans(bg, id, 0)
	must(t, err)
	b := spans[0].Blocks[0]
	w.Disk(eggs.DiskID(b.Disk)).Corrupt(false)
	reads(t, c, id, data)
	m := upkeep.NewMigrator(upkeep.MigratorConfig{
		Client: c, Rate: -1, Bad: func(s eggs.ShardID) []*wire.BadBlock { return w.Shard(s).TakeBad() },
	})
	deadline := time.Now().Add(10 * time.Second)
	for m.Stats().Blocks == 0 && time.Now().Before(deadline) {
		_, err = m.Once(bg, []eggs.DiskID{})
		must(t, err)
	}
	spans, _, err = c.BlockSpans(bg, id, 0)
	must(t, err)
	if spans[0].Blocks[0].Block == b.Block {
		t.Fatal("the bad block is still there")
	}
	collected(t, c)
	reads(t, c, id, data)
}
