package cdc

import "time"

const formatVersion = 1 // of keys and records, and of log entries

// Limits. What one more would cost stands beside each.
const (
	// maxUnfinished transactions, running and queued: each is a goroutine and a
	// record, about 10 KiB together, and a new leader resumes them all.
	maxUnfinished = 16384
	// maxWindow is how far apart the oldest unfinished and the next transaction may be.
	// Shards remember the steps of all in between, about 200 bytes each.
	maxWindow = 4 << 20
	// maxQueue transactions wait for one name: each waits for all before it.
	maxQueue = 256
	// maxDone transactions are reported finished in one entry: at some
	// hundred bytes each it stays far below what an entry may have.
	maxDone = 256
	// maxVoters of a group: a majority of more costs more than it saves.
	maxVoters = 9
	// maxFactText bytes of an address or a failure domain: facts are in memory everywhere.
	maxFactText = 255
	// maxDepth directories from a directory to the root: beyond it the parent
	// map must have a loop.
	maxDepth = 1 << 20
	// maxStats queries of one rmdir are under way at a time; a path is rarely deeper.
	maxStats = 16
	// maxStatIDs inodes of one query, as wire/shard.proto says.
	maxStatIDs = 10000
	// maxFaults that one check reports: an answer stays readable.
	maxFaults = 100
)

// Times of the engine. None of them decides an outcome, except that of the
// wait for another's lock.
const (
	// doneDelay is how long a finished transaction may wait for company before
	// it is logged. More saves entries; less lets shards forget sooner.
	doneDelay = 20 * time.Millisecond
	// stepTimeout ends one attempt at one step. The next begins at once, so it
	// only frees what the first one holds.
	stepTimeout = 10 * time.Second
	// firstPause and lastPause bound the doubling wait between attempts.
	firstPause = 2 * time.Millisecond
	lastPause  = time.Second
	// lockTries is how often a step is refused with Locked before the
	// transaction gives up: about 12 s with pauses up to lockPause.
	lockTries = 64
	lockPause = 200 * time.Millisecond
)

// sessionsPerEntry is how many ended sessions one entry clears: apply stays short.
const sessionsPerEntry = 4
