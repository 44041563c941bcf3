package web

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// figures is a reporter of a node with a repairer.
type figures struct{}

func (figures) NodeStatus() *wire.NodeStatus { return &wire.NodeStatus{} }

func (figures) ClusterStatus(context.Context) (*client.ClusterStatus, error) { return leaving(), nil }

func (figures) Waiting() string { return "" }

func (figures) GroupHash(eggs.GroupID) (hash, index uint64, err error) { return 0, 0, nil }

func (figures) Figures() []Figure {
	return []Figure{
		{Name: "upkeep_repaired_blocks_total", Value: 340},
		{Name: "upkeep_repair_queue_files", Value: 12},
	}
}

// leaving is a cluster in which nodes and disks go in every way: node 1 is well, 2 drains, 3 is lost,
// 4 was removed, and 5 is down.
func leaving() *client.ClusterStatus {
	since := time.Date(2026, 11, 28, 8, 15, 0, 0, time.Local).UnixNano()
	facts := &wire.Facts{
		Version: 9,
		Nodes: []*wire.NodeFact{
			{Id: 1},
			{Id: 2, Draining: true},
			{Id: 3, Lost: true},
			{Id: 4, Address: "h4:1", Removed: true, RemovedAt: since},
			{Id: 5},
		},
		Disks: []*wire.DiskFact{
			{Id: 10, Node: 1, NoWrite: true},
			{Id: 11, Node: 1, Draining: true},
			{Id: 12, Node: 1, Draining: true},
			{Id: 13, Node: 1, Retired: true, RetiredAt: since, Why: "asked for, empty"},
			{Id: 14, Node: 1},
			{Id: 15, Node: 1},
			{Id: 20, Node: 2},
			{Id: 30, Node: 3, Retired: true},
			{Id: 50, Node: 5, SilentSince: since},
		},
		Groups: []*wire.PutReplicas{
			{Group: 0, Voters: []uint64{1, 2, 3}},
			{Group: 1, Voters: []uint64{1, 2}, Learners: []uint64{5}, Leaving: []uint64{3}},
			{Group: 2, Voters: []uint64{1, 2, 5}},
		},
	}
	served := func(id, free, blocks uint64) *wire.DiskStatus {
		return &wire.DiskStatus{Id: id, Path: "/d", Capacity: 100, Free: free, Blocks: blocks, Writable: true}
	}
	old := &wire.Facts{Version: 8, Nodes: []*wire.NodeFact{{Id: 1}, {Id: 2}, {Id: 3}, {Id: 4}, {Id: 5}}}
	return &client.ClusterStatus{
		Routes: &wire.Routes{Nodes: []*wire.RouteNode{
			{Id: 1, Address: "h1:1"},
			{Id: 2, Address: "h2:1"},
			{Id: 3, Address: "h3:1"},
			{Id: 4, Address: "h4:1"},
			{Id: 5, Address: "h5:1"},
		}},
		Nodes: []*wire.NodeStatus{
			{Id: 1, Ready: true, Facts: facts, Disks: []*wire.DiskStatus{
				served(10, 50, 1), served(11, 50, 7), served(12, 50, 0), served(13, 50, 0), served(14, 0, 3),
				{Id: 15, Path: "/d", Capacity: 100, Free: 50}, // it answers slowly
			}},
			{Id: 2, Ready: true, Facts: old, Disks: []*wire.DiskStatus{served(20, 50, 4)}},
		},
		Health: client.Degraded,
	}
}

// TestMembers: who looks at the page while nodes and disks go must see how far that is, and must
// not be alarmed by nodes that were removed. Node 2 is behind with its facts: the newest ones count.
func TestMembers(t *testing.T) {
	p := pictureOf(leaving(), nil)
	nodes := map[string]string{}
	for _, n := range p.Nodes {
		nodes[n.Address] = n.State + "; " + n.Left
	}
	for addr, want := range map[string]string{
		"h1:1": "ready; ", "h2:1": "draining; 3 replicas and 4 blocks left", "h3:1": "lost; 2 replicas not replaced yet",
		"h5:1": "down; ",
	} {
		if nodes[addr] != want {
			t.Errorf("node at %s: %q, want %q", addr, nodes[addr], want)
		}
	}
	if s, ok := nodes["h4:1"]; ok || len(p.Removed) != 1 || !strings.Contains(p.Removed[0], "h4:1") {
		t.Errorf("the removed node is shown as %q, and the removed are %q", s, p.Removed)
	}
	var disks []string
	for _, n := range p.Nodes {
		for _, d := range n.Disks {
			disks = append(disks, d.State)
		}
	}
	want := "no-write|draining, 7 left|drained|retired|full|slow|draining, 4 left|silent since 08:15:00"
	if got := strings.Join(disks, "|"); got != want {
		t.Errorf("disks are %q, want %q", got, want)
	}
	if p.Nodes[2].Retired != 1 {
		t.Errorf("node 3 has %d retired disks, want 1", p.Nodes[2].Retired)
	}
}

// TestDrained: a drain that has ended must say so, and one with a disk out of sight must not.
func TestDrained(t *testing.T) {
	st := leaving()
	facts := st.Nodes[0].Facts
	facts.Groups, st.Nodes[1].Disks[0].Blocks = nil, 0
	if p := pictureOf(st, nil); p.Nodes[1].State != "drained" {
		t.Errorf("an empty draining node is %q", p.Nodes[1].State)
	}
	facts.Disks = append(facts.Disks, &wire.DiskFact{Id: 21, Node: 2})
	if p := pictureOf(st, nil); p.Nodes[1].State != "draining" {
		t.Errorf("a draining node with a disk out of sight is %q", p.Nodes[1].State)
	}
}

// TestPage: the template must draw all of it, and say what this node repairs.
func TestPage(t *testing.T) {
	p := pictureOf(leaving(), nil)
	p.Repair = repairOf(figures{})
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, "page", p); err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`<[^>]*>`).ReplaceAllString(b.String(), "")
	for _, want := range []string{
		"3 replicas and 4 blocks left", "Removed: ", "silent since 08:15:00", "and 1 retired",
		"Repair by this node: 12 files to look at; 340 blocks",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}
