package raftshard

import (
	"bytes"
	"encoding/binary"

	"eggsfs/eggs"
)

// FormatVersion is the format of a shard's keys, records and entries. It is
// written by the first entry, and raised when what an entry does changes: every replica
// must then be able to do it before a leader asks for it.
const FormatVersion = 1

// The tables of a shard: the first byte of each key. Numbers in keys are big
// end first, 8 bytes; a name is its bytes; hash is eggs.NameHash(name).
//
//	key                         value
//	'V'                         FormatVersion(4)
//	'M'                         state, see state.encode
//	'S' …                       raftgroup.Sessions
//	'd' dir                     DirectoryRecord
//	'e' dir hash name           EdgeRecord: the current edge
//	's' dir hash name 0 time    SnapshotRecord: a past edge, time is when it was made
//	'g' dir                     nothing: the directory is removed or has snapshot edges
//	'f' file                    FileRecord: a linked file or a symlink
//	't' file                    TransientRecord
//	'p' file offset             SpanRecord
//	'r' disk file               count(4) of the file's blocks on the disk
//	'h' block                   file offset: an uncertified span, by its lowest block id
//	'l' session file            nothing: the id is leased and not used
//	'v' dir hash name           ReservationRecord
//	'w' session dir hash name   nothing: the session's reservations
//	'x' transaction step(4)     the answer to a step of the CDC, a wire.ShardReply
//
// Both kinds of edge sort by (directory, hash, name), which is the order of a
// listing's cursor. A name has no NUL, so that one name's past edges are together even
// when another of the same hash begins with it.
//
// 't' holds nothing but files under construction and garbage, so a walk over it
// is what the collector needs; a second index by deadline would cost every write two keys.
const (
	tableVersion     = 'V'
	tableState       = 'M'
	tableSessions    = 'S'
	tableDirectory   = 'd'
	tableEdge        = 'e'
	tableSnapshot    = 's'
	tableDirDue      = 'g'
	tableFile        = 'f'
	tableTransient   = 't'
	tableSpan        = 'p'
	tableDisk        = 'r'
	tableUncertified = 'h'
	tableLease       = 'l'
	tableReserved    = 'v'
	tableReservedBy  = 'w'
	tableFence       = 'x'
)

// number is anything that is a key's 8 bytes.
type number interface {
	~uint64 | ~int64
}

func key1[A number](table byte, a A) []byte {
	k := make([]byte, 1, 9)
	k[0] = table
	return binary.BigEndian.AppendUint64(k, uint64(a))
}

func key2[A, B number](table byte, a A, b B) []byte {
	k := make([]byte, 1, 17)
	k[0] = table
	k = binary.BigEndian.AppendUint64(k, uint64(a))
	return binary.BigEndian.AppendUint64(k, uint64(b))
}

// after returns the least key that is greater than all that begin with prefix.
func after(prefix []byte) []byte {
	k := bytes.Clone(prefix)
	for i := len(k) - 1; i >= 0; i-- {
		if k[i]++; k[i] != 0 {
			return k[:i+1]
		}
	}
	return nil
}

func u64(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

// nameKey is the key of a table by (directory, hash, name).
func nameKey(table byte, dir eggs.InodeID, hash uint64, name string) []byte {
	k := make([]byte, 1, 17+len(name)+9) // room for a snapshot's tail
	k[0] = table
	k = binary.BigEndian.AppendUint64(k, uint64(dir))
	k = binary.BigEndian.AppendUint64(k, hash)
	return append(k, name...)
}

// splitNameKey takes nameKey apart; name is part of k.
func splitNameKey(k []byte) (dir eggs.InodeID, hash uint64, name []byte) {
	return eggs.InodeID(u64(k[1:])), u64(k[9:]), k[17:]
}

// snapshotPrefix is what the keys of a name's past edges begin with.
func snapshotPrefix(dir eggs.InodeID, hash uint64, name string) []byte {
	return append(nameKey(tableSnapshot, dir, hash, name), 0)
}

func snapshotKey(dir eggs.InodeID, hash uint64, name string, time eggs.Time) []byte {
	return binary.BigEndian.AppendUint64(snapshotPrefix(dir, hash, name), uint64(time))
}

// splitSnapshotKey takes snapshotKey apart; name is part of k.
func splitSnapshotKey(k []byte) (dir eggs.InodeID, hash uint64, name []byte, time eggs.Time) {
	n := len(k) - 9
	return eggs.InodeID(u64(k[1:])), u64(k[9:]), k[17:n], eggs.Time(u64(k[n+1:]))
}

func reservedByKey(session uint64, dir eggs.InodeID, hash uint64, name string) []byte {
	k := make([]byte, 1, 25+len(name))
	k[0] = tableReservedBy
	k = binary.BigEndian.AppendUint64(k, session)
	k = binary.BigEndian.AppendUint64(k, uint64(dir))
	k = binary.BigEndian.AppendUint64(k, hash)
	return append(k, name...)
}

func fenceKey(transaction uint64, step uint32) []byte {
	k := make([]byte, 1, 13)
	k[0] = tableFence
	k = binary.BigEndian.AppendUint64(k, transaction)
	return binary.BigEndian.AppendUint32(k, step)
}

// state is what an entry always touches: one value, so that it is one write.
type state struct {
	time   eggs.Time // the group's
	file   uint64    // number of the last file or symlink id handed out
	block  uint64    // counter of the next block id
	oldest uint64    // lowest unfinished transaction that the CDC told of

	reserved uint64 // names reserved, whether or not their deadline is over

	// How many there are, for ShardStat; check.go counts again.
	directories, files, transient, edges, snapshots, spans, blocks uint64
}

// encode writes the fields in the order above, 8 bytes each. Fields may be
// added at the end; a shorter value leaves them 0.
func (s *state) encode() []byte {
	b := make([]byte, 0, 96)
	b = binary.BigEndian.AppendUint64(b, uint64(s.time))
	for _, f := range s.fields() {
		b = binary.BigEndian.AppendUint64(b, *f)
	}
	return b
}

func (s *state) decode(b []byte) {
	if len(b) < 8 {
		return
	}
	s.time, b = eggs.Time(u64(b)), b[8:]
	for _, f := range s.fields() {
		if len(b) < 8 {
			return
		}
		*f, b = u64(b), b[8:]
	}
}

func (s *state) fields() [11]*uint64 {
	return [...]*uint64{
		&s.file, &s.block, &s.oldest, &s.reserved, &s.directories, &s.files,
		&s.transient, &s.edges, &s.snapshots, &s.spans, &s.blocks,
	}
}
