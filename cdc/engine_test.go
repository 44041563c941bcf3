package cdc

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// hold makes steps of the CDC wait at their shard's door while it says so.
type hold struct {
	mu   sync.Mutex
	keep func(r *wire.ShardRequest) bool
	open chan struct{}
}

func newHold(w *world, keep func(r *wire.ShardRequest) bool) *hold {
	h := &hold{keep: keep, open: make(chan struct{})}
	w.before = func(_ int, r *wire.ShardRequest) error {
		h.mu.Lock()
		held := h.keep(r)
		open := h.open
		h.mu.Unlock()
		if held {
			<-open
		}
		return nil
	}
	return h
}

func (h *hold) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keep = func(*wire.ShardRequest) bool { return false }
	close(h.open)
}

// later runs a request and gives its reply in time.
func (w *world) later(r *wire.CdcRequest) <-chan *wire.CdcReply {
	c := make(chan *wire.CdcReply, 1)
	w.number(r)
	go func() { c <- w.until(r) }()
	synctest.Wait()
	return c
}

func answered(c <-chan *wire.CdcReply) bool { synctest.Wait(); return len(c) > 0 }

func edgeNamed(name string) func(r *wire.ShardRequest) bool {
	return func(r *wire.ShardRequest) bool { return r.Verbs[0].GetCreateEdge().GetName() == name }
}

// TestQueues: transactions on one name run in the order of the log, those on
// other names do not wait for them, and a name's queue has an end.
func TestQueues(t *testing.T) {
	onBoth(t, "queues", func(t *testing.T, w *world) {
		h := newHold(w, edgeNamed("a"))
		first := w.later(mkdir(root, "a"))
		second := w.later(mkdir(root, "a"))
		third := w.later(rmdir(root, "a", 0))
		w.want(w.do(mkdir(root, "b")), eggs.Other)
		if answered(first) || answered(second) || answered(third) {
			t.Fatal("a transaction overtook one on the same name")
		}
		a, err := w.g.at().cdc.Query(context.Background(), &wire.CdcQuery{
			Query: &wire.CdcQuery_CdcStat{CdcStat: &wire.CdcStat{}},
		})
		if s := a.GetStat(); err != nil || s.Running != 1 || s.Queued != 2 || s.Finished != 1 ||
			s.Sessions != 1 || s.Directories != 4 {
			t.Fatalf("stat %v, %v", a, err)
		}
		var waiting []<-chan *wire.CdcReply
		for range maxQueue - 3 {
			waiting = append(waiting, w.later(mkdir(root, "a")))
		}
		if _, err := w.try(w.number(mkdir(root, "a"))); eggs.KindOf(err) != eggs.Busy {
			t.Fatalf("a full queue answers %v", err)
		}
		h.release()
		w.want(<-first, eggs.Other)
		w.want(<-second, eggs.Exist)
		w.want(<-third, eggs.Other)
		w.want(<-waiting[0], eggs.Other)
		for _, c := range waiting[1:] {
			w.want(<-c, eggs.Exist)
		}
		w.holds()
	})
}

// TestImpatientClient: who gives up learns nothing about the outcome, and who
// asks again gets it, once.
func TestImpatientClient(t *testing.T) {
	onBoth(t, "gives up", func(t *testing.T, w *world) {
		h := newHold(w, edgeNamed("a"))
		r := w.number(mkdir(root, "a"))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := w.g.at().cdc.Do(ctx, r); eggs.KindOf(err) != eggs.Indeterminate {
			t.Fatalf("answered %v", err)
		}
		h.release()
		w.want(w.until(r), eggs.Other)
		w.holds()
	})
}

// TestNotTheLeader: a follower does nothing, and a leader that has fallen lets
// its callers go.
func TestNotTheLeader(t *testing.T) {
	onBoth(t, "not the leader", func(t *testing.T, w *world) {
		ctx := context.Background()
		r := w.number(mkdir(root, "a"))
		follower := w.g.replicas[1].cdc
		if _, err := follower.Do(ctx, r); eggs.KindOf(err) != eggs.NotLeader {
			t.Fatalf("a follower answers %v", err)
		}
		if _, err := follower.Query(ctx, &wire.CdcQuery{}); eggs.KindOf(err) != eggs.NotLeader {
			t.Fatalf("a follower answers %v", err)
		}
		if len(w.record) > 0 {
			t.Fatal("a follower sent a step")
		}
		h := newHold(w, edgeNamed("a"))
		var errs atomic.Value
		go func() { _, err := w.g.replicas[0].cdc.Do(ctx, r); errs.Store(err) }()
		synctest.Wait()
		w.g.lead(-1)
		synctest.Wait()
		if err, _ := errs.Load().(error); eggs.KindOf(err) != eggs.Indeterminate {
			t.Fatalf("a fallen leader answers %v", err)
		}
		sent := w.sent
		h.release()
		time.Sleep(time.Minute)
		if w.sent != sent {
			t.Fatal("a fallen leader sent a step")
		}
		w.g.lead(2)
		w.want(w.until(r), eggs.Other)
		w.holds()
	})
}

// TestLockedByAnother: no transaction of ours can meet another's lock, as the
// queues keep them apart. If one is met all the same, its end is awaited, with
// a limit; and a new leader must give up exactly when the old one did.
func TestLockedByAnother(t *testing.T) {
	type play struct {
		name  string
		free  time.Duration // when the lock goes away
		crash bool          // the leader falls when the client has its answer
		want  eggs.Kind
	}
	for _, p := range []play{
		{"freed soon", 100 * time.Millisecond, false, eggs.Other},
		{"freed soon, leader falls", 100 * time.Millisecond, true, eggs.Other},
		{"never freed", time.Hour, false, eggs.Timeout},
		{"freed too late, leader falls", time.Hour, true, eggs.Timeout},
	} {
		t.Run(p.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newNamespace()
				w := newWorld(t, m)
				d := w.mkdir(root, "d")
				w.file(root, "a")
				w.settle()
				w.forget()
				lock := func(txn uint64) {
					m.mu.Lock()
					m.dirs[root].edges["a"].lock = txn
					m.mu.Unlock()
				}
				lock(1 << 40)
				c := w.later(rename(root, "a", d, "b", false))
				time.Sleep(p.free)
				if p.want == eggs.Other {
					lock(0)
				}
				reply := w.want(<-c, p.want)
				if p.want == eggs.Timeout {
					lock(0)
				}
				if p.crash {
					w.g.lead(1)
				}
				w.holds()
				if moved := w.lookup(d, "b") != 0; moved != (reply.Error == nil) {
					t.Fatalf("answered %v, moved is %v", reply, moved)
				}
			})
		})
	}
}

// TestDoneInBulk: that transactions ended is said for many at once, and soon.
func TestDoneInBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, newNamespace())
		entries := w.g.index
		var all []<-chan *wire.CdcReply
		const n = 600
		for i := range n {
			r := w.number(mkdir(root, fmt.Sprint(i)))
			c := make(chan *wire.CdcReply, 1)
			go func() { c <- w.until(r) }()
			all = append(all, c)
		}
		for _, c := range all {
			w.want(<-c, eggs.Other)
		}
		time.Sleep(2 * doneDelay)
		if left := w.g.at().machine.unfinished(); left > 0 {
			t.Errorf("%d transactions are not logged as finished", left)
		}
		if more := w.g.index - entries - n; more > n/maxDone+2 {
			t.Errorf("%d entries say that %d transactions ended", more, n)
		}
		w.holds()
	})
}

// TestConcurrentMkdir: many make one name at once: one directory, one winner, no orphan.
func TestConcurrentMkdir(t *testing.T) {
	onBoth(t, "one name", func(t *testing.T, w *world) {
		w.before = func(n int, _ *wire.ShardRequest) error {
			time.Sleep(time.Duration(n%7) * time.Millisecond)
			if n == 9 {
				w.g.lead(1)
			}
			return nil
		}
		var made, refused atomic.Int32
		var work sync.WaitGroup
		for range 16 {
			work.Go(func() {
				switch reply := w.do(mkdir(root, "a")); kind(reply) {
				case eggs.Other:
					made.Add(1)
				case eggs.Exist:
					refused.Add(1)
				default:
					t.Errorf("answered %v", reply)
				}
			})
		}
		work.Wait()
		if made.Load() != 1 || refused.Load() != 15 {
			t.Errorf("%d made, %d refused", made.Load(), refused.Load())
		}
		w.holds()
		if n := len(w.picture().dirs); n != 2 {
			t.Errorf("%d directories, want the root and one", n)
		}
	})
}

// race plays a transaction with something else happening before each of its
// steps in turn: whoever wins, the invariants hold.
func race(t *testing.T, name string, setup func(w *world) *wire.CdcRequest, other func(w *world),
	check func(t *testing.T, w *world, r *wire.CdcReply),
) {
	for step := 1; step <= 4; step++ {
		onBoth(t, fmt.Sprintf("%s before step %d", name, step), func(t *testing.T, w *world) {
			r := setup(w)
			w.settle()
			w.forget()
			var once sync.Once
			w.before = func(n int, _ *wire.ShardRequest) error {
				if n == step {
					once.Do(func() { other(w) })
				}
				return nil
			}
			reply := w.do(r)
			check(t, w, reply)
			w.holds()
		})
	}
}

// TestRaces plays the races that the model of the metadata lists for the CDC.
func TestRaces(t *testing.T) {
	dir := func(w *world) uint64 { return w.lookup(root, "d") }
	race(t, "a file is linked into what rmdir removes",
		func(w *world) *wire.CdcRequest { return rmdir(root, "d", w.mkdir(root, "d")) },
		func(w *world) { _, _ = w.link(dir(w), "f", eggs.KindFile) },
		func(t *testing.T, w *world, r *wire.CdcReply) {
			there := w.lookup(root, "d") != 0
			if there != (kind(r) == eggs.NotEmpty) || !there != (r.Error == nil) {
				t.Errorf("answered %v, and the directory is there: %v", r, there)
			}
		})
	race(t, "a directory is made in what rmdir removes",
		func(w *world) *wire.CdcRequest { return rmdir(root, "d", w.mkdir(root, "d")) },
		func(w *world) { w.later(mkdir(dir(w), "e")); time.Sleep(100 * time.Millisecond) },
		func(t *testing.T, w *world, r *wire.CdcReply) {
			if there := w.lookup(root, "d") != 0; there != (kind(r) == eggs.NotEmpty) {
				t.Errorf("answered %v, and the directory is there: %v", r, there)
			}
		})
	race(t, "the directory is removed under mkdir",
		func(w *world) *wire.CdcRequest { return mkdir(w.mkdir(root, "d"), "e") },
		func(w *world) { w.want(w.do(rmdir(root, "d", 0)), eggs.Other) },
		func(t *testing.T, w *world, r *wire.CdcReply) {
			if r.Error != nil && kind(r) != eggs.NotExist && kind(r) != eggs.ReadOnly {
				t.Errorf("answered %v", r)
			}
		})
	race(t, "the name is taken under mkdir",
		func(w *world) *wire.CdcRequest { return mkdir(root, "a") },
		func(w *world) { _, _ = w.link(root, "a", eggs.KindFile) },
		func(t *testing.T, w *world, r *wire.CdcReply) {
			if isDir := eggs.InodeID(w.lookup(root, "a")).IsDir(); isDir != (r.Error == nil) {
				t.Errorf("answered %v, and a is a directory: %v", r, isDir)
			}
		})
	race(t, "the source is unlinked under rename",
		func(w *world) *wire.CdcRequest {
			w.file(root, "a")
			return rename(root, "a", w.mkdir(root, "d"), "b", false)
		},
		func(w *world) { _, _, _ = w.unlink(root, "a") },
		func(t *testing.T, w *world, r *wire.CdcReply) {
			if moved := w.lookup(dir(w), "b") != 0; moved != (r.Error == nil) {
				t.Errorf("answered %v, and it moved: %v", r, moved)
			}
		})
	race(t, "the destination's directory is removed under rename",
		func(w *world) *wire.CdcRequest {
			w.file(root, "a")
			return rename(root, "a", w.mkdir(root, "d"), "b", false)
		},
		func(w *world) { w.do(rmdir(root, "d", 0)) },
		func(t *testing.T, w *world, r *wire.CdcReply) {
			if there := w.lookup(root, "a") != 0; there != (r.Error != nil) {
				t.Errorf("answered %v, and the source is there: %v", r, there)
			}
		})
	race(t, "the new name goes on moving under rename",
		func(w *world) *wire.CdcRequest {
			w.file(root, "a")
			return rename(root, "a", w.mkdir(root, "d"), "b", false)
		},
		func(w *world) { _ = w.within(dir(w), "b", "c") },
		func(t *testing.T, w *world, r *wire.CdcReply) { w.want(r, eggs.Other) })
	race(t, "the new name is unlinked under rename",
		func(w *world) *wire.CdcRequest {
			w.file(root, "a")
			return rename(root, "a", w.mkdir(root, "d"), "b", false)
		},
		func(w *world) { _, _, _ = w.unlink(dir(w), "b") },
		func(t *testing.T, w *world, r *wire.CdcReply) { w.want(r, eggs.Other) })
	race(t, "another renames the same file away",
		func(w *world) *wire.CdcRequest {
			w.file(root, "a")
			w.mkdir(root, "e")
			return rename(root, "a", w.mkdir(root, "d"), "b", false)
		},
		func(w *world) { w.later(rename(root, "a", w.lookup(root, "e"), "c", false)) },
		func(t *testing.T, w *world, r *wire.CdcReply) { w.want(r, eggs.Other) })
}

// TestNeverNone: while a file moves, there is one name or two, never none.
func TestNeverNone(t *testing.T) {
	onBoth(t, "rename", func(t *testing.T, w *world) {
		d := w.mkdir(root, "d")
		w.file(root, "a")
		look := func(int, *wire.ShardRequest) error {
			if w.lookup(root, "a") == 0 && w.lookup(d, "b") == 0 {
				t.Error("the file has no name")
			}
			return nil
		}
		w.before, w.after = look, look
		w.want(w.do(rename(root, "a", d, "b", false)), eggs.Other)
		w.holds()
	})
}

// TestInherited: a removed directory takes along each policy tag of the nearest
// ancestor that has it, below its own; what none has is the cluster's default.
func TestInherited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newNamespace()
		w := newWorld(t, m)
		a := w.mkdir(root, "a")
		b := w.mkdir(a, "b")
		c := w.mkdir(b, "c")
		snapshot := func(n uint32) *wire.SnapshotPolicy {
			return &wire.SnapshotPolicy{KeepVersions: n}
		}
		m.dirs[root].own = &wire.Policies{
			Snapshot: snapshot(1), Inline: &wire.InlinePolicy{MaxSize: 1},
		}
		m.dirs[a].own = &wire.Policies{Snapshot: snapshot(2), Stripe: &wire.StripePolicy{CellSize: 2}}
		m.dirs[b].own = &wire.Policies{Stripe: &wire.StripePolicy{CellSize: 3}}
		m.dirs[c].own = &wire.Policies{Inline: &wire.InlinePolicy{MaxSize: 4}}
		w.want(w.do(rmdir(b, "c", c)), eggs.Other)
		p := m.dirs[c].policies
		if p.Snapshot.KeepVersions != 2 || p.Stripe.CellSize != 3 || p.Inline.MaxSize != 4 ||
			len(p.Span.Classes) != len(eggs.DefaultPolicies(1, 1).Span) {
			t.Errorf("took along %v", p)
		}
		w.holds()
	})
}

// TestGetParent and the other queries of a leader.
func TestQueries(t *testing.T) {
	onBoth(t, "queries", func(t *testing.T, w *world) {
		d := w.mkdir(root, "d")
		ask := func(q *wire.CdcQuery) *wire.CdcAnswer {
			a, err := w.g.at().cdc.Query(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		parent := func(dir uint64) uint64 {
			return ask(&wire.CdcQuery{Query: &wire.CdcQuery_GetParent{
				GetParent: &wire.GetParent{Dir: dir},
			}}).Parent
		}
		if parent(d) != root || parent(root) != 0 || parent(d+1) != 0 {
			t.Errorf("parents %x, %x, %x", parent(d), parent(root), parent(d+1))
		}
		w.want(w.do(&wire.CdcRequest{Op: &wire.CdcRequest_PutCluster{
			PutCluster: &wire.PutCluster{Id: 5, Replicas: 3},
		}}), eggs.Other)
		facts := ask(&wire.CdcQuery{Query: &wire.CdcQuery_GetFacts{GetFacts: &wire.GetFacts{}}})
		if facts.Facts.GetCluster() != 5 {
			t.Errorf("facts %v", facts)
		}
		check := ask(&wire.CdcQuery{Query: &wire.CdcQuery_Check{Check: &wire.CheckShard{}}})
		if len(check.Check.GetFaults()) > 0 {
			t.Errorf("check %v", check)
		}
		if no := ask(&wire.CdcQuery{}); no.Error == nil || !strings.Contains(no.Error.Text, "no query") {
			t.Errorf("no query: %v", no)
		}
	})
}

// TestSpeed holds the room to its share of the target of 2,000 mkdir/s at 16
// callers: with shards and a log that cost nothing, one core must do. It is
// measured in processor time, which a busy machine does not stretch as much.
func TestSpeed(t *testing.T) {
	const n = 8000
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	rate := mkdirs(t, 16, n)
	each := (used() - before) / n
	t.Logf("%.0f mkdir/s, %v of processor each", rate, each)
	if each > time.Second/2000 {
		t.Errorf("a mkdir costs %v of processor time", each)
	}
}

func mkdirs(t testing.TB, callers, n int) float64 {
	p := &post{shardSet: newNamespace(), quick: true}
	g := newCluster(t, 1, p, clock)
	var next atomic.Int64
	var work sync.WaitGroup
	begin := time.Now()
	for range callers {
		work.Go(func() {
			ctx := context.Background()
			c := g.replicas[0].cdc
			open, err := c.Do(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_OpenSession{
				OpenSession: &wire.OpenSession{},
			}})
			if err != nil {
				t.Error(err)
				return
			}
			for sequence := uint64(1); ; sequence++ {
				i := next.Add(1)
				if i > int64(n) {
					return
				}
				r := mkdir(root, fmt.Sprint(i))
				r.Session, r.Sequence, r.Lowest = open.Session, sequence, sequence
				if reply, err := c.Do(ctx, r); err != nil || reply.Error != nil {
					t.Errorf("mkdir: %v, %v", reply, err)
					return
				}
			}
		})
	}
	work.Wait()
	return float64(n) / time.Since(begin).Seconds()
}

func BenchmarkMkdir(b *testing.B) {
	b.ReportMetric(mkdirs(b, 16, b.N), "mkdir/s")
}
