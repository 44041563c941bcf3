// Package raftshard is one of the 256 metadata shards: the directories, files
// and spans whose ids hash to its ShardID.
//
// A shard is a deterministic state machine on a raft group. A change passes
// through two halves:
//
//	prepare  on the leader only; looks at the clock, at the disks known to gossip and
//	         at the cluster's key, and writes what it saw into the entry
//	apply    on every replica; reads only the entry and the database
//
// so replicas that applied the same entries hold the same bytes. What prepare
// decides is: the clock, the disks of new blocks, and which cookies and proofs are wrong.
// MACs are made when an answer leaves, so neither log nor state holds one.
//
// A shard knows nothing of other shards. Whatever touches two directories, even
// two of this shard, belongs to package cdc. It does not know who is alive,
// where disks are, or what a policy means to a writer: it keeps policies.
//
// # A request
//
// A request is a list of verbs, applied all or none in one entry. The entry's
// time is max(leader's clock, last time + 1 ns); each verb takes the next nanosecond, and
// Rename a second one, so that edges of a directory never share a time.
//
// A client's request has a session and a sequence; its answer, an error
// included, is remembered until the client says that it knows it. A step of the CDC has a fence
// (transaction, step) and is remembered until the CDC says that no transaction
// that old is unfinished. Either way a repetition gets the first answer and has no
// effect. Not remembered, because nothing was executed, are BadSession, Stale, Busy, and
// Unavailable.
//
// A refused verb takes the whole request back. Beside the refusal of a CDC
// verb, results has one EdgeSeen: what the name was.
//
// # Files
//
// formats.go has the keys, records.proto the values. apply.go runs an entry;
// apply_records.go, apply_lease.go, file.go, span.go, edge.go, dir.go, sweep.go (the
// collector's verbs) and fence.go (the CDC's) are its verbs. prepare.go is the leader's
// half, shard.go the door, query.go and its like the reading, check.go the invariants.
//
// # What ends when
//
// A session ends an hour after its last request, with its leases and its
// reservations. A file under construction is the collector's two hours after its
// last change; from then on nothing but the collector changes it. All these times
// are the group's.
//
// The last span of a file is CLEAN, DIRTY (its blocks are named, not proven) or CONDEMNED (its
// blocks are being erased). CONDEMNED is never left but by removal. The mark H of an
// erase certificate is the lowest block id in any DIRTY span, or the next id when there is none: a
// block below it is never to be written again.
//
// A past edge is removed only if it still is what the caller names. When that
// leaves two deletion markers in a row, the later one goes with it.
//
// # Invariants
//
// Check runs those of the system's that one shard can see, under their numbers.
// An edge or inode of another shard is taken on trust.
//
//	0  values can be read; counters count
//	2  a current edge's directory is there and not removed
//	3  a name's edges have increasing times; the current one is the newest
//	4  a directory's change time is at least that of each of its edges
//	5  a deletion marker is not owned and follows no other; no past edge owns a directory
//	6  a file has at most one owning edge that is not locked, and at most two current ones
//	7  what an owning edge points to is there
//	8  an unlocked current edge to a directory is in that directory's owner
//	11 names are valid, and filed under their hash
//	12 no edge is locked by a transaction that ended
//	13 a removed directory has all policy tags
//	14 an id is linked, transient, leased or nothing; the shard handed it out
//	15 spans tile a file
//	16 only a file under construction has a span that is not CLEAN
//	17 no span without its file
//	18 a linked file's spans have the sizes and checksums that they had when it was linked
//	19 a span's blocks are on distinct disks
//	20 a block id is in one span at most, and was handed out
//	23 the index of files by disk is exact
//	25 the checksum of inline bytes is right; a span's numbers make sense
//	28 no file is being destroyed before its deadline
//	34 leases and reservations belong to sessions
//	41 the collector's index of directories is exact
//	45 the index of uncertified spans, from which H is taken, is exact
//
// 1 (at most one current edge of a name) and 16 for linked files hold by the
// layout: there is one key for it, and a linked file has no span state.
package raftshard
