// Command bench measures real processes on this machine: clusters, mounts, and
// what they are compared with, in one run, and prints a table with every target
// of EggsFS and whether it was met. `make bench`, `make bench-large` and
// `make bench-peers` run it.
//
// Every figure is taken by the same worker, `eggs bench`, as a process of its own. CPU is that
// of all servers, the mount and the worker together. Short trials are repeated, and the
// median is shown. What fails becomes a row that says why; the rest goes on. Everything
// is on loopback, ends by itself, and is removed again.
package main
