package raftshard

import (
	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// Check runs the shard's invariants on a state.
func Check(r raftgroup.Reader, shard eggs.ShardID) []*wire.Fault { return nil }
