package cdc

import (
	"testing"

	"eggsfs/eggs"
	"eggsfs/wire"
)

func factNode(id uint64, mask uint32, f *wire.NodeFact) *wire.CdcRequest {
	f.Id = id
	return &wire.CdcRequest{Op: &wire.CdcRequest_PutNode{PutNode: &wire.PutNode{Node: f, Mask: mask}}}
}

func factDisk(id uint64, mask uint32, f *wire.DiskFact) *wire.CdcRequest {
	f.Id = id
	return &wire.CdcRequest{Op: &wire.CdcRequest_PutDisk{PutDisk: &wire.PutDisk{Disk: f, Mask: mask}}}
}

func factGroup(r *wire.PutReplicas) *wire.CdcRequest {
	return &wire.CdcRequest{Op: &wire.CdcRequest_PutReplicas{PutReplicas: r}}
}

func factRemove(id uint64) *wire.CdcRequest {
	return &wire.CdcRequest{Op: &wire.CdcRequest_RemoveNode{RemoveNode: &wire.RemoveNode{Id: id}}}
}

func factCluster(id uint64, replicas uint32, retire int64) *wire.CdcRequest {
	return &wire.CdcRequest{Op: &wire.CdcRequest_PutCluster{
		PutCluster: &wire.PutCluster{Id: id, Replicas: replicas, RetireAfterNs: retire},
	}}
}

// TestLifeOfNodes: what is declared gone stays gone, disks share their node's fate, and
// nothing that may still hold the only copy of anything is forgotten.
func TestLifeOfNodes(t *testing.T) {
	stale := factCluster(0, 3, 0)
	stale.IfVersion = 1
	fresh := factCluster(0, 3, 0)
	fresh.IfVersion = 5
	const ok = eggs.Other
	l := newLone(t)
	s := l.open()
	for i, row := range []struct {
		what    string
		r       *wire.CdcRequest
		want    eggs.Kind
		version uint64
	}{
		{"a wish before there is a cluster", factCluster(0, 3, 0), eggs.Invalid, 0},
		{"the cluster", factCluster(5, 1, 0), ok, 1},
		{"a node", factNode(1, 0, &wire.NodeFact{Address: "a:1", Roles: 7, Protocol: 1}), ok, 2},
		{"a second", factNode(2, 0, &wire.NodeFact{Address: "b:1", Roles: 7, Protocol: 2}), ok, 3},
		{"a third", factNode(3, 0, &wire.NodeFact{Address: "c:1", Roles: 7}), ok, 4},
		{"when disks retire, and the rest stays", factCluster(0, 0, 9), ok, 5},
		{"a decision from old facts", stale, eggs.Conflict, 5},
		{"a decision from these facts", fresh, ok, 6},
		{"a disk", factDisk(20, 0, &wire.DiskFact{Node: 2}), ok, 7},
		{"another", factDisk(21, 0, &wire.DiskFact{Node: 2}), ok, 8},
		{"a drain takes the disks along, in one version", factNode(2, 1, &wire.NodeFact{Draining: true}), ok, 9},
		{"a disk that comes to a node that drains", factDisk(22, 0, &wire.DiskFact{Node: 2}), ok, 10},
		{"the drain is taken back", factNode(2, 1, &wire.NodeFact{}), ok, 11},
		{"a disk moves to another node", factDisk(22, 8, &wire.DiskFact{Node: 3}), ok, 12},
		{"a disk falls silent", factDisk(21, 16, &wire.DiskFact{SilentSince: 77}), ok, 13},
		{"replicas", factGroup(&wire.PutReplicas{Group: 3, Voters: []uint64{1, 2}, Leader: 2}), ok, 14},
		{"a record that nobody saw", factGroup(&wire.PutReplicas{
			Group: 3, Voters: []uint64{1}, Version: 13,
		}), eggs.Conflict, 14},
		{"every voter leaves", factGroup(&wire.PutReplicas{
			Group: 3, Voters: []uint64{1}, Leaving: []uint64{1},
		}), eggs.Invalid, 14},
		{"one that leaves leads", factGroup(&wire.PutReplicas{
			Group: 3, Voters: []uint64{1, 2}, Leaving: []uint64{2}, Leader: 2,
		}), eggs.Invalid, 14},
		{"a learner leaves", factGroup(&wire.PutReplicas{
			Group: 3, Voters: []uint64{1}, Learners: []uint64{2}, Leaving: []uint64{2},
		}), eggs.Invalid, 14},
		{"a node is lost, its disks are retired, in one version", factNode(2, 4, &wire.NodeFact{Lost: true}), ok, 15},
		{"it is not found again", factNode(2, 4, &wire.NodeFact{}), eggs.Conflict, 15},
		{"nor comes back", factNode(2, 0, &wire.NodeFact{Address: "b:2"}), eggs.Conflict, 15},
		{"nor do its disks", factDisk(20, 8, &wire.DiskFact{Node: 3}), eggs.Conflict, 15},
		{"nor get disks", factDisk(23, 0, &wire.DiskFact{Node: 2}), eggs.Conflict, 15},
		{"nor a silence", factDisk(20, 16, &wire.DiskFact{SilentSince: 1}), eggs.Conflict, 15},
		{"to retire again is nothing", factDisk(20, 4, &wire.DiskFact{Retired: true}), ok, 15},
		{"it is not learned from", factGroup(&wire.PutReplicas{
			Group: 4, Voters: []uint64{1}, Learners: []uint64{2},
		}), eggs.Conflict, 15},
		{"it holds a replica", factRemove(2), eggs.Conflict, 15},
		{"it leaves", factGroup(&wire.PutReplicas{
			Group: 3, Voters: []uint64{1, 2}, Leaving: []uint64{2}, Version: 14,
		}), ok, 16},
		{"it is on its way out", factRemove(2), eggs.Conflict, 16},
		{"it has left", factGroup(&wire.PutReplicas{Group: 3, Voters: []uint64{1}, Version: 16}), ok, 17},
		{"it is removed", factRemove(2), ok, 18},
		{"once", factRemove(2), ok, 18},
		{"it is refused for ever", factNode(2, 0, &wire.NodeFact{Address: "b:2"}), eggs.Conflict, 18},
		{"with any flag", factNode(2, 2, &wire.NodeFact{Placed: true}), eggs.Conflict, 18},
		{"and gets no replica", factGroup(&wire.PutReplicas{
			Group: 3, Voters: []uint64{1}, Learners: []uint64{2},
		}), eggs.Conflict, 18},
		{"a node with a disk in use", factRemove(3), eggs.Conflict, 18},
		{"the disk retires", factDisk(22, 4, &wire.DiskFact{Retired: true, Why: "asked"}), ok, 19},
		{"now it may go", factRemove(3), ok, 20},
		{"a flag that nobody knows", factNode(1, 8, &wire.NodeFact{}), eggs.Invalid, 20},
	} {
		got := l.begin(row.r, s, uint64(i+1), uint64(i+1)).reply
		if kind(got) != row.want || row.want != eggs.Invalid && got.Version != row.version {
			t.Errorf("%s: %v, want %v and version %d", row.what, got, row.want, row.version)
		}
		if v := l.m.Facts().Version; v != row.version {
			t.Errorf("%s: facts of version %d, want %d", row.what, v, row.version)
		}
		l.sound()
		switch row.version {
		case 9:
			for _, d := range l.m.Facts().Disks {
				if !d.Draining {
					t.Errorf("disk %d does not drain with its node", d.Id)
				}
			}
		case 11:
			for _, d := range l.m.Facts().Disks {
				if d.Draining {
					t.Errorf("disk %d drains, though its node does not any more", d.Id)
				}
			}
		}
	}
	f := l.m.Facts()
	if f.Replicas != 3 || f.RetireAfterNs != 9 || f.Cluster != 5 {
		t.Errorf("the cluster: %v", f)
	}
	for i, want := range []string{"its node was declared lost", "its node was declared lost", "asked"} {
		if d := f.Disks[i]; !d.Retired || !d.NoWrite || d.Draining || d.RetiredAt == 0 || d.Why != want {
			t.Errorf("disk %v, want one retired since %s", d, want)
		}
	}
	if n := f.Nodes[1]; !n.Removed || !n.Lost || n.RemovedAt == 0 || n.Protocol != 2 {
		t.Errorf("node %v, want one removed", n)
	}
}
