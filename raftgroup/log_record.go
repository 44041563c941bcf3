package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// recordKind says what a record of the log file is. The numbers are in the file.
type recordKind uint8

const (
	recordEntry  recordKind = 1 // an entry; voids the group's entries from its index on
	recordStable recordKind = 2 // a stable value; the index is its stableKey
	recordSuffix recordKind = 3 // the group's entries from the index on are void
	recordPrefix recordKind = 4 // the group's entries below the index are void
	recordHead   recordKind = 5 // rewritten by each commit: which sequence numbers the file has
)

// stableKey names a stable value.
type stableKey uint64

const (
	stableTerm stableKey = 1 // CurrentTerm: 8 bytes
	stableVote stableKey = 2 // LastVoteTerm: 8 bytes, and LastVoteCand: the rest
)

const (
	// recordTag is how many bytes of Extensions are ours: kind, group, index, checksum.
	recordTag = 1 + 2 + 8 + 4

	// recordOverhead is about what bolt and msgpack add to a record's bytes.
	recordOverhead = 128

	// headSequence is the head's key: after all others, so that a page that
	// lost its end has lost the head.
	headSequence = math.MaxUint64

	logVersion = 2
)

// errRecord marks the faults of a record.
var errRecord = errors.New("damaged record")

// tagRecord puts our tag before the record's own extensions, with the checksum of all but
// the sequence number, which sealRecord adds.
func tagRecord(r *raft.Log, kind recordKind, id eggs.GroupID, index uint64) {
	b := make([]byte, recordTag, recordTag+len(r.Extensions))
	b[0] = byte(kind)
	binary.BigEndian.PutUint16(b[1:], uint16(id))
	binary.BigEndian.PutUint64(b[3:], index)
	b = append(b, r.Extensions...)
	r.Extensions = b
	binary.BigEndian.PutUint32(b[11:], bodySum(r))
}

// bodySum covers everything in a record but its sequence number and the sum itself.
func bodySum(r *raft.Log) uint32 {
	var b [29]byte
	binary.BigEndian.PutUint64(b[0:], r.Term)
	b[8] = byte(r.Type)
	binary.BigEndian.PutUint64(b[9:], uint64(r.AppendedAt.Unix()))
	binary.BigEndian.PutUint32(b[17:], uint32(r.AppendedAt.Nanosecond()))
	binary.BigEndian.PutUint32(b[21:], uint32(len(r.Data)))
	binary.BigEndian.PutUint32(b[25:], uint32(len(r.Extensions)))
	sum := crc32.Update(0, castagnoli, r.Extensions[:11])
	sum = crc32.Update(sum, castagnoli, b[:])
	sum = crc32.Update(sum, castagnoli, r.Data)
	return crc32.Update(sum, castagnoli, r.Extensions[recordTag:])
}

// sealRecord gives a tagged record its sequence number.
func sealRecord(r *raft.Log, sequence uint64) {
	r.Index = sequence
	sum := r.Extensions[11:recordTag]
	binary.BigEndian.PutUint32(sum, sequenceSum(binary.BigEndian.Uint32(sum), sequence))
}

func sequenceSum(body uint32, sequence uint64) uint32 {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], sequence)
	return crc32.Update(body, castagnoli, b[:])
}

// recordMark is what memory keeps of a record.
type recordMark struct {
	kind  recordKind
	group eggs.GroupID
	index uint64
	state bool   // an entry that reaches the state machine
	size  int    // bytes
	data  []byte // of a stable value
}

// openRecord checks a record that was read at the sequence number, and leaves in r what
// the writer gave, but for Index.
func openRecord(r *raft.Log, sequence uint64) (recordMark, error) {
	if len(r.Extensions) < recordTag {
		return recordMark{}, fmt.Errorf("%w: sequence %d has a tag of %d bytes", errRecord, sequence,
			len(r.Extensions))
	}
	m := recordMark{
		kind:  recordKind(r.Extensions[0]),
		group: eggs.GroupID(binary.BigEndian.Uint16(r.Extensions[1:])),
		index: binary.BigEndian.Uint64(r.Extensions[3:]),
		size:  recordSize(r),
	}
	found := binary.BigEndian.Uint32(r.Extensions[11:])
	want := sequenceSum(bodySum(r), sequence)
	if r.Index != sequence || found != want || m.group >= eggs.Groups ||
		m.kind < recordEntry || m.kind > recordHead {
		return m, fmt.Errorf("%w: sequence %d, group %v, index %d: sequence in the record %d, "+
			"checksum %08x, computed %08x", errRecord, sequence, m.group, m.index, r.Index, found, want)
	}
	m.state = m.kind == recordEntry && reachesState(r.Type)
	if m.kind == recordStable {
		m.data = r.Data
		if len(m.data) < 8 {
			return m, fmt.Errorf("%w: sequence %d, group %v: a stable value of %d bytes", errRecord,
				sequence, m.group, len(m.data))
		}
	}
	r.Extensions = r.Extensions[recordTag:]
	if len(r.Extensions) == 0 {
		r.Extensions = nil
	}
	return m, nil
}

func recordSize(r *raft.Log) int { return len(r.Data) + len(r.Extensions) + recordOverhead }

// reachesState reports whether raft hands entries of this type to the state machine.
func reachesState(t raft.LogType) bool { return t == raft.LogCommand || t == raft.LogConfiguration }

// logHead says what the log file has.
type logHead struct {
	first, next uint64 // records from first up to and without next
	journal     uint64 // which journal stands before the file
	frame       uint64 // its first frame whose records are not in the file yet
}

const headSize = 1 + 4*8

// withHead adds the head to records.
func withHead(recs []*raft.Log, h logHead) []*raft.Log {
	r := &raft.Log{Data: append(make([]byte, 0, headSize), logVersion)}
	for _, n := range []uint64{h.first, h.next, h.journal, h.frame} {
		r.Data = binary.BigEndian.AppendUint64(r.Data, n)
	}
	tagRecord(r, recordHead, 0, 0)
	sealRecord(r, headSequence)
	return append(recs, r)
}

func parseHead(r *raft.Log) (h logHead, err error) {
	m, err := openRecord(r, headSequence)
	if err != nil {
		return h, err
	}
	if m.kind != recordHead || len(r.Data) != headSize || r.Data[0] != logVersion {
		return h, fmt.Errorf("%w: the head has kind %d, %d bytes, format %v, want %d", errRecord,
			m.kind, len(r.Data), r.Data[:min(1, len(r.Data))], logVersion)
	}
	for i, n := range []*uint64{&h.first, &h.next, &h.journal, &h.frame} {
		*n = binary.BigEndian.Uint64(r.Data[1+8*i:])
	}
	if h.first == 0 || h.next < h.first || h.frame == 0 {
		return h, fmt.Errorf("%w: the head names sequences %d to %d, frame %d", errRecord, h.first, h.next, h.frame)
	}
	return h, nil
}
