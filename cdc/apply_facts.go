package cdc

import (
	"slices"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// fact changes one durable fact, and answers the version that holds it. What
// changes nothing leaves the version alone.
func (a *application) fact(r *wire.CdcRequest) *wire.CdcReply {
	var e *wire.Error
	switch op := r.Op.(type) {
	case *wire.CdcRequest_PutNode:
		e = a.putNode(op.PutNode)
	case *wire.CdcRequest_RemoveNode:
		e = a.removeNode(op.RemoveNode.Id)
	case *wire.CdcRequest_PutDisk:
		e = a.putDisk(op.PutDisk)
	case *wire.CdcRequest_PutReplicas:
		e = a.putReplicas(op.PutReplicas)
	case *wire.CdcRequest_PutCluster:
		e = a.putCluster(op.PutCluster)
	}
	return &wire.CdcReply{Error: e, Version: a.state.Facts}
}

// set stores a record if it is another than the one that is there, and begins
// a new version of the facts.
func (a *application) set(key []byte, m message) (*wire.Facts, bool) {
	value := encode(m)
	if old, ok := a.tx.Get(key); ok && slices.Equal(old, value) {
		return nil, false
	}
	a.tx.Set(key, value)
	return a.newFacts(), true
}

// newFacts is a copy of the facts, under the next version, that may be changed until it is
// published. Only the lists are copied: what is in them never changes.
func (a *application) newFacts() *wire.Facts {
	a.state.Facts++
	old := a.m.Facts()
	a.facts = &wire.Facts{
		Cluster: old.Cluster, Replicas: old.Replicas, Version: a.state.Facts,
		Nodes:  slices.Clone(old.Nodes),
		Disks:  slices.Clone(old.Disks),
		Groups: slices.Clone(old.Groups),
	}
	return a.facts
}

// The bits of PutNode.mask and PutDisk.mask.
const (
	setDraining = 1
	setPlaced   = 2

	setNoWrite      = 1
	setDiskDraining = 2
	setRetired      = 4
)

func (a *application) putNode(op *wire.PutNode) *wire.Error {
	want, have := op.Node, &wire.NodeFact{}
	if !load(a.tx, keyNode(want.Id), have) {
		if op.Mask != 0 && want.Address == "" {
			return refusal("cdc.PutNode", eggs.NotExist, 0, eggs.NodeID(want.Id).String(), "")
		}
		have.Id, have.Joined = want.Id, want.Joined
		if have.Joined == 0 {
			have.Joined = int64(a.now)
		}
	}
	// Who only sets a flag need not know the rest: what is left out stays.
	if want.Address != "" {
		have.Address = want.Address
	}
	if want.Domain != "" {
		have.Domain = want.Domain
	}
	if want.Roles != 0 {
		have.Roles = want.Roles
	}
	if op.Mask&setDraining != 0 {
		have.Draining = want.Draining
	}
	if op.Mask&setPlaced != 0 {
		have.Placed = want.Placed
	}
	if f, ok := a.set(keyNode(want.Id), have); ok {
		f.Nodes = insert(f.Nodes, have)
	}
	return nil
}

// removeNode forgets a node for good. It may not hold a replica: the group
// would wait for it for ever.
func (a *application) removeNode(id uint64) *wire.Error {
	name := eggs.NodeID(id).String()
	if _, ok := a.tx.Get(keyNode(id)); !ok {
		return refusal("cdc.RemoveNode", eggs.NotExist, 0, name, "")
	}
	for _, g := range a.m.Facts().Groups {
		if slices.Contains(g.Voters, id) || slices.Contains(g.Learners, id) {
			return refusal("cdc.RemoveNode", eggs.Conflict, 0, name,
				"it holds a replica of group "+eggs.GroupID(g.Group).String())
		}
	}
	a.tx.Delete(keyNode(id))
	f := a.newFacts()
	f.Nodes = slices.DeleteFunc(f.Nodes, func(n *wire.NodeFact) bool { return n.Id == id })
	return nil
}

func (a *application) putDisk(op *wire.PutDisk) *wire.Error {
	want, have := op.Disk, &wire.DiskFact{}
	name := eggs.DiskID(want.Id).String()
	found := load(a.tx, keyDisk(want.Id), have)
	switch {
	case !found && op.Mask != 0:
		return refusal("cdc.PutDisk", eggs.NotExist, 0, name, "")
	case !found:
		have = want
	case have.Retired && op.Mask&setRetired != 0 && !want.Retired,
		have.Retired && op.Mask&setNoWrite != 0 && !want.NoWrite:
		return refusal("cdc.PutDisk", eggs.Conflict, 0, name, "it is retired, for ever")
	}
	if op.Mask&setNoWrite != 0 {
		have.NoWrite = want.NoWrite
	}
	if op.Mask&setDiskDraining != 0 {
		have.Draining = want.Draining
	}
	if op.Mask&setRetired != 0 {
		have.Retired = want.Retired
	}
	have.NoWrite = have.NoWrite || have.Retired
	if f, ok := a.set(keyDisk(want.Id), have); ok {
		f.Disks = insert(f.Disks, have)
	}
	return nil
}

func (a *application) putReplicas(op *wire.PutReplicas) *wire.Error {
	for _, id := range append(slices.Clone(op.Voters), op.Learners...) {
		if _, ok := a.tx.Get(keyNode(id)); !ok {
			return refusal("cdc.PutReplicas", eggs.NotExist, 0, eggs.NodeID(id).String(), "")
		}
	}
	if f, ok := a.set(keyGroup(op.Group), op); ok {
		f.Groups = insert(f.Groups, op)
	}
	return nil
}

// putCluster names the cluster once; how many replicas it wants may change.
func (a *application) putCluster(op *wire.PutCluster) *wire.Error {
	have := &wire.PutCluster{}
	if load(a.tx, keyCluster, have) && have.Id != op.Id {
		return refusal("cdc.PutCluster", eggs.Conflict, 0, eggs.ClusterID(have.Id).String(),
			"this cluster has its name already")
	}
	if f, ok := a.set(keyCluster, op); ok {
		f.Cluster, f.Replicas = op.Id, op.Replicas
	}
	return nil
}

// order is what the facts' lists are sorted by.
func order(m message) uint64 {
	switch m := m.(type) {
	case *wire.NodeFact:
		return m.Id
	case *wire.DiskFact:
		return m.Id
	case *wire.PutReplicas:
		return uint64(m.Group)
	}
	return 0
}

// insert puts m where it belongs in a sorted list, or in the place of its predecessor.
func insert[M message](list []M, m M) []M {
	at, found := slices.BinarySearchFunc(list, order(m), func(x M, id uint64) int {
		switch n := order(x); {
		case n < id:
			return -1
		case n > id:
			return 1
		}
		return 0
	})
	if found {
		list[at] = m
		return list
	}
	return slices.Insert(list, at, m)
}

// readFacts reads them all.
func readFacts(r raftgroup.Reader) *wire.Facts {
	f := &wire.Facts{Version: loadState(r).Facts}
	cluster := &wire.PutCluster{}
	if load(r, keyCluster, cluster) {
		f.Cluster, f.Replicas = cluster.Id, cluster.Replicas
	}
	each(r, prefixNode, func(_, v []byte) {
		n := &wire.NodeFact{}
		decode(v, n)
		f.Nodes = append(f.Nodes, n)
	})
	each(r, prefixDisk, func(_, v []byte) {
		d := &wire.DiskFact{}
		decode(v, d)
		f.Disks = append(f.Disks, d)
	})
	each(r, prefixGroup, func(_, v []byte) {
		g := &wire.PutReplicas{}
		decode(v, g)
		f.Groups = append(f.Groups, g)
	})
	return f
}
