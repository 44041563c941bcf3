package cdc

import (
	"fmt"
	"testing"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
)

// lone is a machine on its keys, without a group.
type lone struct {
	t     *testing.T
	m     *Machine
	state *memory
	clock int64
}

func newLone(t *testing.T) *lone {
	return &lone{t: t, m: NewMachine(), state: newMemory(), clock: 1000}
}

func (l *lone) apply(e *wire.CdcEntry) applied {
	l.clock++
	e.Version, e.Clock = formatVersion, l.clock
	got := l.m.Apply(l.state, raftgroup.Entry{Data: encode(e)})
	l.state.commit()
	return got.(applied)
}

func (l *lone) begin(r *wire.CdcRequest, session, sequence, lowest uint64) applied {
	r.Session, r.Sequence, r.Lowest = session, sequence, lowest
	return l.apply(&wire.CdcEntry{Begin: r})
}

func (l *lone) done(id uint64, reply *wire.CdcReply) {
	l.apply(&wire.CdcEntry{Done: []*wire.CdcDone{{Transaction: id, Reply: reply}}})
}

func (l *lone) open() uint64 {
	return l.begin(&wire.CdcRequest{Op: &wire.CdcRequest_OpenSession{
		OpenSession: &wire.OpenSession{Client: 3},
	}}, 0, 0, 0).reply.Session
}

// sound fails unless a machine that starts from the keys knows the same, and the keys are right.
func (l *lone) sound() {
	l.t.Helper()
	fresh := NewMachine()
	fresh.Restored(l.state)
	if a, b := len(l.m.live), len(fresh.live); a != b {
		l.t.Errorf("%d transactions in memory, %d in the keys", a, b)
	}
	if diff := cmp.Diff(l.m.Facts(), fresh.Facts(), protocmp.Transform()); diff != "" {
		l.t.Errorf("facts in memory and in the keys differ: %s", diff)
	}
	for _, f := range Check(l.state) {
		l.t.Errorf("broken: %v", f)
	}
}

// TestBeginOnce: a retry may reach the log while its first attempt is
// in it, unfinished or finished; it must never begin a second transaction.
func TestBeginOnce(t *testing.T) {
	l := newLone(t)
	s := l.open()
	first := l.begin(mkdir(root, "a"), s, 1, 1)
	if first.txn == nil || first.txn.rec.Id == 0 {
		t.Fatalf("began %+v", first)
	}
	if again := l.begin(mkdir(root, "a"), s, 1, 1); again.txn != first.txn {
		t.Fatalf("a retry began %+v", again)
	}
	l.sound()
	l.done(first.txn.id, &wire.CdcReply{Id: first.txn.rec.Id, Time: 5})
	l.done(first.txn.id, &wire.CdcReply{Error: refusal("", eggs.Exist, 0, "", "")})
	<-first.txn.decided
	if again := l.begin(mkdir(root, "a"), s, 1, 1); again.reply.GetTime() != 5 {
		t.Fatalf("a retry after the end got %+v", again)
	}
	if again := l.begin(mkdir(root, "a"), s, 1, 2); again.reply.GetTime() != 5 {
		t.Fatalf("a request whose sequence is below its own lowest got %+v", again)
	}
	l.begin(mkdir(root, "b"), s, 2, 2)
	if late := l.begin(mkdir(root, "a"), s, 1, 1); kind(late.reply) != eggs.Indeterminate {
		t.Fatalf("a request from before lowest got %+v", late)
	}
	if other := l.begin(mkdir(root, "a"), s+1, 1, 1); kind(other.reply) != eggs.BadSession {
		t.Fatalf("a request of no session got %+v", other)
	}
	if far := l.begin(mkdir(root, "a"), s, 1<<40, 2); kind(far.reply) != eggs.Busy {
		t.Fatalf("a request far above the lowest got %+v", far)
	}
	l.sound()
}

// TestForgottenAnswer: the client is answered before done is logged, so it may
// say that it has the answer before there is one to keep. Kept then, it would stay for ever.
func TestForgottenAnswer(t *testing.T) {
	l := newLone(t)
	s := l.open()
	first := l.begin(mkdir(root, "a"), s, 1, 1)
	l.begin(mkdir(root, "b"), s, 2, 2)
	l.done(first.txn.id, &wire.CdcReply{Id: first.txn.rec.Id})
	if _, ok := sessions.Look(l.state, s, 1); ok {
		t.Error("an answer that nobody awaits is kept")
	}
	second := l.m.find(requestKey{s, 2})
	l.clock += int64(2 * raftgroup.SessionLife)
	l.open() // clears the session that ended
	before := len(l.state.keys)
	l.done(second.id, &wire.CdcReply{Id: second.rec.Id})
	if got := len(l.state.keys); got != before-1 {
		t.Errorf("%d keys after the end of a dead session's transaction, want %d", got, before-1)
	}
	l.sound()
}

// TestTentativeParent: the parent map changes at begin, for who walks it
// meanwhile, and a refusal takes that back.
func TestTentativeParent(t *testing.T) {
	l := newLone(t)
	s := l.open()
	a := l.begin(mkdir(root, "a"), s, 1, 1).txn
	if p, _ := parentOf(l.state, a.rec.Id); p != root {
		t.Fatalf("the parent of a new directory is %x", p)
	}
	b := l.begin(mkdir(a.rec.Id, "b"), s, 2, 1).txn
	l.sound()
	l.done(b.id, refused("", eggs.Exist, 0, "", ""))
	l.done(a.id, &wire.CdcReply{Id: a.rec.Id})
	if _, ok := parentOf(l.state, b.rec.Id); ok {
		t.Error("a refused mkdir left its directory in the parent map")
	}
	gone := l.begin(rmdir(root, "a", a.rec.Id), s, 3, 1).txn
	l.done(gone.id, &wire.CdcReply{Id: a.rec.Id})
	if got := l.begin(mkdir(a.rec.Id, "c"), s, 4, 1); kind(got.reply) != eggs.NotExist {
		t.Errorf("mkdir in a removed directory: %+v", got)
	}
	next := l.begin(mkdir(root, "a"), s, 5, 1).txn
	if next.rec.Id <= b.rec.Id {
		t.Errorf("id %x after %x", next.rec.Id, b.rec.Id)
	}
	if n := loadState(l.state).Directories; n != 1 {
		t.Errorf("%d directories counted", n)
	}
	l.sound()
}

// TestTimeMovesForward: a new leader's clock may be behind; the group's time may not.
func TestTimeMovesForward(t *testing.T) {
	l := newLone(t)
	last := int64(0)
	for _, clock := range []int64{5000, 4000, 4000, -1, 6000} {
		l.clock = clock
		l.open()
		now := loadState(l.state).Time
		if now <= last || now < clock {
			t.Errorf("time %d after %d with a clock of %d", now, last, clock)
		}
		last = now
	}
}

// TestForeignEntry: what can't be read, or is of a later version, changes
// nothing and kills nobody.
func TestForeignEntry(t *testing.T) {
	l := newLone(t)
	for _, data := range [][]byte{{255, 255, 255}, {0x10, 99}, nil} {
		got := l.m.Apply(l.state, raftgroup.Entry{Data: data}).(applied)
		if len(data) > 0 && got.reply.GetError() == nil {
			t.Errorf("entry %x was applied: %+v", data, got)
		}
	}
	l.done(77, &wire.CdcReply{})
	l.apply(&wire.CdcEntry{Done: []*wire.CdcDone{{Transaction: 1}}, Begin: &wire.CdcRequest{}})
	l.sound()
}

// TestFull: unfinished transactions are bounded, and what is refused may be asked again.
func TestFull(t *testing.T) {
	l := newLone(t)
	state := loadState(l.state)
	state.NextTransaction, state.NextDirectory = maxUnfinished, maxUnfinished+1
	state.Directories = maxUnfinished - 1
	store(l.state, keyState, state)
	for id := uint64(1); id < maxUnfinished; id++ {
		rec := &wire.CdcTransaction{
			Request: mkdir(root, fmt.Sprint(id)),
			Id:      uint64(eggs.MakeInodeID(eggs.KindDirectory, id+1)),
		}
		rec.Request.Session, rec.Request.Sequence = 1, id
		store(l.state, keyTransaction(id), rec)
		l.state.Set(keyParent(rec.Id), encodeNumber(root))
	}
	l.m.Restored(l.state)
	s := l.open()
	if fits := l.begin(mkdir(root, "x"), s, 1, 1); fits.txn == nil {
		t.Fatalf("the last that fits: %+v", fits.reply)
	}
	if more := l.begin(mkdir(root, "y"), s, 2, 1); kind(more.reply) != eggs.Busy {
		t.Fatalf("one too many: %+v", more.reply)
	}
	oldest, _ := l.m.oldest()
	l.done(oldest.id, &wire.CdcReply{Id: oldest.rec.Id})
	if again := l.begin(mkdir(root, "y"), s, 2, 1); again.txn == nil {
		t.Fatalf("after one ended: %+v", again.reply)
	}
	// Finished behind an unfinished one: the order stays, memory does not grow.
	for _, x := range l.m.after(oldest.id + 1) {
		l.m.end(x, &wire.CdcReply{Id: x.rec.Id})
		l.state.Delete(keyTransaction(x.id))
	}
	if n := len(l.m.order); n > 100 {
		t.Errorf("%d places for %d transactions", n, l.m.unfinished())
	}
	l.sound()
}

// TestFacts: the rules of the durable facts, in the order in which a cluster
// comes to them. What changes nothing makes no version.
func TestFacts(t *testing.T) {
	node := func(id uint64, mask uint32, f *wire.NodeFact) *wire.CdcRequest {
		f.Id = id
		return &wire.CdcRequest{Op: &wire.CdcRequest_PutNode{
			PutNode: &wire.PutNode{Node: f, Mask: mask},
		}}
	}
	disk := func(id uint64, mask uint32, f *wire.DiskFact) *wire.CdcRequest {
		f.Id = id
		return &wire.CdcRequest{Op: &wire.CdcRequest_PutDisk{
			PutDisk: &wire.PutDisk{Disk: f, Mask: mask},
		}}
	}
	cluster := func(id uint64, replicas uint32) *wire.CdcRequest {
		return &wire.CdcRequest{Op: &wire.CdcRequest_PutCluster{
			PutCluster: &wire.PutCluster{Id: id, Replicas: replicas},
		}}
	}
	group := func(g uint32, voters []uint64, learners ...uint64) *wire.CdcRequest {
		return &wire.CdcRequest{Op: &wire.CdcRequest_PutReplicas{
			PutReplicas: &wire.PutReplicas{Group: g, Voters: voters, Learners: learners},
		}}
	}
	remove := func(id uint64) *wire.CdcRequest {
		return &wire.CdcRequest{Op: &wire.CdcRequest_RemoveNode{
			RemoveNode: &wire.RemoveNode{Id: id},
		}}
	}
	l := newLone(t)
	s := l.open()
	for i, row := range []struct {
		what    string
		r       *wire.CdcRequest
		want    eggs.Kind
		version uint64
	}{
		{"a cluster without a name", cluster(0, 3), eggs.Invalid, 0},
		{"a cluster of nobody", cluster(5, 0), eggs.Invalid, 0},
		{"the cluster's name", cluster(5, 1), eggs.Other, 1},
		{"the name again", cluster(5, 1), eggs.Other, 1},
		{"more replicas", cluster(5, 3), eggs.Other, 2},
		{"another name", cluster(6, 3), eggs.Conflict, 2},
		{"a flag of a node that is not there", node(1, 1, &wire.NodeFact{Draining: true}), eggs.NotExist, 2},
		{"a node", node(1, 0, &wire.NodeFact{Address: "a:1", Domain: "r1", Roles: 7}), eggs.Other, 3},
		{"the same node", node(1, 0, &wire.NodeFact{Address: "a:1", Domain: "r1", Roles: 7}), eggs.Other, 3},
		{"a node drains", node(1, 1, &wire.NodeFact{Draining: true}), eggs.Other, 4},
		{"it is placed", node(1, 2, &wire.NodeFact{Placed: true}), eggs.Other, 5},
		{"it moves, and drains still", node(1, 0, &wire.NodeFact{Address: "b:1"}), eggs.Other, 6},
		{"replicas on a stranger", group(3, []uint64{1, 2}), eggs.NotExist, 6},
		{"a second node", node(2, 0, &wire.NodeFact{Address: "c:1"}), eggs.Other, 7},
		{"replicas", group(3, []uint64{1}, 2), eggs.Other, 8},
		{"replicas again", group(3, []uint64{1}, 2), eggs.Other, 8},
		{"replicas of no group", group(257, []uint64{1}), eggs.Invalid, 8},
		{"the CDC's replicas", group(256, []uint64{2}), eggs.Other, 9},
		{"no voter", group(3, nil, 1), eggs.Invalid, 9},
		{"a node twice", group(3, []uint64{1}, 1), eggs.Invalid, 9},
		{"a node with replicas leaves", remove(2), eggs.Conflict, 9},
		{"a stranger leaves", remove(9), eggs.NotExist, 9},
		{"its replicas move", group(3, []uint64{1}), eggs.Other, 10},
		{"all of them", group(256, []uint64{1}), eggs.Other, 11},
		{"it leaves", remove(2), eggs.Other, 12},
		{"a flag of a disk that is not there", disk(8, 1, &wire.DiskFact{NoWrite: true}), eggs.NotExist, 12},
		{"a disk", disk(8, 0, &wire.DiskFact{Node: 1, Class: 2}), eggs.Other, 13},
		{"a disk that is known is not made again", disk(8, 0, &wire.DiskFact{Node: 2, NoWrite: true}), eggs.Other, 13},
		{"no writes", disk(8, 1, &wire.DiskFact{NoWrite: true}), eggs.Other, 14},
		{"writes again", disk(8, 1, &wire.DiskFact{}), eggs.Other, 15},
		{"a disk retires", disk(8, 4, &wire.DiskFact{Retired: true}), eggs.Other, 16},
		{"and does not come back", disk(8, 4, &wire.DiskFact{}), eggs.Conflict, 16},
		{"nor takes writes", disk(8, 1, &wire.DiskFact{}), eggs.Conflict, 16},
		{"a lower disk", disk(7, 0, &wire.DiskFact{Node: 1}), eggs.Other, 17},
	} {
		old, changed := l.m.Facts(), l.m.FactsChanged()
		oldVersion := old.Version
		got := l.begin(row.r, s, uint64(i+1), uint64(i+1)).reply
		if kind(got) != row.want || row.want != eggs.Invalid && got.Version != row.version {
			t.Errorf("%s: %v, want %v and version %d", row.what, got, row.want, row.version)
		}
		if v := l.m.Facts().Version; v != row.version || old.Version != oldVersion {
			t.Errorf("%s: facts of version %d, and the old ones of %d", row.what, v, old.Version)
		}
		select {
		case <-changed:
			if old == l.m.Facts() {
				t.Errorf("%s: told of a change that was none", row.what)
			}
		default:
			if old != l.m.Facts() {
				t.Errorf("%s: not told of a change", row.what)
			}
		}
		l.sound()
	}
	want := &wire.Facts{
		Cluster: 5, Replicas: 3, Version: 17,
		Nodes: []*wire.NodeFact{{
			Id: 1, Address: "b:1", Domain: "r1", Roles: 7, Draining: true, Placed: true,
			Joined: l.m.Facts().Nodes[0].Joined,
		}, {
			Id: 2, Address: "c:1", Joined: l.m.Facts().Nodes[1].Joined,
			Removed: true, RemovedAt: l.m.Facts().Nodes[1].RemovedAt,
		}},
		Disks: []*wire.DiskFact{
			{Id: 7, Node: 1, Draining: true},
			{Id: 8, Node: 1, Class: 2, NoWrite: true, Retired: true, RetiredAt: l.m.Facts().Disks[1].RetiredAt},
		},
		Groups: []*wire.PutReplicas{
			{Group: 3, Voters: []uint64{1}, Version: 10}, {Group: 256, Voters: []uint64{1}, Version: 11},
		},
	}
	if diff := cmp.Diff(want, l.m.Facts(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// TestInvalid: nothing that the network can send gets to apply without making sense.
func TestInvalid(t *testing.T) {
	file := uint64(eggs.MakeInodeID(eggs.KindFile, 9))
	dir := uint64(eggs.MakeInodeID(eggs.KindDirectory, 9))
	long := string(make([]byte, 300))
	for _, row := range []struct {
		what string
		r    *wire.CdcRequest
		want eggs.Kind
	}{
		{"nothing", &wire.CdcRequest{}, eggs.Invalid},
		{"an empty operation", &wire.CdcRequest{Op: &wire.CdcRequest_Mkdir{}}, eggs.NotDir},
		{"mkdir in a file", mkdir(file, "a"), eggs.NotDir},
		{"mkdir in 0", mkdir(0, "a"), eggs.NotDir},
		{"mkdir of .", mkdir(root, "."), eggs.Invalid},
		{"mkdir of a/b", mkdir(root, "a/b"), eggs.Invalid},
		{"mkdir of a long name", mkdir(root, long), eggs.NameTooLong},
		{"rmdir of a file", rmdir(root, "a", file), eggs.NotDir},
		{"rmdir of the root", rmdir(root, "a", root), eggs.Invalid},
		{"rename to a bad name", rename(root, "a", dir, "", false), eggs.Invalid},
		{"rename in one directory", rename(root, "a", root, "b", false), eggs.Invalid},
		{"rename of a directory", &wire.CdcRequest{Op: &wire.CdcRequest_RenameFile{
			RenameFile: &wire.RenameFile{FromDir: root, From: "a", ToDir: dir, To: "b", Target: dir},
		}}, eggs.CrossDir},
		{"hard unlink of a directory", unlink(root, "a", dir, 5), eggs.Invalid},
		{"hard unlink without a time", unlink(root, "a", file, 0), eggs.Invalid},
		{"replicas of nobody", &wire.CdcRequest{Op: &wire.CdcRequest_PutReplicas{}}, eggs.Invalid},
		{"a disk of no id", &wire.CdcRequest{Op: &wire.CdcRequest_PutDisk{}}, eggs.Invalid},
		{"a node of no id", &wire.CdcRequest{Op: &wire.CdcRequest_PutNode{}}, eggs.Invalid},
		{"no node", &wire.CdcRequest{Op: &wire.CdcRequest_RemoveNode{}}, eggs.Invalid},
	} {
		if e := validate(row.r); e == nil || eggs.Kind(e.Kind) != row.want {
			t.Errorf("%s: %v, want %v", row.what, e, row.want)
		}
	}
}

// TestCheckSees plants what each invariant forbids: a check that can't fail proves nothing.
func TestCheckSees(t *testing.T) {
	dir := func(n uint64) uint64 { return uint64(eggs.MakeInodeID(eggs.KindDirectory, n)) }
	parent := func(s *memory, d, p uint64) {
		s.Set(keyParent(d), encodeNumber(p))
	}
	for _, row := range []struct {
		what  string
		want  uint32
		plant func(s *memory)
	}{
		{"an id that was never handed out", 14, func(s *memory) { parent(s, dir(99), root) }},
		{"a directory that is not counted", 10, func(s *memory) { parent(s, dir(2), root) }},
		{"a parent that is not there", 9, func(s *memory) { parent(s, dir(2), dir(3)) }},
		{"a loop", 9, func(s *memory) { parent(s, dir(2), dir(3)); parent(s, dir(3), dir(2)) }},
		{"a transaction from nowhere", 36, func(s *memory) {
			store(s, keyTransaction(77), &wire.CdcTransaction{Request: rmdir(root, "a", 0)})
		}},
		{"a transaction of nothing", 36, func(s *memory) {
			store(s, keyTransaction(1), &wire.CdcTransaction{})
		}},
		{"a request that began twice", 34, func(s *memory) {
			for id := range uint64(2) {
				store(s, keyTransaction(id+1), &wire.CdcTransaction{Request: rmdir(root, "a", 0)})
			}
		}},
		{"a new directory without a place", 10, func(s *memory) {
			store(s, keyTransaction(1),
				&wire.CdcTransaction{Request: mkdir(root, "a"), Id: dir(2)})
		}},
		{"a retired disk that takes writes", 42, func(s *memory) {
			store(s, keyDisk(5), &wire.DiskFact{Id: 5, Retired: true})
		}},
		{"a replica on a stranger", 31, func(s *memory) {
			store(s, keyGroup(3), &wire.PutReplicas{Group: 3, Voters: []uint64{4}})
		}},
	} {
		s := newMemory()
		state := loadState(s)
		state.NextDirectory, state.NextTransaction = 10, 10
		store(s, keyState, state)
		if f := Check(s); len(f) > 0 {
			t.Fatalf("an empty CDC: %v", f)
		}
		row.plant(s)
		found := false
		for _, f := range Check(s) {
			found = found || f.Invariant == row.want
		}
		if !found {
			t.Errorf("%s is not seen as %d: %v", row.what, row.want, Check(s))
		}
	}
}
