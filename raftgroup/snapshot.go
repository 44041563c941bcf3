package raftgroup

// installState is a snapshot on its way in.
type installState struct{}

// installDir is where snapshots from other nodes wait.
func (s *State) installDir() string { return s.fs.PathJoin(s.dir, "install") }
