// Package raftgroup is what shards and the CDC share: a hashicorp/raft group.
package raftgroup
