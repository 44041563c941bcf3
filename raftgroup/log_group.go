package raftgroup

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// GroupLog is the log, term and vote of one group in the node's log file: its raft.LogStore
// and raft.StableStore. What a method has reported as done is durable, with the
// one exception that LastVoteTerm waits for LastVoteCand.
type GroupLog struct {
	log *Log
	id  eggs.GroupID

	mu    sync.RWMutex
	first uint64   // index of the entry at pos[0]
	pos   []uint64 // where the entries are: sequence << 1 | whether it reaches the state

	term, termSeq     uint64 // CurrentTerm, and where it is; 0: never set
	voteTerm, voteSeq uint64
	voteFor           []byte
	votePending       uint64 // LastVoteTerm that waits for its LastVoteCand

	settled, settledTerm uint64 // see Settle

	recent      []*raft.Log // the newest entries, without a gap
	recentFirst uint64      // index of recent[0]
}

// FirstIndex returns the index of the oldest entry, 0 if there is none.
func (g *GroupLog) FirstIndex() (uint64, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if len(g.pos) == 0 {
		return 0, nil
	}
	return g.first, nil
}

// LastIndex returns the index of the newest entry, 0 if there is none.
func (g *GroupLog) LastIndex() (uint64, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.last(), nil
}

// last is for holders of mu.
func (g *GroupLog) last() uint64 {
	if len(g.pos) == 0 {
		return 0
	}
	return g.first + uint64(len(g.pos)) - 1
}

// has is for holders of mu.
func (g *GroupLog) has(index uint64) bool {
	return len(g.pos) > 0 && index >= g.first && index-g.first < uint64(len(g.pos))
}

// StateIndex returns the greatest index up to limit whose entry reaches the state machine. Once
// GroupState.AppliedIndex is there, all that was committed up to limit is applied.
func (g *GroupLog) StateIndex(limit uint64) uint64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	i := min(limit, g.last())
	for ; g.has(i); i-- {
		if g.pos[i-g.first]&1 != 0 {
			return i
		}
	}
	return i // what is below the log has been applied
}

// GetLog reads the entry at index into l, whose Data must not be changed. It returns
// raft.ErrLogNotFound if there is none.
func (g *GroupLog) GetLog(index uint64, l *raft.Log) error {
	for {
		g.mu.RLock()
		if !g.has(index) {
			ok := g.answerSettled(index, l)
			g.mu.RUnlock()
			if ok {
				return nil
			}
			return raft.ErrLogNotFound
		}
		if index >= g.recentFirst && index-g.recentFirst < uint64(len(g.recent)) {
			*l = *g.recent[index-g.recentFirst]
			g.mu.RUnlock()
			return nil
		}
		at := g.pos[index-g.first]
		g.mu.RUnlock()
		err := g.log.read(g.id, index, at>>1, l)
		if err == nil {
			return nil
		}
		g.mu.RLock()
		moved := !g.has(index) || g.pos[index-g.first] != at
		g.mu.RUnlock()
		if g.log.isClosed() {
			return g.log.closedError(eggs.Unavailable)
		}
		if !moved {
			return g.log.die("raftgroup.GroupLog.GetLog", err)
		}
	}
}

// StoreLog appends one entry.
func (g *GroupLog) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

// StoreLogs appends entries. The group's entries from the first one's index on become void, and
// all of them if there would be a gap. The entries are kept for readers: neither they nor the
// memory of their Data may be used again.
func (g *GroupLog) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	w := &logWrite{group: g, recs: make([]raft.Log, len(logs)), entries: logs}
	for i, l := range logs {
		w.recs[i] = *l
		tagRecord(&w.recs[i], recordEntry, g.id, l.Index)
	}
	return g.log.submit(w)
}

// DeleteRange voids entries at either end of the log.
func (g *GroupLog) DeleteRange(low, high uint64) error {
	g.mu.RLock()
	first, last := g.first, g.last()
	g.mu.RUnlock()
	switch {
	case last == 0 || high < first || low > last || low > high:
		return nil
	case low <= first:
		return g.log.submit(g.markWrite(recordPrefix, high+1))
	case high >= last:
		return g.log.submit(g.markWrite(recordSuffix, low))
	}
	return eggs.E("raftgroup.GroupLog.DeleteRange", eggs.Invalid, "a hole in a log")
}

// Drop voids all entries, for a replica that this node no longer has. Term and vote stay: if
// the replica comes back, it must not vote twice.
func (g *GroupLog) Drop() error {
	g.mu.RLock()
	last := g.last()
	g.mu.RUnlock()
	if last == 0 {
		return nil
	}
	return g.log.submit(g.markWrite(recordPrefix, last+1))
}

func (g *GroupLog) markWrite(kind recordKind, index uint64) *logWrite {
	w := &logWrite{group: g, recs: make([]raft.Log, 1)}
	tagRecord(&w.recs[0], kind, g.id, index)
	return w
}

// The keys that hashicorp/raft uses.
const (
	keyTerm     = "CurrentTerm"
	keyVoteTerm = "LastVoteTerm"
	keyVoteFor  = "LastVoteCand"
)

var errStableKey = errors.New("raft uses three keys, and this is none of them")

// SetUint64 sets CurrentTerm, or the first half of a vote.
//
// raft sets LastVoteTerm and then LastVoteCand, and grants the vote when both calls have
// returned. So the first is only remembered, and the second writes both as one record: they cost
// one commit, and a crash leaves the old pair or the new one. CurrentTerm is a write of its own,
// since raft acts in a term, without a vote in it, as soon as it is set.
func (g *GroupLog) SetUint64(key []byte, value uint64) error {
	switch string(key) {
	case keyTerm:
		g.mu.RLock()
		same := g.termSeq != 0 && g.term == value
		g.mu.RUnlock()
		if same { // is durable already; raft sets it anew at every start
			return nil
		}
		return g.log.submit(g.stableWrite(stableTerm, value, nil))
	case keyVoteTerm:
		g.mu.Lock()
		g.votePending = value
		g.mu.Unlock()
		return nil
	}
	return &eggs.Error{
		Op: "raftgroup.GroupLog.Set", Name: string(key), Kind: eggs.Unsupported,
		Err: errStableKey,
	}
}

// Set sets LastVoteCand, and with it LastVoteTerm.
func (g *GroupLog) Set(key, value []byte) error {
	if string(key) != keyVoteFor {
		return &eggs.Error{
			Op: "raftgroup.GroupLog.Set", Name: string(key), Kind: eggs.Unsupported,
			Err: errStableKey,
		}
	}
	g.mu.Lock()
	term := g.votePending
	g.votePending = 0
	g.mu.Unlock()
	if term == 0 {
		return eggs.E("raftgroup.GroupLog.Set", eggs.Invalid, "a vote without its term")
	}
	return g.log.submit(g.stableWrite(stableVote, term, value))
}

func (g *GroupLog) stableWrite(key stableKey, term uint64, rest []byte) *logWrite {
	w := &logWrite{group: g, recs: make([]raft.Log, 1)}
	w.recs[0].Data = stableData(term, rest)
	tagRecord(&w.recs[0], recordStable, g.id, uint64(key))
	return w
}

func stableData(term uint64, rest []byte) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(rest)), term), rest...)
}

// GetUint64 returns CurrentTerm or LastVoteTerm, 0 if it was never set.
func (g *GroupLog) GetUint64(key []byte) (uint64, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	switch string(key) {
	case keyTerm:
		return g.term, nil
	case keyVoteTerm:
		return g.voteTerm, nil
	}
	return 0, nil
}

// Get returns LastVoteCand, nil if it was never set.
func (g *GroupLog) Get(key []byte) ([]byte, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if string(key) != keyVoteFor {
		return nil, nil
	}
	return slices.Clone(g.voteFor), nil
}

// replay takes note of one record, in the order of their sequence numbers. It is for holders of mu.
func (g *GroupLog) replay(m *recordMark, sequence uint64) {
	switch m.kind {
	case recordEntry:
		if g.has(m.index) {
			g.pos = g.pos[:m.index-g.first]
		} else if len(g.pos) == 0 || m.index != g.last()+1 {
			g.first, g.pos = m.index, g.pos[:0]
		}
		if len(g.pos) == 0 {
			g.first = m.index
		}
		at := sequence << 1
		if m.state {
			at |= 1
		}
		g.pos = append(g.pos, at)
		g.forgetFrom(m.index)
	case recordSuffix:
		switch {
		case m.index <= g.first:
			g.pos = g.pos[:0]
		case g.has(m.index):
			g.pos = g.pos[:m.index-g.first]
		}
		g.forgetFrom(m.index)
	case recordPrefix:
		switch {
		case g.has(m.index):
			g.dropBelow(int(m.index - g.first))
		case m.index > g.last():
			g.dropBelow(len(g.pos))
		}
	case recordStable:
		g.replayStable(m, sequence)
	}
}

func (g *GroupLog) replayStable(m *recordMark, sequence uint64) {
	term := binary.BigEndian.Uint64(m.data)
	switch stableKey(m.index) {
	case stableTerm:
		g.term, g.termSeq = term, sequence
	case stableVote:
		g.voteTerm, g.voteFor, g.voteSeq = term, slices.Clone(m.data[8:]), sequence
	}
}

// dropBelow forgets the n oldest entries. It is for holders of mu.
func (g *GroupLog) dropBelow(n int) {
	g.pos, g.first = g.pos[n:], g.first+uint64(n)
	if cap(g.pos) > 4*len(g.pos)+1024 {
		g.pos = slices.Clone(g.pos)
	}
	if skip := int(min(g.first-min(g.first, g.recentFirst), uint64(len(g.recent)))); skip > 0 {
		clear(g.recent[:skip])
		g.recent, g.recentFirst = g.recent[skip:], g.recentFirst+uint64(skip)
	}
}
