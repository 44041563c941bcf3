package raftgroup

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// What raft says, as bodies of frames. Who says it is known from the
// connection and never read from a body.

// speaker is one node's name in raft's words.
type speaker struct {
	id     raft.ServerID
	header raft.RPCHeader
}

func serverID(n eggs.NodeID) raft.ServerID { return raft.ServerID(n.String()) }

// nodeOf is the reverse of serverID; 0 for what is not a node.
func nodeOf(id raft.ServerID) eggs.NodeID {
	n, err := eggs.ParseNodeID(string(id))
	if err != nil {
		return 0
	}
	return n
}

func newSpeaker(n eggs.NodeID) speaker {
	name := []byte(n.String())
	return speaker{
		id: raft.ServerID(name),
		header: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: name, Addr: name,
		},
	}
}

// entryOverhead is the bytes of an entry in a frame beside data and extensions.
const entryOverhead = 8 + 1 + 8 + 4 + 4

func entrySize(l *raft.Log) int { return entryOverhead + len(l.Data) + len(l.Extensions) }

// appendAppend writes u64 term, previous index, previous term, commit; u32 count;
// then of each entry u64 term, u8 type, i64 time, sized data, sized extensions.
// Entry i has the index previous + 1 + i.
func appendAppend(b []byte, a *raft.AppendEntriesRequest) []byte {
	b = appendU64(b, a.Term, a.PrevLogEntry, a.PrevLogTerm, a.LeaderCommitIndex)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(a.Entries)))
	for _, l := range a.Entries {
		b = appendU64(b, l.Term)
		b = append(b, byte(l.Type))
		b = appendU64(b, uint64(l.AppendedAt.UnixNano()))
		b = appendSized(b, l.Data)
		b = appendSized(b, l.Extensions)
	}
	return b
}

func parseAppend(b []byte, from *speaker) (*raft.AppendEntriesRequest, error) {
	r := cursor{b: b}
	//lint:ignore SA1019 hashicorp/raft itself still reads the field for older peers
	a := &raft.AppendEntriesRequest{RPCHeader: from.header, Leader: from.header.Addr}
	a.Term, a.PrevLogEntry, a.PrevLogTerm, a.LeaderCommitIndex = r.u64(), r.u64(), r.u64(), r.u64()
	n := r.u32()
	if n > maxEntries || a.PrevLogTerm > a.Term || a.PrevLogEntry > 1<<62 {
		return nil, fmt.Errorf("%w: append of %d entries after %d of term %d in term %d",
			errMalformed, n, a.PrevLogEntry, a.PrevLogTerm, a.Term)
	}
	if n > 0 {
		entries := make([]raft.Log, n)
		a.Entries = make([]*raft.Log, n)
		term := a.PrevLogTerm
		for i := range entries {
			l := &entries[i]
			l.Index = a.PrevLogEntry + 1 + uint64(i)
			l.Term = r.u64()
			l.Type = raft.LogType(r.u8())
			l.AppendedAt = time.Unix(0, int64(r.u64()))
			l.Data = r.sized()
			l.Extensions = r.sized()
			if l.Term < term || l.Term > a.Term || !validEntry(l) {
				return nil, fmt.Errorf("%w: entry %d of type %d and term %d",
					errMalformed, l.Index, l.Type, l.Term)
			}
			term = l.Term
			a.Entries[i] = l
		}
	}
	// A follower must not take its own entries behind this append for
	// committed: they may be another leader's.
	a.LeaderCommitIndex = min(a.LeaderCommitIndex, a.PrevLogEntry+uint64(n))
	return a, r.err("append")
}

// validEntry refuses what would make raft panic.
func validEntry(l *raft.Log) bool {
	switch l.Type {
	case raft.LogCommand:
		return len(l.Data) <= MaxEntry
	case raft.LogNoop, raft.LogBarrier:
		return len(l.Data) == 0
	case raft.LogConfiguration:
		return validConfiguration(l.Data)
	}
	return false
}

// validConfiguration reports whether raft.DecodeConfiguration, which panics on
// anything else, can read b.
func validConfiguration(b []byte) (ok bool) {
	if len(b) > maxConfigBytes {
		return false
	}
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	for _, s := range raft.DecodeConfiguration(b).Servers {
		if nodeOf(s.ID) == 0 || string(s.Address) != string(s.ID) {
			return false
		}
	}
	return true
}

func appendVote(b []byte, term, index, logTerm uint64, transfer bool) []byte {
	return appendBool(appendU64(b, term, index, logTerm), transfer)
}

func parseVote(b []byte, from *speaker) (*raft.RequestVoteRequest, error) {
	r := cursor{b: b}
	//lint:ignore SA1019 hashicorp/raft itself still reads the field for older peers
	v := &raft.RequestVoteRequest{RPCHeader: from.header, Candidate: from.header.Addr}
	v.Term, v.LastLogIndex, v.LastLogTerm = r.u64(), r.u64(), r.u64()
	v.LeadershipTransfer = r.u8() == 1
	return v, r.err("vote")
}

// parseCommand makes raft's request of a frame.
func parseCommand(f *frame, from *speaker) (any, error) {
	switch f.kind {
	case frameAppend:
		return parseAppend(f.body, from)
	case frameVote:
		return parseVote(f.body, from)
	case framePreVote:
		v, err := parseVote(f.body, from)
		if err != nil {
			return nil, err
		}
		return &raft.RequestPreVoteRequest{
			RPCHeader: from.header, Term: v.Term,
			LastLogIndex: v.LastLogIndex, LastLogTerm: v.LastLogTerm,
		}, nil
	case frameTimeoutNow:
		r := cursor{b: f.body}
		return &raft.TimeoutNowRequest{RPCHeader: from.header}, r.err("timeout-now")
	}
	return nil, fmt.Errorf("%w: kind %d", errMalformed, f.kind)
}

// appendAnswer writes raft's answer to a command.
func appendAnswer(b []byte, answer any) []byte {
	switch x := answer.(type) {
	case *raft.AppendEntriesResponse:
		b = appendU64(b, x.Term, x.LastLog)
		return appendBool(appendBool(b, x.Success), x.NoRetryBackoff)
	case *raft.RequestVoteResponse:
		return appendBool(appendU64(b, x.Term), x.Granted)
	case *raft.RequestPreVoteResponse:
		return appendBool(appendU64(b, x.Term), x.Granted)
	case *raft.InstallSnapshotResponse:
		return appendBool(appendU64(b, x.Term), x.Success)
	}
	return b
}

func parseAppended(b []byte, from *speaker, x *raft.AppendEntriesResponse) error {
	r := cursor{b: b}
	x.RPCHeader = from.header
	x.Term, x.LastLog = r.u64(), r.u64()
	x.Success, x.NoRetryBackoff = r.u8() == 1, r.u8() == 1
	return r.err("answer to an append")
}

func parseGranted(b []byte, what string) (term uint64, granted bool, err error) {
	r := cursor{b: b}
	term, granted = r.u64(), r.u8() == 1
	return term, granted, r.err(what)
}

// appendInstall writes u64 term, last index, last term, configuration index,
// size; u8 version; sized configuration.
func appendInstall(b []byte, a *raft.InstallSnapshotRequest) []byte {
	b = appendU64(b, a.Term, a.LastLogIndex, a.LastLogTerm, a.ConfigurationIndex, uint64(a.Size))
	b = append(b, byte(a.SnapshotVersion))
	return appendSized(b, a.Configuration)
}

func parseInstall(b []byte, from *speaker) (*raft.InstallSnapshotRequest, error) {
	r := cursor{b: b}
	a := &raft.InstallSnapshotRequest{RPCHeader: from.header, Leader: from.header.Addr}
	a.Term, a.LastLogIndex, a.LastLogTerm, a.ConfigurationIndex = r.u64(), r.u64(), r.u64(), r.u64()
	a.Size = int64(r.u64())
	a.SnapshotVersion = raft.SnapshotVersion(r.u8())
	a.Configuration = r.sized()
	if err := r.err("snapshot"); err != nil {
		return nil, err
	}
	if a.Size < 0 || a.Size > maxSnapshotSize || a.SnapshotVersion != raft.SnapshotVersionMax ||
		a.LastLogTerm > a.Term || !validConfiguration(a.Configuration) {
		return nil, fmt.Errorf("%w: snapshot of %d bytes at %d", errMalformed, a.Size, a.LastLogIndex)
	}
	return a, nil
}
