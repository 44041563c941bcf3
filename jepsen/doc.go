// Package jepsen runs the real binaries as a black box: it starts nodes and
// mounts, breaks them, and looks whether what EggsFS promises still holds. It knows
// the binaries and the client library's public face, and nothing inside.
//
// The tests of this folder break one thing each, on loopback addresses. The harness
// that breaks many at once, under recorded load, is below it, and eggsjepsen runs it:
//
//	netns     nodes in network namespaces; cuts, slow and lossy cables
//	lossy     a file system that forgets what was not synced; bad disks
//	nemesis   all faults, on a schedule by a seed
//	workload  what clients do meanwhile
//	history   what they saw
//	check     whether that is right
//	harness   one run, from set-up to verdict
//	report    what came of it, for people and programs
//
// BUGS.md lists every bug that was found, who found it, and the command that
// brings it back.
package jepsen
