// Package client is the one library to the cluster: what a mount, the command
// line, the web page and upkeep know of EggsFS, they know through it.
//
// It is not a server and holds no truth. What it caches (routes, policies,
// spans) is a hint that a server's answer corrects; attributes and names are
// never cached here.
//
// # Routing
//
// A Router shows the newest picture of nodes, leaders and disks. A mount's
// comes by subscription from any node it reaches (watch.go); a node passes its
// own. A request goes to the leader of its group. A wrong leader names the
// right one, which is remembered until the picture changes.
//
// # Exactly once
//
// Every change goes out in a session of its group with a sequence number and
// the lowest number still unanswered (session.go, retry.go). A retry carries
// the same numbers, so that the group answers it with the first answer. The
// rules for what comes back:
//
//	an answer            done, or refused without effect
//	Unavailable, Busy    not done: again, with growing pauses
//	NotLeader            not done: again at the node it names
//	Indeterminate        unknown: the same numbers again
//	BadSession           if it was sent once before: Indeterminate to the
//	                     caller; else a new session and a new number
//	Locked               a result: a new number, after a pause
//	time is over         Timeout if surely nothing happened, else Indeterminate
//
// # Writing
//
// A Writer fills a span's buffer without any request. A full span is encoded
// by the caller of Write and sent by one goroutine, while the next is being
// filled, so a stream holds at most two spans and one's parity: 112 MiB with
// spans of 32 MiB; where there are more than four streams their spans are shorter
// (write.go, flight.go). `certify k` and `initiate k+1`
// travel together, as do `certify n` and `link`. A file that fits the inline
// policy is one request, at Close, with an id that was leased before
// (publish.go).
//
// # Reading
//
// A Reader checks the checksum of every page it was given. What is missing or
// wrong is rebuilt from any D good blocks of the span; when there are fewer
// the read fails, and never returns a byte whose checksum is wrong (read.go,
// gather.go). A sequential caller gets up to 16 MiB of read-ahead; others get
// the pages they touch and no more (readahead.go).
package client
