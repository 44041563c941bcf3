package raftgroup

import (
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// replay does what raft does at a start: it applies what the log has behind the state.
func replay(t *testing.T, gl *GroupLog, gs *GroupState) {
	t.Helper()
	if err := gs.Attach(gl); err != nil {
		t.Fatal(err)
	}
	last, _ := gl.LastIndex()
	for i := gs.AppliedIndex() + 1; i <= last; i++ {
		var l raft.Log
		if err := gl.GetLog(i, &l); err != nil {
			t.Fatalf("group %v index %d: %v", gl.id, i, err)
		}
		gs.ApplyBatch([]*raft.Log{&l})
	}
}

// Why: truncation is the one thing that removes what was acknowledged. After each round of it
// the power goes, all that was not fsynced is lost, and log and state together must still give
// every group's state, also for a group that has been idle since the beginning.
func TestTruncateLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.log")
	mem := vfs.NewCrashableMem()
	l := openTestLog(t, path, LogOptions{noSync: true})
	s := openTestState(t, StateOptions{fs: mem})
	const groups = 6
	next := [groups]uint64{}
	var gs [groups]*GroupState
	open := func() {
		for i := range gs {
			gs[i] = openTestGroup(t, s, eggs.GroupID(i))
		}
	}
	open()
	model := openTestState(t, StateOptions{})
	defer model.Close()
	var want [groups]*GroupState
	for i := range want {
		want[i] = openTestGroup(t, model, eggs.GroupID(i))
	}
	limits := TruncateLimits{Limit: 100_000, Tail: 30_000}
	var freed int64
	for round := range 12 {
		for n := range 60 {
			for i := range groups {
				if i == 0 && round > 0 || i == 1 && n > 0 {
					continue // one group idles from the start, one is written to rarely
				}
				logs := putLogs(next[i]+1, next[i]+4)
				if err := l.Group(eggs.GroupID(i)).StoreLogs(logs); err != nil {
					t.Fatal(err)
				}
				next[i] += 4
				want[i].ApplyBatch(logs)
				if round%2 == 0 || i != 2 { // one applies late
					replay(t, l.Group(eggs.GroupID(i)), gs[i])
				}
			}
		}
		n, err := MaybeTruncate(l, s, limits)
		if err != nil {
			t.Fatal(err)
		}
		freed += n
		if round%3 == 1 {
			l.Close()
			old := s
			mem = mem.CrashClone(vfs.CrashCloneCfg{})
			l, s = openTestLog(t, path, LogOptions{noSync: true, MustExist: true}), openTestState(t, StateOptions{fs: mem})
			old.Close()
			open()
		}
		for i := range groups {
			gl := l.Group(eggs.GroupID(i))
			if last, _ := gl.LastIndex(); last != next[i] {
				t.Fatalf("round %d group %d: last %d, want %d", round, i, last, next[i])
			}
			replay(t, gl, gs[i])
			if gs[i].Hash() != want[i].Hash() {
				t.Fatalf("round %d group %d: another state", round, i)
			}
		}
	}
	if freed == 0 || l.Bytes() > 2*limits.Limit {
		t.Errorf("freed %d, left %d", freed, l.Bytes())
	}
	l.Close()
	s.Close()
}

// Why: a state store that was lost, or put back from a copy, with a log that has moved on, must be
// noticed before raft panics over it or, worse, does not.
func TestStateBehindLog(t *testing.T) {
	l := openTestLog(t, filepath.Join(t.TempDir(), "raft.log"), LogOptions{noSync: true})
	defer l.Close()
	s := openTestState(t, StateOptions{})
	defer s.Close()
	g := openTestGroup(t, s, 3)
	if err := l.Group(3).StoreLogs(putLogs(10, 20)); err != nil {
		t.Fatal(err)
	}
	if err := g.Attach(l.Group(3)); eggs.KindOf(err) != eggs.Corrupt {
		t.Error(err)
	}
	g.ApplyBatch(putLogs(1, 9))
	if err := g.Attach(l.Group(3)); err != nil {
		t.Error(err)
	}
}

// raftNode is a member of a group with hashicorp/raft itself on top of this room's stores.
type raftNode struct {
	name  string
	path  string
	log   *Log
	state *State
	group *GroupState
	raft  *raft.Raft
	trans *raft.InmemTransport
	up    bool
}

func (n *raftNode) start(t *testing.T, mem vfs.FS) {
	t.Helper()
	n.log = openTestLog(t, n.path, LogOptions{noSync: true})
	n.state = openTestState(t, StateOptions{fs: mem})
	n.group = openTestGroup(t, n.state, 9)
	if err := n.group.Attach(n.log.Group(9)); err != nil {
		t.Fatal(err)
	}
	_, n.trans = raft.NewInmemTransportWithTimeout(raft.ServerAddress(n.name), 200*time.Millisecond)
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(n.name)
	c.HeartbeatTimeout, c.ElectionTimeout = 100*time.Millisecond, 100*time.Millisecond
	c.LeaderLeaseTimeout, c.CommitTimeout = 80*time.Millisecond, 5*time.Millisecond
	c.SnapshotThreshold, c.SnapshotInterval = 1<<40, time.Hour
	c.NoSnapshotRestoreOnStart, c.BatchApplyCh = true, true
	c.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Off, Output: io.Discard})
	var err error
	gl := n.log.Group(9)
	n.raft, err = raft.NewRaft(c, n.group, gl, gl, n.group, n.trans)
	if err != nil {
		t.Fatal(err)
	}
	n.up = true
}

func (n *raftNode) stop(t *testing.T) {
	t.Helper()
	if !n.up {
		return
	}
	n.up = false
	if err := n.raft.Shutdown().Error(); err != nil {
		t.Fatal(err)
	}
	n.log.Close()
	n.state.Close()
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(40 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

type raftTrio []*raftNode

func newRaftTrio(t *testing.T) raftTrio {
	t.Helper()
	var trio raftTrio
	conf := testConfiguration("a", "b", "c")
	for _, s := range conf.Servers {
		n := &raftNode{name: string(s.ID), path: filepath.Join(t.TempDir(), "raft.log")}
		n.start(t, vfs.NewMem())
		t.Cleanup(func() { n.stop(t) })
		trio = append(trio, n)
	}
	trio.connect(trio...)
	if err := trio[0].raft.BootstrapCluster(conf).Error(); err != nil {
		t.Fatal(err)
	}
	return trio
}

func (trio raftTrio) connect(nodes ...*raftNode) {
	for _, a := range nodes {
		for _, b := range nodes {
			if a != b {
				a.trans.Connect(b.trans.LocalAddr(), b.trans)
			}
		}
	}
}

func (trio raftTrio) leader(t *testing.T, among ...*raftNode) *raftNode {
	t.Helper()
	var found *raftNode
	eventually(t, "a leader", func() bool {
		for _, n := range among {
			if n.raft.State() == raft.Leader && n.raft.VerifyLeader().Error() == nil {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

func propose(t *testing.T, n *raftNode, count int) {
	t.Helper()
	var last raft.ApplyFuture
	for i := range count {
		last = n.raft.Apply(binary.BigEndian.AppendUint32(nil, uint32(i*7919)), time.Second)
	}
	if err := last.Error(); err != nil {
		t.Fatal(err)
	}
}

func (trio raftTrio) agree(t *testing.T, nodes ...*raftNode) {
	t.Helper()
	what := "equal states:"
	for _, n := range nodes {
		what += fmt.Sprintf(" %s %v", n.name, n.raft.Stats())
	}
	eventually(t, what, func() bool {
		for _, n := range nodes[1:] {
			if n.group.AppliedIndex() != nodes[0].group.AppliedIndex() || n.group.Hash() != nodes[0].group.Hash() {
				return false
			}
		}
		return true
	})
}

// Why: raft must get along with a log that is truncated behind its back: a follower that missed
// what is gone gets the store as a snapshot, restarts find their place, and what was done
// meanwhile is everywhere.
func TestRaftTruncatedBehindItsBack(t *testing.T) {
	trio := newRaftTrio(t)
	leader := trio.leader(t, trio...)
	propose(t, leader, 300)
	trio.agree(t, trio...)
	var away *raftNode
	var here []*raftNode
	for _, n := range trio {
		if n != leader && away == nil {
			away = n
		} else {
			here = append(here, n)
		}
	}
	away.stop(t)
	propose(t, leader, 500)
	trio.agree(t, here...)
	for _, n := range here {
		if freed, err := MaybeTruncate(n.log, n.state, TruncateLimits{Limit: 1, Tail: 1}); err != nil || freed == 0 {
			t.Fatal(freed, err)
		}
		if first, _ := n.log.Group(9).FirstIndex(); first < 700 {
			t.Fatalf("the log still begins at %d", first)
		}
	}
	propose(t, leader, 20) // the follower that is here goes on from the entry that was kept
	away.start(t, away.state.fs)
	trio.connect(trio...)
	trio.agree(t, trio...)
	propose(t, leader, 1)
	trio.agree(t, trio...)
	if first, _ := away.log.Group(9).FirstIndex(); first < 700 {
		t.Errorf("the follower got entries from %d on, not a snapshot", first)
	}
	for _, n := range trio {
		n.stop(t)
		n.start(t, n.state.fs)
	}
	trio.connect(trio...)
	propose(t, trio.leader(t, trio...), 20)
	trio.agree(t, trio...)
}

// Why: a deposed leader may have more entries than the new one, none of them committed, when it
// needs a snapshot. Its log then ends behind the snapshot, with entries that are void.
func TestRaftSnapshotBeforeStaleEntries(t *testing.T) {
	trio := newRaftTrio(t)
	old := trio.leader(t, trio...)
	propose(t, old, 50)
	trio.agree(t, trio...)
	var rest []*raftNode
	for _, n := range trio {
		if n != old {
			rest = append(rest, n)
		}
	}
	old.trans.DisconnectAll()
	for _, n := range rest {
		n.trans.Disconnect(old.trans.LocalAddr())
	}
	for i := range 100 { // nobody hears of these
		old.raft.Apply(binary.BigEndian.AppendUint32(nil, uint32(i)), time.Second)
	}
	leader := trio.leader(t, rest...)
	propose(t, leader, 10)
	trio.agree(t, rest...)
	for _, n := range rest {
		if _, err := MaybeTruncate(n.log, n.state, TruncateLimits{Limit: 1, Tail: 1}); err != nil {
			t.Fatal(err)
		}
	}
	last, _ := old.log.Group(9).LastIndex()
	if applied := leader.group.AppliedIndex(); last <= applied+10 {
		t.Fatalf("the old leader has %d entries, the new one applied %d", last, applied)
	}
	var installs atomic.Int32
	old.state.step = func(_ eggs.GroupID, arrow string) {
		if arrow == "removed" {
			installs.Add(1)
		}
	}
	trio.connect(trio...)
	trio.agree(t, trio...)
	for range 5 {
		propose(t, trio.leader(t, trio...), 5)
		trio.agree(t, trio...)
	}
	if n := installs.Load(); n != 1 {
		t.Errorf("%d snapshots were sent", n)
	}
}
