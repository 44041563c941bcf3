package gossip

import (
	"sort"
	"time"

	"eggsfs/eggs"
)

// NodeInfo is what a node says of itself.
type NodeInfo struct {
	ID      eggs.NodeID
	Addr    string    // HOST:PORT that others dial
	HTTP    string    // address of its status page, "" for none
	Domain  string    // failure domain
	Roles   uint32    // bits: 1 meta, 2 block, 4 upkeep
	Version string    // of its software
	Clock   eggs.Time // its clock when it said so
	Disks   []DiskInfo
}

// DiskInfo is what a node says of one of its disks.
type DiskInfo struct {
	ID       eggs.DiskID
	Class    uint8
	Capacity uint64 // bytes
	Free     uint64 // bytes, less the reserve
	Writable bool
	Load     uint32 // requests under way
}

// State is whether a member answers.
type State uint8

// The states of a member.
const (
	Alive State = iota
	Dead        // it stopped answering
	Left        // it said that it goes
)

// String returns the state in words.
func (s State) String() string {
	return [...]string{"alive", "dead", "left"}[min(s, Left)]
}

// NodeView is what is known here of one member.
type NodeView struct {
	NodeInfo
	State State
	Since eggs.Time // of the state, by this node's clock

	// Offset is how far the member's clock is ahead of this node's, as of
	// the last probe; it is good to some milliseconds. Measured says whether there was one.
	Offset   time.Duration
	Measured bool
}

// View is an immutable picture of all members known, this node included, by id.
type View struct {
	Nodes []NodeView
}

// Node finds a member.
func (v *View) Node(id eggs.NodeID) (*NodeView, bool) {
	i := sort.Search(len(v.Nodes), func(i int) bool { return v.Nodes[i].ID >= id })
	if i == len(v.Nodes) || v.Nodes[i].ID != id {
		return nil, false
	}
	return &v.Nodes[i], true
}

// member is what is kept of a node; Gossip.mu.
type member struct {
	view    NodeView
	leaving bool
	version uint64             // of the disks
	partial map[uint32]*record // chunks of a version to come, by chunk
	pending uint64             // that version
	behind  time.Time          // since when a later version is known to exist, or zero
}

// maxMembers bounds what is remembered; the node that is dead for longest is forgotten for
// another. Beyond a thousand live nodes this package would need other timings anyway.
const maxMembers = 4096

// View returns the picture of this moment.
func (g *Gossip) View() *View { return g.view.Load() }

// Changed returns a channel that is closed when the picture changes after this call.
func (g *Gossip) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// publish makes a new picture. g.mu is held.
func (g *Gossip) publish() {
	v := &View{Nodes: make([]NodeView, 0, len(g.members))}
	for _, m := range g.members {
		v.Nodes = append(v.Nodes, m.view)
	}
	sort.Slice(v.Nodes, func(i, j int) bool { return v.Nodes[i].ID < v.Nodes[j].ID })
	alive := 0
	for i := range v.Nodes {
		if v.Nodes[i].State == Alive {
			alive++
		}
	}
	g.alive.Store(int64(alive))
	g.view.Store(v)
	close(g.changed)
	g.changed = make(chan struct{})
}

// announced takes a member's announcement. g.mu is held.
func (g *Gossip) announced(mt meta) {
	m := g.members[mt.info.ID]
	if m == nil {
		g.forget()
		m = &member{view: NodeView{State: Dead}}
		g.members[mt.info.ID] = m
	}
	if m.view.State != Alive {
		m.view.State, m.view.Since = Alive, g.now()
	}
	m.leaving = mt.leaving
	disks, clock := m.view.Disks, m.view.Clock
	m.view.NodeInfo = mt.info
	m.view.Disks, m.view.Clock = disks, clock
	g.transport.learn(mt.info.ID, mt.info.Addr)
	g.publish()
}

// forget makes room for one more member.
func (g *Gossip) forget() {
	if len(g.members) < maxMembers {
		return
	}
	var oldest *member
	for _, m := range g.members {
		if m.view.State != Alive && (oldest == nil || m.view.Since < oldest.view.Since) {
			oldest = m
		}
	}
	if oldest != nil {
		delete(g.members, oldest.view.ID)
		g.transport.unlearn(oldest.view.ID)
	}
}

// gone takes note that a member is dead or has left. g.mu is held.
func (g *Gossip) gone(id eggs.NodeID) {
	m := g.members[id]
	if m == nil || id == g.cfg.Node {
		return
	}
	m.view.State = Dead
	if m.leaving {
		m.view.State = Left
	}
	m.view.Since, m.view.Measured = g.now(), false
	g.publish()
}

// heard takes a record and reports whether it was news. g.mu is held.
func (g *Gossip) heard(r *record) bool {
	m := g.members[r.node]
	switch {
	case m == nil:
		return false
	case r.node == g.cfg.Node:
		if r.version > m.version || r.version == m.version && r.clock != m.view.Clock {
			m.version = r.version // a former life's: go above it
			g.poke(g.push)
		}
		return false
	case r.version <= m.version:
		return false
	case r.chunks > 1:
		return m.collect(r) && (len(m.partial) < int(r.chunks) || g.complete(m, r))
	}
	g.accept(m, r, r.disks)
	return true
}

// collect keeps a chunk and reports whether it was new.
func (m *member) collect(r *record) bool {
	if r.version < m.pending || len(m.partial) > maxChunks {
		return false
	}
	if r.version > m.pending || m.partial == nil {
		m.pending, m.partial = r.version, map[uint32]*record{}
	}
	if m.partial[r.chunk] != nil {
		return false
	}
	m.partial[r.chunk] = r
	return true
}

// complete puts the chunks of a record together. Always true: the last chunk is news.
func (g *Gossip) complete(m *member, r *record) bool {
	var disks []DiskInfo
	for i := range r.chunks {
		c := m.partial[i]
		if c == nil || c.chunks != r.chunks || len(disks)+len(c.disks) > maxDisks {
			return true // made by no program of ours; push/pull brings the whole
		}
		disks = append(disks, c.disks...)
	}
	g.accept(m, r, disks)
	return true
}

func (g *Gossip) accept(m *member, r *record, disks []DiskInfo) {
	m.version, m.partial, m.pending = r.version, nil, 0
	m.view.Disks, m.view.Clock = disks, r.clock
	g.publish()
}

// missedAfter is how long broadcasts have to bring a record before it is fetched.
const missedAfter = 500 * time.Millisecond

// missed takes the version of its record that a member says it has, and
// reports whether that should be here by now. g.mu is held.
func (g *Gossip) missed(id eggs.NodeID, version uint64) bool {
	m := g.members[id]
	switch {
	case m == nil:
	case version <= m.version:
		m.behind = time.Time{}
	case m.behind.IsZero():
		m.behind = time.Now()
	default:
		return time.Since(m.behind) > missedAfter
	}
	return false
}

// offsetNews is by how much a clock's offset must have moved to be a change of the picture.
const offsetNews = 100 * time.Millisecond

// measured takes a member's clock. g.mu is held.
func (g *Gossip) measured(id eggs.NodeID, offset time.Duration) {
	m := g.members[id]
	if m == nil || m.view.Measured && (offset-m.view.Offset).Abs() < offsetNews {
		return
	}
	m.view.Offset, m.view.Measured = offset, true
	g.publish()
}
