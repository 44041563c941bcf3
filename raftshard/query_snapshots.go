package raftshard

import (
	"eggsfs/eggs"
	"eggsfs/wire"
)

// listSnapshots lists the edges of the names that have a past: work in
// proportion to what was deleted, not to what is there. With a name it lists
// that one, which may have only a current edge.
func (a *query) listSnapshots(v *wire.ListSnapshots) error {
	dir, d, err := a.dir(v.GetDir())
	if err != nil {
		return err
	}
	l := &history{query: a, dir: dir, limit: listLimit(v.GetLimit()), out: &wire.SnapshotEdges{
		Now: int64(a.now), Dir: dirAttr(dir, d), End: true, Next: v.GetAfter(),
	}}
	if v.GetName() != "" {
		hash := eggs.NameHash(v.Name)
		prefix := snapshotPrefix(dir, hash, v.Name)
		a.r.Scan(prefix, after(prefix), false, l.edge)
		if l.name == "" {
			l.hash, l.name = hash, v.Name
		}
	} else {
		lo := key2(tableSnapshot, dir, v.GetAfter()+1)
		if v.GetAfter() == 1<<64-1 {
			lo = after(key1(tableSnapshot, dir))
		}
		a.r.Scan(lo, after(key1(tableSnapshot, dir)), false, l.edge)
	}
	l.current()
	a.made.Answer = &wire.ShardAnswer_ListSnapshots{ListSnapshots: l.out}
	return nil
}

// history collects edges name by name.
type history struct {
	*query
	dir   eggs.InodeID
	limit int
	out   *wire.SnapshotEdges
	size  int
	name  string // whose edges are being collected
	hash  uint64
	edges int // how many of them
}

// edge takes one past edge. It stops between two hashes only.
func (h *history) edge(k, v []byte) bool {
	_, hash, name, time := splitSnapshotKey(k)
	if hash != h.hash || string(name) != h.name {
		h.current()
		full := len(h.out.Edges) >= h.limit || h.size > maxAnswer
		if full && hash != h.hash {
			h.out.End, h.name = false, ""
			return false
		}
		h.name, h.hash, h.edges = string(name), hash, 0
	}
	var s SnapshotRecord
	if s.UnmarshalVT(v) != nil {
		return true
	}
	if h.edges++; h.edges > maxHistory {
		return true // the collector comes again
	}
	h.out.Next = hash
	h.add(&wire.SnapshotEdge{
		Name: h.name, Target: s.Target, Time: int64(time), Owned: s.Owned,
	})
	return true
}

func (h *history) add(e *wire.SnapshotEdge) {
	h.out.Edges = append(h.out.Edges, e)
	h.size += 32 + len(e.Name)
}

// current adds the current edge of the name just collected.
func (h *history) current() {
	if h.name == "" {
		return
	}
	e, ok := load[EdgeRecord](h.r, nameKey(tableEdge, h.dir, h.hash, h.name))
	if ok {
		h.out.Next = h.hash
		h.add(&wire.SnapshotEdge{
			Name: h.name, Target: e.Target, Time: e.Time, Owned: true, Current: true,
		})
	}
}
