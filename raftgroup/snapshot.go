package raftgroup

import (
	"io"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// The ids by which raft names snapshots to us.
const (
	snapshotLive    = "live"    // the store itself
	snapshotInstall = "install" // the file that a leader sent
)

// List returns the one snapshot that there always is, the store itself: raft.SnapshotStore. At a
// start it tells raft up to where the log is applied.
func (g *GroupState) List() ([]*raft.SnapshotMeta, error) {
	m := g.meta.Load()
	if m.index == 0 || len(m.conf) == 0 {
		return nil, nil
	}
	return []*raft.SnapshotMeta{m.snapshot(snapshotLive, 0)}, nil
}

func (m *stateMeta) snapshot(id string, size int64) *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version:            raft.SnapshotVersionMax,
		ID:                 id,
		Index:              m.index,
		Term:               m.term,
		Configuration:      raft.DecodeConfiguration(m.conf),
		ConfigurationIndex: m.confIndex,
		Size:               size,
	}
}

// Open returns a stream of the group's state as of now, whose size is known, or
// the file that was received: raft.SnapshotStore.
func (g *GroupState) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if id == snapshotInstall {
		return g.openInstall()
	}
	g.views.RLock()
	v := g.s.newView(g.id)
	g.views.RUnlock()
	meta, err := g.s.readMetaFrom(v.src, g.id)
	if err != nil {
		v.Close()
		return nil, nil, err
	}
	if meta.index == 0 || len(meta.conf) == 0 {
		v.Close()
		return nil, nil, eggs.E("raftgroup.GroupState.Open", eggs.NotExist, "nothing was applied yet")
	}
	r, err := newSnapshotStream(v, g.id, meta)
	if err != nil {
		v.Close()
		return nil, nil, err
	}
	return meta.snapshot(snapshotLive, r.size), r, nil
}

// Create begins a snapshot: raft.SnapshotStore. raft calls it before Persist, which writes
// nothing, and before it writes what a leader sends.
func (g *GroupState) Create(_ raft.SnapshotVersion, index, term uint64, conf raft.Configuration,
	confIndex uint64, _ raft.Transport,
) (raft.SnapshotSink, error) {
	return &snapshotSink{g: g, meta: stateMeta{
		index: index, term: term, confIndex: confIndex,
		conf: raft.EncodeConfiguration(conf),
	}}, nil
}

// Snapshot is raft.FSM. The store is the snapshot, once it is flushed.
func (g *GroupState) Snapshot() (raft.FSMSnapshot, error) { return liveSnapshot{g}, nil }

type liveSnapshot struct{ g *GroupState }

// Persist makes the store durable up to the snapshot's index: raft may remove the log up to
// there. The last entries may be of types that never reach the store, so its index is moved
// first.
func (s liveSnapshot) Persist(sink raft.SnapshotSink) error {
	own, ok := sink.(*snapshotSink)
	if !ok {
		return eggs.E("raftgroup.GroupState.Persist", eggs.Invalid, "a sink of another store")
	}
	s.g.advance(own.meta.index, own.meta.term)
	if err := s.g.s.Flush(); err != nil {
		return err
	}
	return sink.Close()
}

func (s liveSnapshot) Release() {}

// advance moves the applied index over entries that never reach the state.
func (g *GroupState) advance(index, term uint64) {
	g.apply.Lock()
	defer g.apply.Unlock()
	meta := *g.meta.Load()
	if index <= meta.index {
		return
	}
	meta.index, meta.term = index, term
	tx := stateTxs.Get().(*stateTx)
	tx.begin(g.s, g.id)
	g.write(tx, &meta)
	tx.end()
	stateTxs.Put(tx)
}
