package cdc

import (
	"encoding/binary"
	"fmt"
	"slices"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// Check runs the invariants that the CDC's keys can show by themselves and
// returns what is wrong, at most maxFaults of it. It reads everything: for tests,
// for restore and for the operator's check. Numbers are those of the
// invariants in the project's list.
func Check(r raftgroup.Reader) []*wire.Fault {
	c := &checker{r: r, state: loadState(r), parents: map[uint64]uint64{}}
	c.parentMap()
	c.loops()
	c.transactions()
	c.factRecords()
	return c.faults
}

type checker struct {
	r       raftgroup.Reader
	state   *wire.CdcState
	parents map[uint64]uint64
	faults  []*wire.Fault
}

func (c *checker) fault(invariant uint32, format string, args ...any) {
	if len(c.faults) < maxFaults {
		c.faults = append(c.faults,
			&wire.Fault{Invariant: invariant, Text: "cdc: " + fmt.Sprintf(format, args...)})
	}
}

// parentMap: 14, ids come from the counter; 10, the map is one of directories.
func (c *checker) parentMap() {
	each(c.r, prefixParent, func(k, v []byte) {
		if len(k) != 9 || len(v) != 8 {
			c.fault(10, "a record of the parent map has %d+%d bytes", len(k), len(v))
			return
		}
		dir, parent := number(k), binary.BigEndian.Uint64(v)
		c.parents[dir] = parent
		id := eggs.InodeID(dir)
		if !id.IsDir() || id == eggs.Root || id.Number() >= c.state.NextDirectory {
			c.fault(14, "directory %v was never handed out", id)
		}
	})
	if n := uint64(len(c.parents)); n != c.state.Directories {
		c.fault(10, "%d directories are counted and %d are in the map", c.state.Directories, n)
	}
}

// loops: 9, following parents reaches the root. Every directory is walked
// over once: what was seen to reach it is not followed again.
func (c *checker) loops() {
	const walking, reaches = 1, 2
	mark := make(map[uint64]byte, len(c.parents))
	mark[uint64(eggs.Root)] = reaches
	tentative := c.tentative()
	for dir := range c.parents {
		var path []uint64
		at := dir
		for mark[at] == 0 {
			mark[at] = walking
			path = append(path, at)
			parent, ok := c.parents[at]
			if !ok {
				// A mkdir under way may find its parent removed; it is refused then.
				if len(path) < 2 || !tentative[path[len(path)-2]] {
					c.fault(9, "%v lies under %v, which is not there",
						eggs.InodeID(dir), eggs.InodeID(at))
				}
				path = path[:len(path)-1]
				mark[at] = 0 // so that each of its children is reported
				break
			}
			at = parent
			if mark[at] == walking {
				c.fault(9, "%v lies in a loop", eggs.InodeID(at))
			}
		}
		for _, d := range path {
			mark[d] = reaches
		}
	}
}

// tentative lists the directories that transactions under way are making.
func (c *checker) tentative() map[uint64]bool {
	set := map[uint64]bool{}
	each(c.r, prefixTransaction, func(_, v []byte) {
		rec := &wire.CdcTransaction{}
		decode(v, rec)
		if rec.Id != 0 {
			set[rec.Id] = true
		}
	})
	return set
}

// transactions: 36, each is of this counter and makes sense, or it could not end;
// 34, no request has begun two.
func (c *checker) transactions() {
	begun := map[requestKey]uint64{}
	each(c.r, prefixTransaction, func(k, v []byte) {
		id, rec := number(k), &wire.CdcTransaction{}
		decode(v, rec)
		if id == 0 || id >= c.state.NextTransaction {
			c.fault(36, "transaction %d was never begun", id)
		}
		if e := validate(rec.GetRequest()); e != nil || !isTransaction(rec.Request) {
			c.fault(36, "transaction %d is of no operation", id)
			return
		}
		key := requestKey{rec.Request.Session, rec.Request.Sequence}
		if other, ok := begun[key]; ok {
			c.fault(34, "transactions %d and %d are of one request", other, id)
		}
		begun[key] = id
		if rec.Id != 0 {
			if _, ok := c.parents[rec.Id]; !ok {
				c.fault(10, "directory %v of transaction %d is not in the parent map",
					eggs.InodeID(rec.Id), id)
			}
		}
	})
}

// factRecords: 42, what is retired takes no writes; and replicas are on nodes
// that belong to the cluster.
func (c *checker) factRecords() {
	f := readFacts(c.r)
	nodes := map[uint64]bool{}
	for _, n := range f.Nodes {
		nodes[n.Id] = !n.Removed
	}
	for _, d := range f.Disks {
		if belongs, known := nodes[d.Node]; known && !belongs && !d.Retired {
			c.fault(31, "disk %v is in use on node %v, which was removed", eggs.DiskID(d.Id), eggs.NodeID(d.Node))
		}
		if d.Retired && !d.NoWrite {
			c.fault(42, "disk %v is retired and writable", eggs.DiskID(d.Id))
		}
	}
	for _, g := range f.Groups {
		for _, id := range slices.Concat(g.Voters, g.Learners, g.Leaving) {
			if !nodes[id] {
				c.fault(31, "group %v has a replica on node %v, which does not belong",
					eggs.GroupID(g.Group), eggs.NodeID(id))
			}
		}
	}
}
