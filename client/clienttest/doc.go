// Package clienttest is a whole cluster in the memory of one test: real shards,
// a real coordinator and real wire connections, without Raft and without disks.
//
//	w := clienttest.New(t, clienttest.Config{Nodes: 3, Disks: 2})
//	c := w.Client()          // as a mount has it, by subscription
//	w.Lead(shard, 1)         // another node leads
//	w.Lose(wire.MethodShard, 1) // the next answer is lost, its request is done
//	w.Disk(id).Fail()        // a disk takes no blocks
//
// Each group has one state, whoever leads it: what is tested is the client, not
// replication. Blocks are kept in memory and checked as a block service checks them.
package clienttest
