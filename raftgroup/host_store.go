package raftgroup

import (
	"path/filepath"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// store is what a node keeps on its disk for all groups.
type store struct {
	state *State
}

func openStore(c *Config) (*store, error) {
	state, err := OpenState(filepath.Join(c.Dir, "state"), StateOptions{
		InMemory: c.InMemory, Logger: c.Logger, Fatal: c.Fatal,
	})
	if err != nil {
		return nil, err
	}
	return &store{state: state}, nil
}

func (s *store) close() error { return s.state.Close() }

// replica is one group's part of the store.
type replica struct {
	logs   raft.LogStore
	stable raft.StableStore
	snaps  raft.SnapshotStore
	state  *GroupState
}

func (s *store) replica(id eggs.GroupID, m Machine) (*replica, error) {
	state, err := s.state.Group(id, m)
	if err != nil {
		return nil, err
	}
	mem := raft.NewInmemStore()
	return &replica{logs: mem, stable: mem, snaps: raft.NewDiscardSnapshotStore(), state: state}, nil
}

func (r *replica) drop() error { return r.state.Drop() }

// stateIndex returns the greatest index up to limit whose entry reaches the state.
func (r *replica) stateIndex(limit uint64) uint64 {
	for i := limit; i > 0; i-- {
		var l raft.Log
		if r.logs.GetLog(i, &l) != nil {
			return i
		}
		if l.Type == raft.LogCommand || l.Type == raft.LogConfiguration {
			return i
		}
	}
	return 0
}
