// Package eggs holds the words of EggsFS: ids, kinds of error, times, spans
// and policies. It has nouns and promises and no machinery; every other room
// may import it, and it imports the standard library only.
//
// # Ids
//
// An InodeID is 64 bits. The top three bits say what it is (directory, file or
// symlink), the rest is a number that is never used twice. Zero is no inode.
// Root is the one directory without an owner.
//
// Every inode lives in the shard that its id hashes to: ShardOf is the one
// routing rule of the system, for every kind of inode, frozen by golden
// vectors in testdata/routing.txt. A client that wants to ask about a
// directory hashes the directory's id; there is no table and no look-up.
//
// A BlockID is a counter of its shard in the high 56 bits and the shard in the
// low 8, so it is unique in the cluster for ever and increases in its shard.
//
// # Errors
//
// Error is the one error type that crosses a package or a machine. Callers ask
// errors.Is(err, eggs.NotExist) with one of the Kinds below. A request has
// three outcomes: done (nil), not done (any Kind but Indeterminate), and
// Indeterminate (it may or may not have happened).
package eggs
