// Package node is one server process. It is the only room that knows all the
// others: it reads the configuration, starts the parts in their order (node.go
// tells it as a story), fills the small interfaces that the parts declare, and
// stops everything in the reverse order.
//
// It is not where anything is decided about files, blocks or groups, with one
// exception: place.go decides, where the CDC leads, which nodes hold which
// replicas.
//
// # The data folder
//
//	lock           held (flock) while a process uses the folder
//	node.json      who this node is: cluster, node id, addresses, disks, groups
//	cluster.key    the cluster's key, made by the first node
//	raft.log       the shared Raft log of all groups
//	raft.log.journal/  what was committed to it and is not in it yet
//	state/         the Pebble store of all groups
//	blocks/00 …    simulated disks, unless --disk names real ones
package node
