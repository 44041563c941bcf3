// Package blockd is the block service: a node's disks, and the connections on
// which clients put, get, erase, check and list blocks.
//
// A block is bytes with an id that is used once. blockd knows no files and no
// metadata: a certificate (a MAC by the cluster's key over the disk, the block
// and what is to be done) is all that it needs to believe a request, and a
// proof is all that it gives in return.
//
// # Protocol
//
// wire/block.proto and wire/block.go. Requests of one connection are served
// one after another; a client opens several. After an error reply the
// connection stays usable, the bytes that came with a refused put are read and
// thrown away; only garbage and wrong certificates close it, after a reply. A
// disk that fails while pages are being sent closes it too.
//
//	put    certificate, page checksums, data → proof, when the block is durable
//	get    certificate, range → page checksums and whole pages, not verified
//	       here: the reader does, since it must trust neither disk nor network
//	erase  certificate with mark → proof, when it can never come back
//	check  certificate → every page is read and verified here
//	list   disk → ids, sizes, times; in order of (shard, counter) of the ids; over
//	       TLS only, since it needs no certificate
//
// # Order of a put
//
//	certificate → mark and tombstones → room → checksums combine to the block's →
//	pages received, verified, written to a temporary file → data synced →
//	marks again, rename (under the shard's lock) → directory synced → proof
//
// Large blocks are written past the page cache (O_DIRECT) into room that was
// allocated at once; small ones through it.
//
// A repeated put of a block that is there writes it anew: the bytes are the same,
// and the proof is about bytes that were just verified.
//
// # Late writes
//
// A write that was delayed in the network must not bring an erased block back.
// No clock decides that. Block ids of a shard increase; each erase certificate
// carries the mark H, the lowest id in any uncertified span of the shard. The
// disk keeps, durably before the proof,
//
//	the greatest H of each shard: a put below it is refused (Kind Stale)
//	a tombstone of each erased id ≥ H, also of blocks it never had
//
// An erase notes mark and tombstone in memory, appends them to the journal, syncs
// it, unlinks. A put looks again before its rename, under the lock of the id's shard
// that the unlink takes too: so it comes before the unlink and is unlinked, or
// after the tombstone and is refused.
//
// # Files of a disk folder
//
//	identity tmp/   of package internal/disk
//	erased          the journal of marks and tombstones
//	blocks/SS/ID    a block; SS is its shard, ID its id, in hexadecimal
//
// # Block file, version 1
//
// Numbers are little end first. The data comes first, so that it is page
// aligned and goes out by sendfile; checksums lie apart from it.
//
//	0          size bytes of data, a multiple of 4096
//	size       header, 64 bytes:
//	           0  8 magic "EGGSBLK\x01", the last byte is the version
//	           8  8 block id
//	           16 8 disk id
//	           24 8 time of writing, nanoseconds since 1970
//	           32 4 size of the data
//	           36 4 CRC32C of the data
//	           40 4 CRC32C of the table
//	           44 16 zero
//	           60 4 CRC32C of the 60 bytes before
//	size+64    table: CRC32C of each page, 4 bytes each
//
// # Journal, version 1
//
// A header and records of 32 bytes, so that none crosses a sector:
//
//	header  0 8 magic "EGGSMRK\x01"   8 8 disk id   16 12 zero   28 4 CRC32C of these
//	record  0 4 CRC32C of the rest    4 4 kind: 1 erased, 2 mark
//	        8 8 how many records were durable when this one was written
//	        16 8 block id (mark: its shard only)   24 8 mark of its shard
//
// A damaged record that no later one calls durable was being written when the
// power went, and is cut off with all that follows. Any other damage means
// that tombstones may be lost: the disk takes no more writes. The same when the journal
// is missing. An erase is proved by the journal alone; unlinking is repeated
// for every record at start, and directories are synced before a rewrite of
// the journal (when most of it is below the marks) forgets records.
//
// # Failing disks
//
// A disk that is pulled, unmounted, emptied or swapped is not served any more. A disk
// with an input/output error or a damaged journal takes no writes and serves what
// can still be read. Disks says so in words; a restart looks anew. A full disk is
// no failure: puts are refused (Kind NoSpace) at the reserve already.
//
// # Invariants
//
//	B1  a proof of writing is given after data, header and name are synced
//	B2  no block is renamed into place below its shard's mark, or with a tombstone
//	B3  a proof of erasure is given after the journal holds it and the name is gone
//	B4  nothing is sent that has another id, disk or size than was asked for
//	B5  what connections hold in memory is bounded: maxConns × (transferBytes + table)
package blockd
