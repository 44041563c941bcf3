// Package upkeep keeps data whole. A Collector has what is deleted and no longer
// kept by a policy leave the shards and the disks; it is what the rest of this page is
// about. A Migrator makes blocks anew that are bad or on disks that leave (migrate.go,
// docs/adr/0009) and moves those that
// crowd a failure domain (spread.go), and a Scrubber has the disks verify every block (scrub.go).
//
// It is an ordinary user of client, without a back door: every step is a verb
// that a shard checks, so a collector that errs, dies or runs twice destroys
// nothing. It keeps no state of its own but memory of what to leave alone for
// a while; what it did not finish it finds again in the shards' due lists.
//
// # What goes, and when
//
//	a past version of a name    when the directory's snapshot policy, in the group's time, no
//	                            longer keeps it: replaced or deleted at least KeepFor ago, and
//	                            at least KeepVersions newer versions exist
//	a deletion marker           when no older version is left that it would hide
//	a removed directory         when it has no past version left
//	a file without a name       when its deadline is past: at once if it lost its last version,
//	                            2 h after the last change if it was never finished
//
// The versions that go are always the oldest ones of their name. A version
// that owns its file is removed in one step with the file's becoming
// transient: by the shard itself, or by the coordinator (hard unlink) when the
// file lives in another shard.
//
// A transient file is taken apart from its end: condemn the last span, erase its
// blocks, each answered by a proof, remove the span given the proofs, … and at
// last remove the file. `remove k` and `condemn k-1` travel together. A
// disk that does not answer leaves the file as it is, for later.
//
// # Who
//
// Each node's collector takes the shards that the node leads. Two at one shard, as when
// leadership moves, or `eggs gc` beside them, do no harm: the second finds nothing.
//
// # Time
//
// A collector's own clock decides nothing. An idle group's time stands
// still, so a shard with work is sent an empty request first, whose answer says what time its
// leader makes it.
package upkeep
