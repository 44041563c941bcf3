package upkeep_test

import (
	"context"
	"fmt"
	"math/rand"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eggsfs/client"
	"eggsfs/client/clienttest"
	"eggsfs/eggs"
	"eggsfs/upkeep"
	"eggsfs/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var bg = context.Background()

// policy keeps deleted things for so long and so many, and cuts files small.
func policy(keep time.Duration, versions uint32) *wire.Policies {
	return &wire.Policies{
		Snapshot: &wire.SnapshotPolicy{KeepForNs: int64(keep), KeepVersions: versions},
		Span: &wire.SpanPolicy{Classes: []*wire.SpanClass{
			{MaxSize: 10_000, D: 1, P: 2}, {MaxSize: 64 << 10, D: 4, P: 2},
		}},
		Stripe: &wire.StripePolicy{CellSize: 8 << 10},
		Inline: &wire.InlinePolicy{MaxSize: 100},
	}
}

func newWorld(t *testing.T, p *wire.Policies) (*clienttest.World, *client.Client) {
	t.Helper()
	w := clienttest.New(t, clienttest.Config{})
	c := w.Client()
	if err := c.SetPolicy(bg, eggs.Root, p, 0); err != nil {
		t.Fatal(err)
	}
	return w, c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, c client.API, dir eggs.InodeID, name string, n int) eggs.InodeID {
	t.Helper()
	w, err := c.Create(bg, dir, name, client.CreateOptions{Mode: 0o644})
	must(t, err)
	_, err = w.Write(make([]byte, n))
	must(t, err)
	_, err = w.Close(bg)
	must(t, err)
	return w.ID()
}

func mkdir(t testing.TB, c client.API, dir eggs.InodeID, name string) eggs.InodeID {
	t.Helper()
	a, err := c.Mkdir(bg, dir, name, client.CreateOptions{Mode: 0o755})
	must(t, err)
	return a.ID
}

// holds sums what all shards keep.
func holds(t testing.TB, c client.Operator) *wire.ShardStatAnswer {
	t.Helper()
	sum := &wire.ShardStatAnswer{}
	for s := range uint32(eggs.Shards) {
		ans, err := c.Query(bg, &wire.ShardQuery{
			Shard: s,
			Query: &wire.ShardQuery_ShardStat{ShardStat: &wire.ShardStat{}},
		})
		must(t, err)
		st := ans.GetShardStat()
		sum.Directories += st.Directories
		sum.Files += st.Files
		sum.Transient += st.Transient
		sum.Edges += st.Edges
		sum.SnapshotEdges += st.SnapshotEdges
		sum.Spans += st.Spans
		sum.Blocks += st.Blocks
	}
	return sum
}

// check runs every shard's invariants.
func check(t testing.TB, c client.Operator) {
	t.Helper()
	for s := range uint32(eggs.Shards) {
		ans, err := c.Query(bg, &wire.ShardQuery{
			Shard: s,
			Query: &wire.ShardQuery_CheckShard{CheckShard: &wire.CheckShard{}},
		})
		must(t, err)
		for _, f := range ans.GetCheckShard().GetFaults() {
			t.Errorf("shard %d: invariant %d: %s", s, f.Invariant, f.Text)
		}
	}
}

// nothingLeft is invariant 41.
func nothingLeft(t testing.TB, w *clienttest.World, c client.Operator) {
	t.Helper()
	check(t, c)
	h := holds(t, c)
	if h.Directories != 1 || h.Files+h.Transient+h.Edges+h.SnapshotEdges+h.Spans+h.Blocks != 0 {
		t.Errorf("the shards still hold %v", h)
	}
	if n := w.Blocks(); n != 0 {
		t.Errorf("the disks still hold %d blocks", n)
	}
}

// wipe removes everything below a directory.
func wipe(t testing.TB, c client.API, dir eggs.InodeID) {
	t.Helper()
	for after := uint64(0); ; {
		entries, _, end, err := c.ReadDir(bg, dir, after, 100, false)
		must(t, err)
		for _, e := range entries {
			after = e.Cursor
			if e.Target.IsDir() {
				wipe(t, c, e.Target)
				must(t, c.Rmdir(bg, dir, e.Name))
				continue
			}
			must(t, c.Unlink(bg, dir, e.Name, 0))
		}
		if end {
			return
		}
	}
}

// TestNothingLeft is invariant 41: whatever was done to a tree, once it is
// emptied, kept by no policy and collected, no inode but the root is left and no block.
func TestNothingLeft(t *testing.T) {
	w, c := newWorld(t, policy(0, 0))
	rnd := rand.New(rand.NewSource(1))
	dirs := []eggs.InodeID{eggs.Root}
	for i := range 12 {
		dirs = append(dirs, mkdir(t, c, dirs[rnd.Intn(len(dirs))], fmt.Sprint("d", i)))
	}
	for i := range 120 {
		dir, name := dirs[rnd.Intn(len(dirs))], fmt.Sprint("f", rnd.Intn(15))
		switch i % 6 {
		case 0, 1, 2:
			put(t, c, dir, name, []int{0, 50, 5_000, 60_000, 200_000}[rnd.Intn(5)])
		case 3:
			c.Symlink(bg, dir, fmt.Sprint("l", i), "f1", client.CreateOptions{})
		case 4:
			c.Rename(bg, dir, name, dirs[rnd.Intn(len(dirs))], fmt.Sprint("f", rnd.Intn(15)), false)
		case 5:
			c.Unlink(bg, dir, name, 0)
		}
	}
	wr, err := c.Create(bg, eggs.Root, "given up", client.CreateOptions{Exclusive: true})
	must(t, err)
	_, err = wr.Write(make([]byte, 150_000))
	must(t, err)
	wr.Abort()
	crashed, err := c.Create(bg, eggs.Root, "crashed", client.CreateOptions{})
	must(t, err)
	_, err = crashed.Write(make([]byte, 150_000))
	must(t, err)

	g := upkeep.NewCollector(upkeep.Config{Client: c})
	r, err := g.CollectAll(bg)
	must(t, err)
	check(t, c)
	if !r.Any() {
		t.Fatal("nothing was collected")
	}
	for i := range dirs {
		entries, _, _, err := c.ReadDir(bg, dirs[i], 0, 1000, true)
		must(t, err)
		for _, e := range entries { // what has a name is still there, whole
			if e.Target.Kind() != eggs.KindFile {
				continue
			}
			rd, err := c.Open(bg, e.Target)
			must(t, err)
			if _, err := rd.ReadAt(make([]byte, rd.Size()), 0); err != nil && rd.Size() > 0 {
				t.Fatal(err)
			}
			rd.Close()
		}
	}
	if h := holds(t, c); h.Transient != 1 {
		t.Fatalf("an unexpired file was destroyed, or others were left: %v", h)
	}
	wipe(t, c, eggs.Root)
	time.Sleep(50 * time.Millisecond) // the scrap of what was given up goes its own way
	w.Advance(3 * time.Hour)
	g = upkeep.NewCollector(upkeep.Config{
		Client: c,
		Clock:  func() eggs.Time { return eggs.TimeOf(time.Now().Add(3 * time.Hour)) },
	})
	r, err = g.CollectAll(bg)
	must(t, err)
	t.Log(r)
	nothingLeft(t, w, c)
	crashed.Abort()
}

// versions counts the past versions of a directory.
func versions(t testing.TB, c client.Operator, dir eggs.InodeID) (past, markers int) {
	t.Helper()
	ans, err := c.Query(bg, &wire.ShardQuery{
		Shard: uint32(dir.Shard()),
		Query: &wire.ShardQuery_ListSnapshots{ListSnapshots: &wire.ListSnapshots{
			Dir: uint64(dir), Limit: 1000,
		}},
	})
	must(t, err)
	for _, e := range ans.GetListSnapshots().GetEdges() {
		switch {
		case e.Current:
		case e.Target == 0:
			markers++
		default:
			past++
		}
	}
	return past, markers
}

// TestKeepFor: what was deleted stays for as long as the policy says, and no longer.
func TestKeepFor(t *testing.T) {
	w, c := newWorld(t, policy(time.Hour, 0))
	for range 3 {
		put(t, c, eggs.Root, "f", 20_000)
	}
	must(t, c.Unlink(bg, eggs.Root, "f", 0))
	g := upkeep.NewCollector(upkeep.Config{Client: c})
	_, err := g.CollectAll(bg)
	must(t, err)
	if past, markers := versions(t, c, eggs.Root); past != 3 || markers != 1 {
		t.Fatalf("%d versions and %d markers within the hour", past, markers)
	}
	w.Advance(61 * time.Minute)
	r, err := g.CollectDir(bg, eggs.Root)
	must(t, err)
	if r.Files != 3 || r.Versions != 4 {
		t.Fatalf("%+v", r)
	}
	nothingLeft(t, w, c)
}

// TestKeepVersions: so many newer versions, the current one among them, must
// exist before one goes.
func TestKeepVersions(t *testing.T) {
	_, c := newWorld(t, policy(0, 2))
	var ids []eggs.InodeID
	for range 5 {
		ids = append(ids, put(t, c, eggs.Root, "f", 20_000))
	}
	g := upkeep.NewCollector(upkeep.Config{Client: c})
	_, err := g.CollectAll(bg)
	must(t, err)
	if past, _ := versions(t, c, eggs.Root); past != 1 {
		t.Fatalf("%d past versions are kept beside the current one, want 1", past)
	}
	for i, id := range ids {
		_, err := c.Stat(bg, id)
		if kept := err == nil; kept != (i >= 3) {
			t.Errorf("version %d: kept is %v", i, kept)
		}
	}
}

// TestMoved: the record that a name once had a file goes, the file stays.
func TestMoved(t *testing.T) {
	_, c := newWorld(t, policy(0, 0))
	d := mkdir(t, c, eggs.Root, "d")
	id := put(t, c, eggs.Root, "f", 20_000)
	must(t, c.Rename(bg, eggs.Root, "f", d, "g", false))
	g := upkeep.NewCollector(upkeep.Config{Client: c})
	_, err := g.CollectAll(bg)
	must(t, err)
	if past, markers := versions(t, c, eggs.Root); past+markers != 0 {
		t.Fatal(past, markers)
	}
	if a, err := c.Stat(bg, id); err != nil || a.Transient {
		t.Fatal(a, err)
	}
	must(t, c.Unlink(bg, d, "g", id)) // its inode lives in the other directory's shard
	r, err := g.CollectDir(bg, eggs.Root)
	must(t, err)
	if r.Files != 1 {
		t.Fatalf("%+v", r)
	}
	check(t, c)
}

// TestDiskDown: a disk that does not answer leaves its files for later, which
// is told; when it is back nothing is left.
func TestDiskDown(t *testing.T) {
	w, c := newWorld(t, policy(0, 0))
	put(t, c, eggs.Root, "f", 200_000)
	put(t, c, eggs.Root, "small", 10)
	wipe(t, c, eggs.Root)
	w.Disks()[2].Fail(eggs.E("test", eggs.IO, "broken"))
	g := upkeep.NewCollector(upkeep.Config{Client: c})
	r, err := g.CollectAll(bg)
	if err == nil || r.Left != 1 || len(r.Reasons) != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	check(t, c)
	w.Disks()[2].Fail(nil)
	_, err = g.CollectAll(bg)
	must(t, err)
	nothingLeft(t, w, c)
}

// TestRun: the nodes' collectors share the work by who leads, and one that
// has lost a leadership does no harm.
func TestRun(t *testing.T) {
	w, c := newWorld(t, policy(0, 0))
	d := mkdir(t, c, eggs.Root, "d")
	for i := range 20 {
		put(t, c, d, fmt.Sprint(i), 500*i)
		put(t, c, eggs.Root, fmt.Sprint(i), 5000*i)
	}
	wipe(t, c, eggs.Root)
	ctx, cancel := context.WithCancel(bg)
	done := make(chan struct{}, 2)
	for half := range 2 {
		g := upkeep.NewCollector(upkeep.Config{
			Client: w.Client(), Interval: 20 * time.Millisecond,
			Leads: func(s eggs.ShardID) bool { return int(s)%2 == half },
		})
		go func() {
			g.Run(ctx)
			done <- struct{}{}
		}()
	}
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if h := holds(t, c); h.Directories == 1 && h.Transient == 0 && w.Blocks() == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	<-done
	<-done
	nothingLeft(t, w, c)
}

// TestCollectTransient: one file by its id, if it is past its deadline.
func TestCollectTransient(t *testing.T) {
	w, c := newWorld(t, policy(0, 0))
	wr, err := c.Create(bg, eggs.Root, "f", client.CreateOptions{})
	must(t, err)
	_, err = wr.Write(make([]byte, 100_000))
	must(t, err)
	g := upkeep.NewCollector(upkeep.Config{Client: c})
	for w.Blocks() == 0 {
		time.Sleep(time.Millisecond)
	}
	if _, err = g.CollectTransient(bg, wr.ID()); eggs.KindOf(err) != eggs.Conflict {
		t.Fatal(err)
	}
	wr.Abort()
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, err = g.CollectTransient(bg, wr.ID()); err == nil || time.Now().After(deadline) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	must(t, err)
	nothingLeft(t, w, c)
}
