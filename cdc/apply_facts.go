package cdc

import (
	"fmt"
	"slices"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// fact changes one durable fact, and answers the version that holds it. What
// changes nothing leaves the version alone.
func (a *application) fact(r *wire.CdcRequest) *wire.CdcReply {
	var e *wire.Error
	if r.IfVersion != 0 && r.IfVersion != a.state.Facts {
		e = refusal("cdc.Facts", eggs.Conflict, 0, "", fmt.Sprintf(
			"decided from facts of version %d, which are of version %d now", r.IfVersion, a.state.Facts))
		return &wire.CdcReply{Error: e, Version: a.state.Facts}
	}
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
// published. Only the lists are copied: what is in them never changes. What one entry
// changes is one version.
func (a *application) newFacts() *wire.Facts {
	if a.facts != nil {
		return a.facts
	}
	a.state.Facts++
	old := a.m.Facts()
	a.facts = &wire.Facts{
		Cluster: old.Cluster, Replicas: old.Replicas, RetireAfterNs: old.RetireAfterNs, Version: a.state.Facts,
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
	setLost     = 4

	setNoWrite      = 1
	setDiskDraining = 2
	setRetired      = 4
	setDiskNode     = 8
	setSilent       = 16
)

// putNode registers a node or changes what the mask names. A node that drains has its
// disks drain with it, and one that is lost has them retired: what is on them is gone.
func (a *application) putNode(op *wire.PutNode) *wire.Error {
	const verb = "cdc.PutNode"
	want, have := op.Node, &wire.NodeFact{}
	name := eggs.NodeID(want.Id).String()
	found := load(a.tx, keyNode(want.Id), have)
	switch {
	case !found && op.Mask != 0 && want.Address == "":
		return refusal(verb, eggs.NotExist, 0, name, "")
	case !found:
		have.Id, have.Joined = want.Id, want.Joined
		if have.Joined == 0 {
			have.Joined = int64(a.now)
		}
	case have.Removed:
		return refusal(verb, eggs.Conflict, 0, name, "it was removed from this cluster, for ever")
	case have.Lost && (op.Mask&^setPlaced == 0 && want.Address != "" || op.Mask&setLost != 0 && !want.Lost ||
		op.Mask&setDraining != 0 && !want.Draining):
		return refusal(verb, eggs.Conflict, 0, name, "it was declared lost, for ever")
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
	if want.Protocol != 0 {
		have.Protocol = want.Protocol
	}
	drains := have.Draining
	if op.Mask&setDraining != 0 {
		have.Draining = want.Draining
	}
	if op.Mask&setPlaced != 0 {
		have.Placed = want.Placed
	}
	if op.Mask&setLost != 0 {
		have.Lost = want.Lost
	}
	if f, ok := a.set(keyNode(want.Id), have); ok {
		f.Nodes = insert(f.Nodes, have)
	}
	a.disksFollow(have, drains != have.Draining)
	return nil
}

// disksFollow has a node's disks share its fate.
func (a *application) disksFollow(n *wire.NodeFact, drain bool) {
	if !drain && !n.Lost {
		return
	}
	for _, old := range slices.Clone(a.latest().Disks) {
		if old.Node != n.Id || old.Retired {
			continue
		}
		d := &wire.DiskFact{}
		load(a.tx, keyDisk(old.Id), d)
		if drain {
			d.Draining = n.Draining
		}
		if n.Lost {
			a.retire(d, "its node was declared lost")
		}
		if f, ok := a.set(keyDisk(d.Id), d); ok {
			f.Disks = insert(f.Disks, d)
		}
	}
}

func (a *application) retire(d *wire.DiskFact, why string) {
	d.Retired, d.NoWrite, d.Draining, d.RetiredAt, d.Why = true, true, false, int64(a.now), why
}

// latest is the facts as this entry has made them so far.
func (a *application) latest() *wire.Facts {
	if a.facts != nil {
		return a.facts
	}
	return a.m.Facts()
}

// removeNode ends a membership for good. The node may hold no replica, whose group would
// wait for it for ever, and no disk that may still hold what is nowhere else. Its record
// stays, so that its identity is known and refused.
func (a *application) removeNode(id uint64) *wire.Error {
	const verb = "cdc.RemoveNode"
	name := eggs.NodeID(id).String()
	n := &wire.NodeFact{}
	if !load(a.tx, keyNode(id), n) {
		return refusal(verb, eggs.NotExist, 0, name, "")
	}
	if n.Removed {
		return nil
	}
	for _, g := range a.m.Facts().Groups {
		if slices.Contains(g.Voters, id) || slices.Contains(g.Learners, id) || slices.Contains(g.Leaving, id) {
			return refusal(verb, eggs.Conflict, 0, name,
				"it holds a replica of group "+eggs.GroupID(g.Group).String())
		}
	}
	for _, d := range a.m.Facts().Disks {
		if d.Node == id && !d.Retired {
			return refusal(verb, eggs.Conflict, 0, name,
				"its disk "+eggs.DiskID(d.Id).String()+" is not retired")
		}
	}
	n.Removed, n.RemovedAt, n.Draining = true, int64(a.now), false
	if f, ok := a.set(keyNode(id), n); ok {
		f.Nodes = insert(f.Nodes, n)
	}
	return nil
}

func (a *application) putDisk(op *wire.PutDisk) *wire.Error {
	const verb = "cdc.PutDisk"
	want, have := op.Disk, &wire.DiskFact{}
	name := eggs.DiskID(want.Id).String()
	found := load(a.tx, keyDisk(want.Id), have)
	home := &wire.NodeFact{}
	if !found || op.Mask&setDiskNode != 0 {
		if load(a.tx, keyNode(want.Node), home) && (home.Removed || home.Lost) {
			return refusal(verb, eggs.Conflict, 0, name,
				"node "+eggs.NodeID(want.Node).String()+" does not belong to this cluster any more")
		}
	}
	switch {
	case !found && op.Mask != 0:
		return refusal(verb, eggs.NotExist, 0, name, "")
	case !found:
		have = want
		have.Draining = have.Draining || home.Draining
		if have.Retired {
			a.retire(have, have.Why)
		}
	case have.Retired && op.Mask&setRetired != 0 && want.Retired:
		return nil // as it is
	case have.Retired && op.Mask != 0:
		return refusal(verb, eggs.Conflict, 0, name, "it is retired, for ever")
	}
	if op.Mask&setNoWrite != 0 {
		have.NoWrite = want.NoWrite
	}
	if op.Mask&setDiskDraining != 0 {
		have.Draining = want.Draining
	}
	if op.Mask&setDiskNode != 0 && have.Node != want.Node {
		have.Node, have.Draining = want.Node, have.Draining || home.Draining
	}
	if op.Mask&setSilent != 0 {
		have.SilentSince = want.SilentSince
	}
	if op.Mask&setRetired != 0 && want.Retired {
		a.retire(have, want.Why)
	}
	if f, ok := a.set(keyDisk(want.Id), have); ok {
		f.Disks = insert(f.Disks, have)
	}
	return nil
}

// putReplicas records who holds a group. What is on its way must belong to the cluster;
// what is there already may have been declared lost since.
func (a *application) putReplicas(op *wire.PutReplicas) *wire.Error {
	const verb = "cdc.PutReplicas"
	for _, id := range slices.Concat(op.Voters, op.Learners) {
		n := &wire.NodeFact{}
		if !load(a.tx, keyNode(id), n) {
			return refusal(verb, eggs.NotExist, 0, eggs.NodeID(id).String(), "")
		}
		if n.Removed || n.Lost && slices.Contains(op.Learners, id) {
			return refusal(verb, eggs.Conflict, 0, eggs.NodeID(id).String(), "it is lost or removed")
		}
	}
	have := &wire.PutReplicas{}
	found := load(a.tx, keyGroup(op.Group), have)
	if op.Version != 0 && op.Version != have.Version {
		return refusal(verb, eggs.Conflict, 0, eggs.GroupID(op.Group).String(), fmt.Sprintf(
			"its record is of version %d, not %d", have.Version, op.Version))
	}
	next := &wire.PutReplicas{
		Group: op.Group, Voters: op.Voters, Learners: op.Learners, Leaving: op.Leaving, Leader: op.Leader,
		Version: have.Version,
	}
	if found && slices.Equal(encode(have), encode(next)) {
		return nil
	}
	next.Version = a.newFacts().Version
	if f, ok := a.set(keyGroup(op.Group), next); ok {
		f.Groups = insert(f.Groups, next)
	}
	return nil
}

// putCluster names the cluster once. What it asks of the cluster may change; what is 0 stays.
func (a *application) putCluster(op *wire.PutCluster) *wire.Error {
	const verb = "cdc.PutCluster"
	have := &wire.PutCluster{}
	found := load(a.tx, keyCluster, have)
	switch {
	case !found && (op.Id == 0 || op.Replicas == 0):
		return refusal(verb, eggs.Invalid, 0, "", "a new cluster needs an id and a number of replicas")
	case found && op.Id != 0 && op.Id != have.Id:
		return refusal(verb, eggs.Conflict, 0, eggs.ClusterID(have.Id).String(),
			"this cluster has its name already")
	}
	if op.Id != 0 {
		have.Id = op.Id
	}
	if op.Replicas != 0 {
		have.Replicas = op.Replicas
	}
	if op.RetireAfterNs != 0 {
		have.RetireAfterNs = op.RetireAfterNs
	}
	if f, ok := a.set(keyCluster, have); ok {
		f.Cluster, f.Replicas, f.RetireAfterNs = have.Id, have.Replicas, have.RetireAfterNs
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
		f.Cluster, f.Replicas, f.RetireAfterNs = cluster.Id, cluster.Replicas, cluster.RetireAfterNs
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
