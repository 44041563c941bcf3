// Package lossy is a file system that forgets at power loss what was not synced.
//
// It is mounted under a node's data folder. Names are kept in memory and contents
// in flat files of a store folder, each with an undo of what a disk would not have
// yet:
//
//   - a file's bytes are on disk after fsync or fdatasync of the file, or at once when
//     it was opened with O_SYNC or O_DSYNC;
//   - a name made, removed or renamed is on disk after fsync of its directory, and of
//     nothing else; a rename between directories is on disk whole as soon as either
//     is synced.
//
// PowerLoss takes the mount away, undoes, and mounts again. With Torn each page that
// was not synced is on disk or not by chance, in sectors of 512 bytes, and a directory's
// changes are there all or not at all: the order in which a disk writes is nobody's.
//
// A Fault makes calls slow, stuck or failing; Rot flips one bit of a file. Nothing
// is really synced: the machine that runs the tests keeps its power.
package lossy
