package raftgroup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// putMachine sets and deletes keys that depend on an entry's number and index, and counts
// entries, so that one applied twice shows.
type putMachine struct{ restored int }

func (m *putMachine) Apply(tx Tx, e Entry) any {
	n := binary.BigEndian.Uint32(e.Data)
	key := fmt.Appendf(nil, "key%05d", n%5000)
	tx.Set(key, bytes.Repeat(binary.BigEndian.AppendUint64(nil, e.Index), int(n%97)))
	if n%5 == 0 {
		tx.Delete(fmt.Appendf(nil, "key%05d", n%4999))
	}
	count, _ := tx.Get([]byte("count"))
	tx.Set([]byte("count"), append(count[:len(count)%61], 1))
	return e.Index
}

func (m *putMachine) Restored(Reader) { m.restored++ }

func testConfiguration(voters ...string) raft.Configuration {
	var c raft.Configuration
	for _, v := range voters {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(v), Address: raft.ServerAddress(v)})
	}
	return c
}

// putLogs makes the entries from first to last, a configuration at index 1.
func putLogs(first, last uint64) []*raft.Log {
	var logs []*raft.Log
	for i := first; i <= last; i++ {
		r := rand.New(rand.NewPCG(i, 9))
		l := &raft.Log{Index: i, Term: 1 + i/100, Data: binary.BigEndian.AppendUint32(nil, r.Uint32())}
		if i == 1 {
			l.Type, l.Data = raft.LogConfiguration, raft.EncodeConfiguration(testConfiguration("a", "b"))
		}
		logs = append(logs, l)
	}
	return logs
}

func openTestState(t testing.TB, o StateOptions) *State {
	t.Helper()
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic(err) }
	}
	if o.fs == nil {
		o.InMemory = true
	}
	s, err := OpenState("state", o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openTestGroup(t testing.TB, s *State, id eggs.GroupID) *GroupState {
	t.Helper()
	g, err := s.Group(id, &putMachine{})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// send streams the live snapshot of one group into another, as raft does.
func send(t testing.TB, from, to *GroupState) error {
	t.Helper()
	list, err := from.List()
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	meta, r, err := from.Open(list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sink, err := to.Create(meta.Version, meta.Index, meta.Term, meta.Configuration,
		meta.ConfigurationIndex, nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(sink, r)
	if err != nil || n != meta.Size {
		t.Fatalf("streamed %d bytes, announced %d: %v", n, meta.Size, err)
	}
	if err := sink.Close(); err != nil {
		return err
	}
	got, file, err := to.Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	if got.Size != meta.Size || got.Index != meta.Index {
		t.Fatalf("received %+v, sent %+v", got, meta)
	}
	return to.Restore(file)
}

// Why: a follower that was away, and every new one, gets its state this way.
func TestSnapshotRoundTrip(t *testing.T) {
	a, b := openTestState(t, StateOptions{}), openTestState(t, StateOptions{})
	defer a.Close()
	defer b.Close()
	from, to := openTestGroup(t, a, 5), openTestGroup(t, b, 5)
	from.ApplyBatch(putLogs(1, 4000))
	to.ApplyBatch(putLogs(1, 700)) // what it had goes
	before := to.View()
	defer before.Close()
	had := hashKeys(before)
	if err := send(t, from, to); err != nil {
		t.Fatal(err)
	}
	if from.Hash() != to.Hash() || to.AppliedIndex() != 4000 {
		t.Fatalf("hash %08x at %d, want %08x", to.Hash(), to.AppliedIndex(), from.Hash())
	}
	if to.machine.(*putMachine).restored != 2 {
		t.Error("the machine was not told")
	}
	if hashKeys(before) != had {
		t.Error("a view from before changed")
	}
	list, _ := to.List()
	if len(list) != 1 || list[0].Index != 4000 || list[0].Term != 41 || list[0].ConfigurationIndex != 1 ||
		len(list[0].Configuration.Servers) != 2 {
		t.Errorf("%+v", list)
	}
	to.ApplyBatch(putLogs(4001, 4100))
	from.ApplyBatch(putLogs(3990, 4100)) // replays are passed over
	if from.Hash() != to.Hash() {
		t.Error("replicas differ after the snapshot")
	}
	if err := send(t, from, to); err != nil { // not ahead: nothing to do
		t.Fatal(err)
	}
	if files, _ := b.fs.List(b.installDir()); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}

// Why: what comes over the network may be cut or altered, and must never become state.
func TestSnapshotDamaged(t *testing.T) {
	a, b := openTestState(t, StateOptions{}), openTestState(t, StateOptions{})
	defer a.Close()
	defer b.Close()
	from, to := openTestGroup(t, a, 5), openTestGroup(t, b, 5)
	from.ApplyBatch(putLogs(1, 300))
	meta, r, err := from.Open(snapshotLive)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	try := func(name string, stream []byte) {
		sink, _ := to.Create(meta.Version, meta.Index, meta.Term, meta.Configuration, 1, nil)
		if _, err := sink.Write(stream); err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); !errors.Is(err, eggs.Corrupt) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		bad := bytes.Clone(whole)
		at := rnd.IntN(len(bad))
		bad[at] ^= byte(1 + rnd.IntN(255))
		try(fmt.Sprintf("byte %d of %d", at, len(bad)), bad)
		try("cut", whole[:1+rnd.IntN(len(whole)-1)])
	}
	try("longer", append(bytes.Clone(whole), 0))
	if _, _, err := to.Open(snapshotInstall); !errors.Is(err, eggs.NotExist) || to.AppliedIndex() != 0 {
		t.Fatal(err)
	}
}

// Why: the store has no log of its own, so a crash in the middle of an installation could leave
// half of two states. The test crashes at each arrow, with all that was not fsynced gone, there,
// or partly there, and with what was loaded so far flushed or not.
func TestSnapshotCrashAtEachArrow(t *testing.T) {
	source := openTestState(t, StateOptions{})
	defer source.Close()
	from := openTestGroup(t, source, 5)
	for i := uint64(1); i <= 20001; i += 1000 {
		from.ApplyBatch(putLogs(i, i+999))
	}
	want := from.Hash()

	mem := vfs.NewCrashableMem()
	s := openTestState(t, StateOptions{fs: mem})
	to, other := openTestGroup(t, s, 5), openTestGroup(t, s, 6)
	to.ApplyBatch(putLogs(1, 500))
	other.ApplyBatch(putLogs(1, 100))
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	old, otherHash := to.Hash(), other.Hash()
	type crash struct {
		arrow string
		fs    *vfs.MemFS
	}
	var crashes []crash
	rnd := rand.New(rand.NewPCG(7, 7))
	s.step = func(_ eggs.GroupID, arrow string) {
		for _, percent := range []int{0, 50, 100} {
			crashes = append(crashes, crash{arrow, mem.CrashClone(vfs.CrashCloneCfg{
				UnsyncedDataPercent: percent, RNG: rand.New(rnd),
			})})
		}
		if arrow == "loading" || arrow == "loaded" {
			s.db.Flush()
			crashes = append(crashes, crash{arrow, mem.CrashClone(vfs.CrashCloneCfg{})})
		}
	}
	if err := send(t, from, to); err != nil {
		t.Fatal(err)
	}
	s.step = nil
	s.Close()
	crashes = append(crashes, crash{"removed", mem}) // a removal that was synced, too
	count := map[string]int{}
	for i, c := range crashes {
		count[c.arrow]++
		s := openTestState(t, StateOptions{fs: c.fs})
		g, other := openTestGroup(t, s, 5), openTestGroup(t, s, 6)
		index, hash := g.AppliedIndex(), g.Hash()
		isOld, isNew := index == 500 && hash == old, index == 21000 && hash == want
		if !isOld && !isNew || c.arrow == "received" && !isOld || c.arrow != "received" && !isNew {
			t.Errorf("crash %d at %q: index %d, hash %08x (old %08x, new %08x)", i, c.arrow, index, hash,
				old, want)
		}
		if other.Hash() != otherHash {
			t.Errorf("crash %d at %q: another group changed", i, c.arrow)
		}
		if files, _ := s.fs.List(s.installDir()); len(files) != 0 {
			t.Errorf("crash %d at %q: left behind %v", i, c.arrow, files)
		}
		s.Close()
	}
	for _, arrow := range []string{"received", "marked", "loading", "loaded", "flushed", "removed"} {
		if count[arrow] == 0 {
			t.Errorf("no crash at %q", arrow)
		}
	}
	if count["loading"] < 8 {
		t.Errorf("only %d crashes while loading", count["loading"])
	}
}

// Why: if the file of a marked installation is gone, there is no state, and to say so
// is all that is left.
func TestSnapshotMarkWithoutFile(t *testing.T) {
	mem := vfs.NewCrashableMem()
	s := openTestState(t, StateOptions{fs: mem})
	openTestGroup(t, s, 5).ApplyBatch(putLogs(1, 50))
	mark := makePrefix(5, spaceInstall)
	if err := s.db.Set(mark[:], []byte{1}, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	if n, err := s.replayFrom(5); n != 0 || err != nil {
		t.Errorf("truncation would go up to %d: %v", n, err)
	}
	s.Close()
	s = openTestState(t, StateOptions{fs: mem})
	defer s.Close()
	if _, err := s.Group(5, &putMachine{}); !errors.Is(err, eggs.Corrupt) {
		t.Fatal(err)
	}
}

// Why: if raft does take a snapshot, it removes the log up to an index that may be a barrier's,
// which the state never sees.
func TestSnapshotAdvancesOverBarriers(t *testing.T) {
	mem := vfs.NewCrashableMem()
	s := openTestState(t, StateOptions{fs: mem})
	g := openTestGroup(t, s, 5)
	g.ApplyBatch(putLogs(1, 50))
	snap, _ := g.Snapshot()
	sink, _ := g.Create(1, 53, 9, testConfiguration("a"), 1, nil)
	if err := snap.Persist(sink); err != nil {
		t.Fatal(err)
	}
	hash := g.Hash()
	s2 := openTestState(t, StateOptions{fs: mem.CrashClone(vfs.CrashCloneCfg{})})
	g2 := openTestGroup(t, s2, 5)
	list, _ := g2.List()
	if g2.AppliedIndex() != 53 || list[0].Term != 9 || g2.Hash() != hash {
		t.Fatalf("%d %+v", g2.AppliedIndex(), list[0])
	}
	s.Close()
	s2.Close()
}

// Why: a replica that moved away must leave nothing, and nothing of others must go with it.
func TestStateDrop(t *testing.T) {
	s := openTestState(t, StateOptions{})
	defer s.Close()
	a, b, c := openTestGroup(t, s, 4), openTestGroup(t, s, 5), openTestGroup(t, s, 6)
	for _, g := range []*GroupState{a, b, c} {
		g.ApplyBatch(putLogs(1, 60))
	}
	if _, err := s.Group(5, &putMachine{}); !errors.Is(err, eggs.Exist) {
		t.Errorf("one group opened twice: %v", err)
	}
	if err := b.Drop(); err != nil {
		t.Fatal(err)
	}
	if a.Hash() != c.Hash() || a.AppliedIndex() != 60 {
		t.Error("a neighbour was touched")
	}
	again := openTestGroup(t, s, 5)
	if list, _ := again.List(); len(list) != 0 || again.AppliedIndex() != 0 || again.Hash() != 0 {
		t.Errorf("still there: %v", list)
	}
}

// Why: truncation of 257 groups must not cost 257 flushes.
func TestStateFlushesAreShared(t *testing.T) {
	s := openTestState(t, StateOptions{})
	defer s.Close()
	g := openTestGroup(t, s, 1)
	g.ApplyBatch(putLogs(1, 10))
	s.flushing = true // as if one ran
	done := make(chan error)
	for range 200 {
		go func() { done <- s.Flush() }()
	}
	for waiting := false; !waiting; time.Sleep(10 * time.Millisecond) {
		s.flushMu.Lock()
		waiting = s.flushNext != nil
		s.flushMu.Unlock()
	}
	before := s.db.Metrics().Flush.Count
	s.flushAll()
	for range 200 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n := s.db.Metrics().Flush.Count - before; n > 10 { // some may have come late
		t.Errorf("%d flushes", n)
	}
	start := time.Now()
	for range 100 {
		s.Flush()
	}
	t.Logf("an empty flush takes %v", time.Since(start)/100)
}

// Why: replicas are compared by the hash at an index. The index of one moment with the hash
// of another makes two equal replicas look different.
func TestHashAtIsOfOneMoment(t *testing.T) {
	s := openTestState(t, StateOptions{InMemory: true})
	defer s.Close()
	g := openTestGroup(t, s, 5)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := uint64(1); i <= 3000; i++ {
			g.ApplyBatch(putLogs(i, i))
		}
	}()
	seen := map[uint64]uint32{}
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		index, hash := g.HashAt()
		if first, ok := seen[index]; ok && first != hash {
			t.Fatalf("entry %d has the hashes %08x and %08x", index, first, hash)
		}
		seen[index] = hash
	}
	if len(seen) < 2 || g.AppliedIndex() != 3000 {
		t.Fatalf("saw %d entries, applied %d", len(seen), g.AppliedIndex())
	}
}
