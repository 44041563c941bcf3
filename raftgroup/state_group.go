package raftgroup

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// stateMeta is what the store knows of a group's log. It is written in the same batch as the
// entries' effects, and never changed in place.
type stateMeta struct {
	index, term uint64 // of the last command or configuration that was applied
	confIndex   uint64 // of the last configuration among those
	conf        []byte // that configuration, as raft.EncodeConfiguration makes it
}

const stateMetaVersion = 1

func (m *stateMeta) encode() []byte {
	b := make([]byte, 0, 25+len(m.conf))
	b = append(b, stateMetaVersion)
	b = binary.BigEndian.AppendUint64(b, m.index)
	b = binary.BigEndian.AppendUint64(b, m.term)
	b = binary.BigEndian.AppendUint64(b, m.confIndex)
	return append(b, m.conf...)
}

func decodeMeta(b []byte) (*stateMeta, error) {
	if len(b) < 25 || b[0] != stateMetaVersion {
		return nil, fmt.Errorf("meta record of %d bytes, format %v, want %d", len(b), b[:min(len(b), 1)],
			stateMetaVersion)
	}
	return &stateMeta{
		index:     binary.BigEndian.Uint64(b[1:]),
		term:      binary.BigEndian.Uint64(b[9:]),
		confIndex: binary.BigEndian.Uint64(b[17:]),
		conf:      append([]byte(nil), b[25:]...),
	}, nil
}

// GroupState is the state of one group in the node's store. It is the group's raft.BatchingFSM,
// raft.ConfigurationStore and raft.SnapshotStore. With it, raft.Config must have
// NoSnapshotRestoreOnStart set: the state is there already.
type GroupState struct {
	s       *State
	id      eggs.GroupID
	machine Machine
	meta    atomic.Pointer[stateMeta]

	// apply is held by whoever changes the state: raft's goroutine for entries and its
	// goroutine for snapshots.
	apply sync.Mutex

	// views is held for reading while a view is made, for writing while a
	// snapshot is being loaded, when the store holds neither state.
	views sync.RWMutex

	install installState
	log     *GroupLog // nil until Attach
}

// What raft asks of a group's state.
var (
	_ raft.BatchingFSM        = (*GroupState)(nil)
	_ raft.ConfigurationStore = (*GroupState)(nil)
	_ raft.SnapshotStore      = (*GroupState)(nil)
	_ raft.LogStore           = (*GroupLog)(nil)
	_ raft.StableStore        = (*GroupLog)(nil)
)

// stateTxs lends transactions: an idle group keeps none.
var stateTxs = sync.Pool{New: func() any { return new(stateTx) }}

// Group returns the state of the group, and tells the machine what is there. An installation
// of a snapshot that a crash cut off is repeated first. It may be called once for a group.
//
// It fails with Kind Corrupt if what is there can't be understood.
func (s *State) Group(id eggs.GroupID, m Machine) (*GroupState, error) {
	g := &GroupState{s: s, id: id, machine: m}
	s.mu.Lock()
	if s.groups[id] != nil {
		s.mu.Unlock()
		return nil, eggs.E("raftgroup.State.Group", eggs.Exist, "group "+id.String())
	}
	s.groups[id] = g
	s.mu.Unlock()
	if err := g.load(); err != nil {
		s.forget(id)
		return nil, err
	}
	v := s.newView(id)
	defer v.Close()
	m.Restored(v)
	return g, nil
}

func (s *State) forget(id eggs.GroupID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.groups, id)
}

// load finishes what a crash cut off and reads the meta record.
func (g *GroupState) load() error {
	if err := g.resume(); err != nil {
		return err
	}
	m, err := g.s.readMetaFrom(g.s.db, g.id)
	if err != nil {
		return err
	}
	g.meta.Store(m)
	return nil
}

// readMetaFrom returns the group's meta record, a zero one if there is none.
func (s *State) readMetaFrom(src stateSource, id eggs.GroupID) (*stateMeta, error) {
	key := makePrefix(id, spaceMeta)
	b, ok, err := sourceGet(src, key[:])
	switch {
	case err != nil:
		return nil, s.fault("raftgroup.State.Group", err)
	case !ok:
		return &stateMeta{}, nil
	}
	m, err := decodeMeta(b)
	if err != nil {
		return nil, &eggs.Error{
			Op: "raftgroup.State.Group", Name: s.dir, Kind: eggs.Corrupt,
			Err: fmt.Errorf("group %v: %w", id, err),
		}
	}
	return m, nil
}

// AppliedIndex returns the index of the last command or configuration that was applied. Entries
// of other types never reach the state: to wait for index i, wait for GroupLog.StateIndex(i).
func (g *GroupState) AppliedIndex() uint64 { return g.meta.Load().index }

// View returns the state as of now. While a snapshot is being loaded it waits.
func (g *GroupState) View() View {
	g.views.RLock()
	defer g.views.RUnlock()
	return g.s.newView(g.id)
}

// Hash returns a checksum of the machine's keys and values. Replicas at the
// same index have the same.
func (g *GroupState) Hash() uint32 {
	_, hash := g.HashAt()
	return hash
}

// HashAt returns the checksum together with the applied index that it is of.
func (g *GroupState) HashAt() (index uint64, hash uint32) {
	g.views.RLock()
	v := g.s.newView(g.id)
	g.views.RUnlock()
	defer v.Close()
	m, err := g.s.readMetaFrom(v.src, g.id)
	if err != nil {
		g.s.die("raftgroup.GroupState.Hash", err)
	}
	return m.index, hashKeys(v)
}

// Apply applies one command: raft.FSM.
func (g *GroupState) Apply(l *raft.Log) any { return g.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies commands and configurations in one write to the store: raft.BatchingFSM.
// What was applied before is passed over.
func (g *GroupState) ApplyBatch(logs []*raft.Log) []any {
	g.apply.Lock()
	defer g.apply.Unlock()
	answers := make([]any, len(logs))
	meta := *g.meta.Load()
	tx := stateTxs.Get().(*stateTx)
	tx.begin(g.s, g.id)
	for i, l := range logs {
		if l.Index <= meta.index {
			continue
		}
		switch l.Type {
		case raft.LogCommand:
			answers[i] = g.machine.Apply(tx,
				Entry{Group: g.id, Index: l.Index, Term: l.Term, Data: l.Data})
			tx.over.keep()
		case raft.LogConfiguration:
			meta.conf, meta.confIndex = append([]byte(nil), l.Data...), l.Index
		}
		meta.index, meta.term = l.Index, l.Term
	}
	g.write(tx, &meta)
	tx.end()
	stateTxs.Put(tx)
	return answers
}

// StoreConfiguration is raft.ConfigurationStore: raft calls it in place of ApplyBatch when it
// does not batch, and does not tell the term.
func (g *GroupState) StoreConfiguration(index uint64, c raft.Configuration) {
	g.apply.Lock()
	defer g.apply.Unlock()
	meta := *g.meta.Load()
	if index <= meta.index {
		return
	}
	meta.conf, meta.confIndex, meta.index = raft.EncodeConfiguration(c), index, index
	var l raft.Log
	if g.log != nil && g.log.GetLog(index, &l) == nil {
		meta.term = l.Term
	}
	tx := stateTxs.Get().(*stateTx)
	tx.begin(g.s, g.id)
	g.write(tx, &meta)
	tx.end()
	stateTxs.Put(tx)
}

// write puts the overlay and the meta record into the store at once.
func (g *GroupState) write(tx *stateTx, meta *stateMeta) {
	if meta.index == g.meta.Load().index {
		return
	}
	b := g.s.db.NewBatch()
	for i := range tx.over.ops {
		op := &tx.over.ops[i]
		tx.key = append(append(tx.key[:0], tx.prefix[:]...), op.key...)
		var err error
		switch op.state {
		case overlaySet:
			err = b.Set(tx.key, op.value, nil)
		case overlayDeleted:
			err = b.Delete(tx.key, nil)
		}
		if err != nil {
			g.s.die("raftgroup.GroupState.Apply", err)
		}
	}
	if err := g.putMeta(b, meta); err != nil {
		g.s.die("raftgroup.GroupState.Apply", err)
	}
	if err := g.s.db.Apply(b, pebble.NoSync); err != nil {
		g.s.die("raftgroup.GroupState.Apply", err)
	}
	g.meta.Store(meta)
	b.Close()
}

func (g *GroupState) putMeta(b *pebble.Batch, meta *stateMeta) error {
	key := makePrefix(g.id, spaceMeta)
	return b.Set(key[:], meta.encode(), nil)
}

// Drop removes the group from the store, durably. Its raft must have stopped, and its log
// must have been dropped before: a log that begins above an empty state would be
// taken for a loss. The GroupState is of no use afterwards.
func (g *GroupState) Drop() error {
	g.apply.Lock()
	defer g.apply.Unlock()
	g.views.Lock()
	defer g.views.Unlock()
	lo, hi := makePrefix(g.id, spaceMeta), makePrefix(g.id, spaceEnd)
	if err := g.s.db.DeleteRange(lo[:], hi[:], pebble.NoSync); err != nil {
		return g.s.fault("raftgroup.GroupState.Drop", err)
	}
	if err := g.s.Flush(); err != nil {
		return err
	}
	g.meta.Store(&stateMeta{})
	g.s.forget(g.id)
	return nil
}
