// # Stores
//
// A node has one log file for the Raft logs, terms and votes of all its groups (Log), with a
// journal before it, and one
// Pebble store for the state machines of all its groups (State). An append, a term and a vote are
// durable when the call returns: appends of all groups that wait share one commit, which is one
// write to the journal and one fdatasync. The mover stores them in the log file later. The
// state store has no log of its own; what was applied since its last flush is
// applied again from the Raft log after a crash.
//
// Invariants of the stores:
//
//   - S1 What StoreLogs, SetUint64(CurrentTerm) and Set(LastVoteCand) reported as done survives
//     any crash. An error is reported only of what was not written.
//   - S2 A vote's term and candidate change together.
//   - S3 An entry is read as it was written, or the node ends with Kind Corrupt. The same holds
//     for the number of entries: a log never comes back shorter.
//   - S4 A group's effects, applied index, term and configuration are written at once,
//     in the order of the log.
//   - S5 No entry above a group's durable applied index is ever removed by truncation.
//   - S6 A group's state is that of one index, or marked as being replaced.
//
// # Formats
//
// Integers are big end first unless said otherwise; CRC is CRC-32C.
//
// The log file is a bbolt file with a bucket "logs", as raft-boltdb/v2 makes it. Its keys are
// sequence numbers (8 bytes, from 1, without a gap) and its values records: a
// raft.Log in MessagePack, with
//
//	Index       the sequence number once more
//	Term, Type, Data, AppendedAt
//	            as raft gave them, if the record is an entry
//	Extensions  kind u8 | group u16 | index u64 | CRC u32 | the entry's own extensions
//
// The CRC covers, in this order: kind, group and index as they stand there; Term u64; Type u8;
// AppendedAt as seconds u64 and nanoseconds u32; the length of Data u32; the length of
// Extensions u32; Data; the entry's own extensions; the sequence number u64. The kinds:
//
//	1 entry   the group's entry at index; voids its entries from index on, and all if there
//	          would be a gap
//	2 stable  a stable value; index 1: CurrentTerm, Data is u64; index 2: the
//	          vote, Data is LastVoteTerm u64 and then LastVoteCand
//	3 suffix  the group's entries from index on are void
//	4 prefix  the group's entries below index are void
//	5 head    Data is: format u8 = 2 | first u64 | next u64 | journal u64 | frame u64
//
// The one head has the key 2^64-1 and is written again by each commit. Records count from first
// on; those below are void and on their way out, and next is the sequence number that comes
// next; it is the first of the frame with that number, in the journal with that id. A start reads
// all records that count, in order, and then those of the journal; for each group the last word
// holds. Truncation writes terms, votes and the last entries of idle groups anew at the end, and a
// greater first with the last of them.
//
// The journal is the folder raft.log.journal with files N.seg, the segments. Their names mean nothing.
// A segment begins with a page of 4 KiB:
//
//	"EGGSJNL1" | CRC u32 of what follows | journal u64 | number u64 | number of its first frame u64
//
// A page without that is a spare segment's. Frames follow, each from the start of a page on and
// padded with zeros to whole pages:
//
//	"JNLF" | CRC u32 of what follows | bytes after this header u32 | number of records u32 |
//	journal u64 | number of the frame u64 | sequence number of its first record u64 | first u64
//
// and of each record
//
//	length of Extensions u32 | length of Data u32 | Type u8 | Term u64 | AppendedAt, seconds u64 |
//	nanoseconds u32 | Extensions | Data
//
// as they are in the log file. A frame with 2^32-1 records has none, and is the seal: the last frame
// of its segment, with the next segment's number in the place of the sequence number. It is
// written when that segment's header is durable. Each frame is synced before the next one
// is written, so only the last one can be torn; see journal.open.
//
// Before bbolt opens the file, its pages are checked: both meta pages valid (an older one is
// never fallen back to), every page reached once, every key in order.
//
// The state store is a Pebble database of format FormatColumnarBlocks without a WAL. A key is
// group u16 | space u8 | rest:
//
//	space 0  one key without a rest. Its value: format u8 = 1 | applied index u64 | its term u64 |
//	         index of the configuration u64 | the configuration as raft.EncodeConfiguration has it
//	space 1  the machine's keys
//	space 2  one key without a rest, there while a snapshot is being loaded
//
// Beside it, in the folder install, is the file group-N while a snapshot of group N is installed,
// and group-N.new while it is received. Its format is that of the stream between nodes:
//
//	header   "EGGSSNP1" | group u16 | index u64 | term u64 | index of the configuration u64 |
//	         its length u32 | the configuration
//	pair     length of key u32 | length of value u32 | key | value, in order; as many as there are
//	end      u32 = 2^32-1 | number of pairs u64 | CRC u32 of all before
package raftgroup
