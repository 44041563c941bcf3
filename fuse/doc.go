// Package fuse turns the kernel's requests into calls of package client: a
// mount. It keeps no table of inodes, since an inode's id is the kernel's node id
// (but for the directory that is shown at the mount point, which is node 1).
//
// # Files under construction
//
// A finished file never changes, and its id never means other content; so its
// pages stay in the kernel's cache for ever (FOPEN_KEEP_CACHE), and opening it for
// writing without O_TRUNC is EROFS. What a program does to a file between its
// creation and its close is done to a draft. A draft begins with CREATE, with
// MKNOD, or with an OPEN that truncates, and is published, whole and durable, by
// a close(2), which waits for it.
//
// A draft's content (content.go) is in one of three places:
//
//	memory    everything, while it is small (Config.FileMemory, all together
//	          Config.TotalMemory): any pattern of writes costs nothing
//	stream    everything went to a client.Writer, which cannot take it back:
//	          what a program that only appends ends in
//	overlay   what was sent or published is the base; what was written since lies
//	          in an unlinked local file, by blocks of 4 KiB: what a program ends in
//	          that seeks back into a large file, cuts it, or leaves large holes
//
// Publishing memory and streams costs nothing extra; publishing an overlay sends
// the file anew. Holes are sent as zeros.
//
// # The publishing rule
//
// The kernel sends FLUSH at every close of every duplicate of a descriptor, and
// RELEASE after the last one, asynchronously. A draft is published at the FLUSH after
// which nobody holds the open file any more (publish.go):
//
//  1. the caller, its descendants, and its ancestors up to the process that opened
//     the file, and whoever wrote to it, are asked through /proc/PID/fd and fdinfo whether
//     they have a descriptor of that inode open in the same way; then not yet
//  2. a writer that is being killed by a signal publishes nothing, and neither does
//     the close of one that only inherited its descriptor; a writer's later write or
//     the opener's own close makes good
//  3. otherwise publish, and let close(2) wait; also when nothing can be known,
//     because the caller is in another pid namespace or may not be looked at
//  4. the close that execve(2) makes of a close-on-exec descriptor publishes nothing: the
//     kernel lets nobody look at the process until that close is answered (look.go)
//
// RELEASE publishes what no FLUSH did, such as what was written through a mapping
// that outlived its descriptor. A write after a publish starts a new version from the
// published bytes, published by the same rule: no program gets EROFS on a
// descriptor that it created.
//
// To see that nobody can have inherited a descriptor costs one read of
// /proc/loadavg: when no process was born since the file was opened, only the
// caller itself is looked at.
//
// # Names
//
// This mount finds a draft by its name before it is published; other mounts do
// not. A draft of a new name is seen by everybody on this mount; one that will
// replace a finished file is seen by the process that writes it and its descendants,
// everybody else sees the old file until close.
//
// An OPEN with O_TRUNC of a finished file makes a draft under a new id and answers
// ESTALE: the kernel then looks the name up again, is told the new id, and opens
// that. So the old file's pages are not touched, and those who have it open go on
// reading it.
//
// Time-outs of names and attributes are 0 for files and for absent names, and
// 1 s for directories. A look-up's answer is valid for one tick of the kernel's clock as
// far as attributes go, which lets one stat(2) ask once; the name is asked again
// every time.
//
// # Locks
//
// In this order: draft.io (content and publishing; held across the network),
// drafts.mu (names and states; held for moments), draft.meta (attributes; moments).
//
// This package knows nothing of shards, spans or blocks.
package fuse
