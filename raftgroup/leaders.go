package raftgroup

import (
	"encoding/binary"
	"fmt"
	"sync"

	"eggsfs/eggs"
)

// leaderTable is what this node knows of who leads which group, of its own
// groups and of all others. The newest term wins; of one term, the leader's own
// word does. It is a hint: a leader proves itself by a majority, never by this.
type leaderTable struct {
	self eggs.NodeID

	mu      sync.Mutex
	rows    [eggs.Groups]leaderRow
	changed chan struct{}
}

type leaderRow struct {
	node eggs.NodeID // 0: whoever led in that term leads no more, or nobody is known
	term uint64
}

func newLeaderTable(self eggs.NodeID) *leaderTable {
	return &leaderTable{self: self, changed: make(chan struct{})}
}

func (t *leaderTable) get(g eggs.GroupID) leaderRow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rows[g]
}

// learn takes a row that from tells. It reports whether that was news.
func (t *leaderTable) learn(from eggs.NodeID, g eggs.GroupID, row leaderRow) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.learnLocked(from, g, row) {
		return false
	}
	t.publish()
	return true
}

func (t *leaderTable) learnLocked(from eggs.NodeID, g eggs.GroupID, row leaderRow) bool {
	old := t.rows[g]
	switch {
	case row.node == 0: // from leads no more
		if old.node != from || row.term < old.term {
			return false
		}
		t.rows[g] = leaderRow{term: old.term}
	case row.term > old.term, row.term == old.term && row.node == from && old.node != from:
		t.rows[g] = row
	default:
		return false
	}
	return true
}

func (t *leaderTable) publish() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// announce tells those who wait for Changed to look again.
func (t *leaderTable) announce() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.publish()
}

// deny forgets that node leads anything but the groups of claims: a whole
// table that it sent says so.
func (t *leaderTable) deny(node eggs.NodeID, claims *[eggs.Groups]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	news := false
	for i := range t.rows {
		if t.rows[i].node == node && (claims == nil || !claims[i]) {
			t.rows[i].node, news = 0, true
		}
	}
	if news {
		t.publish()
	}
}

// reborn is called when a node's process is not the one we knew: it leads nothing.
func (t *leaderTable) reborn(node eggs.NodeID) { t.deny(node, nil) }

// Leaders returns who leads each group, 0 where unknown, and in which term.
func (h *Host) Leaders() (leaders []eggs.NodeID, terms []uint64) {
	leaders, terms = make([]eggs.NodeID, eggs.Groups), make([]uint64, eggs.Groups)
	t := h.leaders
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, r := range t.rows {
		leaders[i], terms[i] = r.node, r.term
	}
	return leaders, terms
}

// Changed is closed when Leaders or Down changes next.
func (h *Host) Changed() <-chan struct{} {
	h.leaders.mu.Lock()
	defer h.leaders.mu.Unlock()
	return h.leaders.changed
}

// A table frame: u8 whole, u64 incarnation, u64 version, u16 count, then of each
// row u16 group, u64 node, u64 term. A whole table has every row whose leader
// the sender is, or is in contact with; what is missing it does not lead, unless a
// later version came first: tables travel on both connections of two nodes.

type announcement struct {
	group eggs.GroupID
	row   leaderRow
}

func (h *Host) appendTable(b []byte, whole bool, version uint64, rows []announcement) []byte {
	b = appendU64(appendBool(b, whole), h.incarnation, version)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(rows)))
	for _, r := range rows {
		b = binary.LittleEndian.AppendUint16(b, uint16(r.group))
		b = appendU64(b, uint64(r.row.node), r.row.term)
	}
	return b
}

// sendTable puts our whole table into o; it is the first frame after the greetings.
func (h *Host) sendTable(o *outbox) {
	live := map[eggs.NodeID]bool{0: false, h.cfg.Node: true}
	rows := make([]announcement, 0, eggs.Groups)
	h.newsMu.Lock()
	version := h.newsVersion // before the table is read: it is this new, or newer
	h.newsMu.Unlock()
	h.leaders.mu.Lock()
	table := h.leaders.rows
	h.leaders.mu.Unlock()
	for i, r := range table {
		ok, seen := live[r.node]
		if !seen {
			p := h.peer(r.node)
			ok = p != nil && p.contact()
			live[r.node] = ok
		}
		if ok {
			rows = append(rows, announcement{eggs.GroupID(i), r})
		}
	}
	// An empty outbox has room; a full one is of a connection that is being lost.
	_ = o.put(frameTable, 0, 0, false, func(b []byte) []byte {
		return h.appendTable(b, true, version, rows)
	})
}

// takeTable learns from a table frame.
func (h *Host) takeTable(p *peer, body []byte) error {
	from := p.id
	r := cursor{b: body}
	whole, incarnation, version, n := r.u8() == 1, r.u64(), r.u64(), int(r.u16())
	if n > 2*eggs.Groups {
		return fmt.Errorf("%w: table of %d rows", errMalformed, n)
	}
	rows := make([]announcement, 0, n)
	var claims [eggs.Groups]bool
	for range n {
		a := announcement{group: eggs.GroupID(r.u16())}
		a.row = leaderRow{node: eggs.NodeID(r.u64()), term: r.u64()}
		if a.group >= eggs.Groups {
			return fmt.Errorf("%w: table of group %d", errMalformed, a.group)
		}
		claims[a.group] = claims[a.group] || a.row.node == from
		rows = append(rows, a)
	}
	if err := r.err("table"); err != nil {
		return err
	}
	news := false
	t := h.leaders
	t.mu.Lock()
	for _, a := range rows {
		if a.row.node != h.cfg.Node { // we know better whether we lead
			news = t.learnLocked(from, a.group, a.row) || news
		}
	}
	if news {
		t.publish()
	}
	t.mu.Unlock()
	if p.newest(incarnation, version) && whole {
		t.deny(from, &claims)
	}
	if news || whole {
		h.watch.nudge()
	}
	return nil
}

// newest notes the version of a table and reports whether none later came before.
func (p *peer) newest(incarnation, version uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tableOf != incarnation {
		p.tableOf, p.tableVersion = incarnation, 0
	}
	late := version < p.tableVersion
	p.tableVersion = max(p.tableVersion, version)
	return !late
}

// announce tells all peers, soon, that we lead a group or lead it no more.
func (h *Host) announce(g eggs.GroupID, row leaderRow) {
	h.leaders.learn(h.cfg.Node, g, row)
	h.newsMu.Lock()
	h.news = append(h.news, announcement{g, row})
	h.newsVersion++
	h.newsMu.Unlock()
	h.watch.nudge()
}

// spread sends what was announced since the last time. A peer whose queue has
// no room gets the whole table later.
func (h *Host) spread(peers []*peer) {
	h.newsMu.Lock()
	news, version := h.news, h.newsVersion
	h.news = nil
	h.newsMu.Unlock()
	for len(news) > 0 {
		part := news[:min(len(news), eggs.Groups)]
		news = news[len(part):]
		for _, p := range peers {
			p.mu.Lock()
			l, s := p.link, p.session
			p.mu.Unlock()
			fill := func(b []byte) []byte { return h.appendTable(b, false, version, part) }
			// Over both connections, as one may hang before the other.
			if l != nil && l.out.put(frameTable, 0, 0, false, fill) != nil {
				p.mu.Lock()
				p.stale = true
				p.mu.Unlock()
			}
			if s != nil {
				_ = s.out.put(frameTable, 0, 0, false, fill)
			}
		}
	}
}
