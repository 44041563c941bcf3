// Package jepsen runs the real binaries as a black box: it starts nodes and
// mounts, breaks them, and looks whether what EggsFS promises still holds. It knows
// the binaries and the client library's public face, and nothing inside.
//
// BUGS.md lists every bug that was found, who found it, and the command that
// brings it back.
package jepsen
