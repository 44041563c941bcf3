package raftgroup

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"golang.org/x/time/rate"

	"eggsfs/eggs"
)

// counters count since the start. They are the host's own.
type counters struct {
	framesOut, writes, bytesOut atomic.Uint64
	refused                     atomic.Uint64
	readRounds                  atomic.Uint64
	snapshotsOut, snapshotsIn   atomic.Uint64
	stood, moved, unstuck       atomic.Uint64
	truncated                   atomic.Uint64
}

// Stats is a picture of the host for metrics.
type Stats struct {
	Groups     int // replicas here
	Leads      int // of them led by this node
	Leaderless int // of them without a known leader
	Peers      int // nodes that we dial
	Contacts   int // of them connected and answering

	FramesOut    uint64 // frames sent
	Writes       uint64 // writes that carried them
	BytesOut     uint64
	Refused      uint64 // connections refused
	ReadRounds   uint64 // batches of reads
	SnapshotsOut uint64
	SnapshotsIn  uint64
	Elections    uint64 // times that this node stood for election in a group
	Moves        uint64 // leaderships given back to whom they belong
	Unstuck      uint64 // replications set going again
	Truncated    uint64 // bytes of log removed
	LogBytes     int64  // bytes of log that count
}

// Stats returns counts since the start, and how things are.
func (h *Host) Stats() Stats {
	c := &h.counters
	s := Stats{
		FramesOut: c.framesOut.Load(), Writes: c.writes.Load(), BytesOut: c.bytesOut.Load(),
		Refused: c.refused.Load(), ReadRounds: c.readRounds.Load(),
		SnapshotsOut: c.snapshotsOut.Load(), SnapshotsIn: c.snapshotsIn.Load(),
		Elections: c.stood.Load(), Moves: c.moved.Load(), Unstuck: c.unstuck.Load(),
		Truncated: c.truncated.Load(), LogBytes: h.store.log.Bytes(),
	}
	for _, g := range h.Groups() {
		s.Groups++
		if g.raft.State() == raft.Leader {
			s.Leads++
		}
		if h.leaders.get(g.id).node == 0 {
			s.Leaderless++
		}
	}
	for _, p := range h.allPeers() {
		s.Peers++
		if p.contact() {
			s.Contacts++
		}
	}
	return s
}

// raftLines is how many lines of raft's a second reach our log: 257 groups that
// miss the same node say so 257 times.
const raftLines = 5

var raftLimit = rate.NewLimiter(rate.Every(time.Second/raftLines), 10*raftLines)

// raftLogger passes raft's warnings on, for whoever debugs.
func (h *Host) raftLogger(id eggs.GroupID) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Level: hclog.Warn, DisableTime: true, Output: &raftLog{h, id},
	})
}

type raftLog struct {
	host *Host
	id   eggs.GroupID
}

// Write takes one line.
func (l *raftLog) Write(b []byte) (int, error) {
	if raftLimit.Allow() {
		// What matters to people is said per node; these lines come 257 at a time.
		l.host.log.Debug("raft", "group", l.id, "says", strings.TrimSpace(fmt.Sprintf("%.500s", b)))
	}
	return len(b), nil
}
