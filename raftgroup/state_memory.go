package raftgroup

import (
	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// MemoryState runs a Machine without Raft, on a store in memory: for tests of machines.
// What it does with an entry is what a node does with it. One goroutine may use it.
type MemoryState struct {
	id    eggs.GroupID
	state *State
	group *GroupState
	index uint64
}

// NewMemoryState returns an empty state of the group with m on top. Faults panic.
func NewMemoryState(id eggs.GroupID, m Machine) *MemoryState {
	s, err := OpenState("", StateOptions{InMemory: true})
	if err != nil {
		panic(err)
	}
	ms := &MemoryState{id: id, state: s}
	ms.open(m)
	return ms
}

func (ms *MemoryState) open(m Machine) {
	g, err := ms.state.Group(ms.id, m)
	if err != nil {
		panic(err)
	}
	ms.group, ms.index = g, g.AppliedIndex()
}

// Apply applies one entry with the next index and returns the machine's answer.
func (ms *MemoryState) Apply(data []byte) any { return ms.ApplyBatch(data)[0] }

// ApplyBatch applies entries as a node does that got them together: in one
// write to the store, each seeing the ones before it.
func (ms *MemoryState) ApplyBatch(data ...[]byte) []any {
	logs := make([]*raft.Log, len(data))
	for i, d := range data {
		ms.index++
		logs[i] = &raft.Log{Index: ms.index, Term: 1, Type: raft.LogCommand, Data: d}
	}
	return ms.group.ApplyBatch(logs)
}

// Index returns the index of the last entry applied.
func (ms *MemoryState) Index() uint64 { return ms.index }

// View returns the state as of now, to be closed.
func (ms *MemoryState) View() View { return ms.group.View() }

// Hash returns a checksum of all keys and values, to compare with another machine's.
func (ms *MemoryState) Hash() uint32 { return ms.group.Hash() }

// Reopen puts a new machine on the same keys, as a restart of the node does.
func (ms *MemoryState) Reopen(m Machine) {
	ms.state.forget(ms.id)
	ms.open(m)
}

// Close frees the memory.
func (ms *MemoryState) Close() {
	if err := ms.state.Close(); err != nil {
		panic(err)
	}
}
