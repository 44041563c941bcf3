package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// members is the cluster's nodes and disks: what is recorded of them, and what they say.
type members struct {
	facts    *wire.Facts
	status   *client.ClusterStatus
	speaking map[uint64]*wire.NodeStatus
	disks    map[uint64]*wire.DiskStatus // those that a node serves
}

func readMembers(ctx context.Context, c *client.Client) (*members, error) {
	a, err := c.QueryCDC(ctx, &wire.CdcQuery{Query: &wire.CdcQuery_GetFacts{GetFacts: &wire.GetFacts{}}})
	if err != nil {
		return nil, err
	}
	st, err := c.ClusterStatus(ctx)
	if err != nil {
		return nil, err
	}
	m := &members{
		facts: a.Facts, status: st, speaking: map[uint64]*wire.NodeStatus{}, disks: map[uint64]*wire.DiskStatus{},
	}
	for _, n := range st.Nodes {
		m.speaking[n.Id] = n
		for _, d := range n.Disks {
			if d.Id != 0 && d.Error == "" {
				m.disks[d.Id] = d
			}
		}
	}
	return m, nil
}

// node finds a node by its id, the beginning of it, or its address; the newest of several at one address.
func (m *members) node(name string) (*wire.NodeFact, error) {
	var found []*wire.NodeFact
	for _, n := range m.facts.Nodes {
		if strings.HasPrefix(eggs.NodeID(n.Id).String(), name) || n.Address == name && !n.Removed {
			found = append(found, n)
		}
	}
	if len(found) > 1 && found[0].Address == name {
		slices.SortFunc(found, func(a, b *wire.NodeFact) int { return int((b.Joined - a.Joined) >> 32) })
		found = found[:1]
	}
	switch len(found) {
	case 0:
		return nil, &eggs.Error{Op: "eggs node", Name: name, Kind: eggs.NotExist}
	case 1:
		return found[0], nil
	}
	return nil, usageError{fmt.Errorf("%s: %d nodes begin so; give more of the id", name, len(found))}
}

// disk finds a disk by its id or the beginning of it.
func (m *members) disk(name string) (*wire.DiskFact, error) {
	var found []*wire.DiskFact
	for _, d := range m.facts.Disks {
		if strings.HasPrefix(eggs.DiskID(d.Id).String(), name) {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return nil, &eggs.Error{Op: "eggs disk", Name: name, Kind: eggs.NotExist}
	case 1:
		return found[0], nil
	}
	return nil, usageError{fmt.Errorf("%s: %d disks begin so; give more of the id", name, len(found))}
}

// replicas counts the groups that name a node, and those that it should lead.
func (m *members) replicas(node uint64) (holds, leads int) {
	for _, g := range m.facts.Groups {
		if slices.Contains(slices.Concat(g.Voters, g.Learners, g.Leaving), node) {
			holds++
		}
	}
	for _, l := range m.status.Routes.GetLeaders() {
		if l == node {
			leads++
		}
	}
	return holds, leads
}

// blocks counts what a node's disks say that they hold; known is false when some of them is not served.
func (m *members) blocks(node uint64) (blocks uint64, known bool) {
	known = true
	for _, d := range m.facts.Disks {
		if d.Node != node || d.Retired {
			continue
		}
		if s := m.disks[d.Id]; s != nil {
			blocks += s.Blocks
		} else {
			known = false
		}
	}
	return blocks, known
}

// filesOnDisk counts files with blocks on a disk, by the shards' reverse index, up to limit.
func filesOnDisk(ctx context.Context, c *client.Client, disk uint64, limit int) (int, error) {
	count := 0
	for s := range uint32(eggs.Shards) {
		a, err := c.Query(ctx, &wire.ShardQuery{Shard: s, Query: &wire.ShardQuery_FilesOnDisk{
			FilesOnDisk: &wire.FilesOnDisk{Disk: disk, Limit: uint32(limit - count)},
		}})
		if err != nil {
			return 0, err
		}
		if count += len(a.GetFilesOnDisk().GetFiles()); count >= limit {
			break
		}
	}
	return count, nil
}

func refuse(op, name, format string, a ...any) error {
	return &eggs.Error{Op: op, Name: name, Kind: eggs.Conflict, Err: fmt.Errorf(format, a...)}
}

func putNode(ctx context.Context, c *client.Client, n *wire.NodeFact, mask uint32) error {
	_, err := c.CDC(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_PutNode{PutNode: &wire.PutNode{Node: n, Mask: mask}}})
	return err
}

func putDisk(ctx context.Context, c *client.Client, d *wire.DiskFact, mask uint32) error {
	_, err := c.CDC(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_PutDisk{PutDisk: &wire.PutDisk{Disk: d, Mask: mask}}})
	return err
}

// The bits of PutNode.mask and PutDisk.mask that an operator sets.
const (
	maskDraining = 1
	maskLost     = 4

	maskNoWrite      = 1
	maskDiskDraining = 2
	maskRetired      = 4
)
