package raftgroup

import (
	"github.com/hashicorp/raft"
)

// Settle tells the log that the state holds, durably, everything up to the entry at index, which
// has the term. It is called at a start and after a snapshot was installed.
//
// A log that has that very entry is left alone: what is before it is what was applied. Otherwise
// its entries up to index are of a history that was never committed, or end before the snapshot,
// and are voided. Entries after index stay although they are void too. raft believes in them
// until a leader's entries contradict them one by one, and it asks for the term of the entry
// before those: so GetLog answers for index with its term. Without that answer a deposed leader
// with more entries than its successor would be sent one snapshot after the other.
func (g *GroupLog) Settle(index, term uint64) error {
	if index == 0 {
		return nil
	}
	var l raft.Log
	err := g.GetLog(index, &l)
	if err != nil && err != raft.ErrLogNotFound {
		return err
	}
	g.mu.Lock()
	g.settled, g.settledTerm = index, term
	first := g.first
	empty := len(g.pos) == 0
	g.mu.Unlock()
	if err == nil && l.Term == term || empty || first > index {
		return nil
	}
	return g.DeleteRange(first, index)
}

// answerSettled answers for the entry that was settled on, if the log begins just after it or is
// empty. raft asks for its term only: to send what the entry holds it would have to ask for the
// one before, too, and gets a snapshot instead. It is for holders of mu.
func (g *GroupLog) answerSettled(index uint64, l *raft.Log) bool {
	if index != g.settled || index < 2 || len(g.pos) > 0 && g.first != index+1 {
		return false
	}
	*l = raft.Log{Index: index, Term: g.settledTerm, Type: raft.LogNoop}
	return true
}
