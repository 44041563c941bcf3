// Package disk is one disk folder: who it is, that nobody else uses it, how
// much room it has, and how a file gets into it so that it is there whole or not at
// all. It knows nothing of blocks.
//
// # The folder
//
//	identity    which disk this is, see below
//	tmp/        files that are being written; emptied at every Open
//	...         what the owner of the Folder puts there
//
// A folder is formatted when it is empty (lost+found and what an interrupted
// formatting left do not count) and nobody expects a certain disk there. A
// folder that should be a known disk and is empty, another's, or of another
// cluster is refused: a disk that was swapped, emptied or not mounted is not
// taken for the old one.
//
// The folder itself is locked (flock), so two processes never serve one disk.
// Every name is resolved from the folder as it was at Open: when something else is
// mounted or renamed over its path, nothing is written there. Check tells.
//
// # Identity, format 1
//
// A text file, so that a person with a disk in the hand can read it: lines of
// a word, a space and a value, ended by \n, in this order:
//
//	eggsfs-disk 1
//	disk     16 hexadecimal digits, random
//	cluster  16 hexadecimal digits: the cluster that made it; 0 if it was not known
//	node     16 hexadecimal digits: the node that made it; a disk may move
//	made     RFC 3339
//	crc      8 hexadecimal digits: CRC32C of all that is before this line
//
// # Crash safety
//
// A file is written under tmp/, its data synced, renamed to its name, and the
// directory that got the name is synced: in that order, each step waiting for the one
// before. A folder's name is synced before anything is made in it (MkdirAll, Mkdir).
// Callers that sync one directory at a time share the work: one sync serves all who
// asked before it began.
//
// Errors are *eggs.Error: NoSpace when the file system is full (not a fault of the
// disk), Busy when the process has no descriptors or memory left (neither), NotExist,
// IO when the operating system refused.
package disk
