// Package mutant plants known bugs, to show that the fault harness finds them. A build
// without the tag "mutants" has none: On is false there, and the compiler drops what
// depends on it. With the tag, the environment's EGGS_MUTANT names the one bug that is on.
package mutant

// The planted bugs.
const (
	AckEarly     = "ack-early"     // a change is acknowledged before it is committed
	StaleRead    = "stale-read"    // a leader answers reads without asking whether it still is one
	SkipSync     = "skip-sync"     // the log is not synced before an entry counts as stored
	ForgetReply  = "forget-reply"  // a repeated request is executed again
	PublishFlush = "publish-flush" // a file is published at its first flush, whoever still writes
	DropLock     = "drop-lock"     // the rollback of a transaction forgets a lock
	NoBlockCRC   = "no-block-crc"  // a client takes a block's bytes without checking them
)

// All are the planted bugs, for the mutation check.
var All = []string{AckEarly, StaleRead, SkipSync, ForgetReply, PublishFlush, DropLock, NoBlockCRC}
