// Package fstest is a file system in memory and the contract that every file
// system of this house keeps.
//
// Memory implements client.API without a cluster, with the semantics that a
// user can see: files are written once and appear whole at Close, a replaced
// or unlinked file becomes a past version that is still readable by its id,
// an exclusive create reserves its name, a directory does not move to another
// parent onto anything but an empty one. Memory.Client gives a second user of the
// same tree, so that two mounts can be compared. A hook sees every call and may
// fail or delay it.
//
// Suite is the contract as tests; it runs on Memory and on the real client.
//
// Memory is not durable, has no spans, no blocks, no sessions and no failover.
//
// Invariants: a name points to an inode that exists; the entries of a directory
// are sorted by cursor, then name; times of changes strictly increase.
package fstest
