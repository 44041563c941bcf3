package client

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// statusTimeout is how long a node may take to speak for itself.
const statusTimeout = 2 * time.Second

// The words of ClusterStatus.Health.
const (
	Healthy     = "healthy"
	Degraded    = "degraded"
	Unavailable = "unavailable"
)

// ListTransient lists a shard's transient files with id > after; due: only
// those that may be destroyed now.
func (c *Client) ListTransient(ctx context.Context, shard eggs.ShardID, after eggs.InodeID,
	limit int, due bool,
) (files []TransientFile, now eggs.Time, end bool, err error) {
	ans, err := c.Query(ctx, &wire.ShardQuery{
		Shard: uint32(shard),
		Query: &wire.ShardQuery_ListTransient{ListTransient: &wire.ListTransient{
			After: uint64(after), Limit: uint32(limit), Due: due,
		}},
	})
	if err != nil {
		return nil, 0, false, fail("ListTransient", 0, "", err)
	}
	got := ans.GetListTransient()
	for _, f := range got.GetFiles() {
		files = append(files, TransientFile{
			ID: eggs.InodeID(f.Id), Deadline: eggs.Time(f.Deadline),
			Dir: eggs.InodeID(f.Dir), Name: f.Name, Size: int64(f.Size), Expired: f.Expired,
		})
	}
	return files, eggs.Time(got.GetNow()), got.GetEnd(), nil
}

// NodeStatus asks one node about itself.
func (c *Client) NodeStatus(ctx context.Context, node eggs.NodeID) (*wire.NodeStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	msg, err := c.CallNode(ctx, node, wire.MethodNodeStatus, &wire.GetNodeStatus{},
		func() wire.Message { return &wire.NodeStatus{} })
	if err != nil {
		return nil, fail("NodeStatus", 0, node.String(), err)
	}
	return msg.(*wire.NodeStatus), nil
}

// ClusterStatus asks all nodes at the same time. One that does not answer is
// among Silent and a problem in words.
func (c *Client) ClusterStatus(ctx context.Context) (*ClusterStatus, error) {
	r := c.Routes()
	if len(r.Nodes) == 0 {
		return nil, eggs.E("client.ClusterStatus", eggs.Unavailable, "no node is known")
	}
	s := &ClusterStatus{Cluster: c.cluster(), Routes: r}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range r.Nodes {
		wg.Go(func() {
			st, err := c.NodeStatus(ctx, eggs.NodeID(n.Id))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.Silent = append(s.Silent, eggs.NodeID(n.Id))
				s.Problems = append(s.Problems, &wire.Problem{
					What:  fmt.Sprintf("node %s at %s does not answer: %v", eggs.NodeID(n.Id), n.Address, err),
					Doing: "its groups are led by the others; blocks on its disks are rebuilt when read",
				})
				return
			}
			s.Nodes = append(s.Nodes, st)
		})
	}
	wg.Wait()
	if len(s.Nodes) == 0 {
		return nil, eggs.E("client.ClusterStatus", eggs.Unavailable, "no node answers")
	}
	sort.Slice(s.Nodes, func(i, j int) bool { return s.Nodes[i].Id < s.Nodes[j].Id })
	sort.Slice(s.Silent, func(i, j int) bool { return s.Silent[i] < s.Silent[j] })
	s.judge()
	return s, nil
}

// judge adds the problems that the nodes' words amount to, and the health.
func (s *ClusterStatus) judge() {
	seen := make(map[string]bool)
	for _, n := range s.Nodes {
		for _, p := range n.Problems {
			if !seen[p.What] {
				seen[p.What] = true
				s.Problems = append(s.Problems, p)
			}
		}
		for _, d := range n.Disks {
			if d.Error != "" {
				s.Problems = append(s.Problems, &wire.Problem{
					What: fmt.Sprintf("disk %s (%s) of node %s does not serve: %s",
						eggs.DiskID(d.Id), d.Path, eggs.NodeID(n.Id), d.Error),
					Doing: "its blocks are rebuilt when read",
				})
			}
		}
	}
	if n := s.leaderless(); n > 0 {
		s.Problems = append(s.Problems, &wire.Problem{
			Unavailable: true,
			What:        fmt.Sprintf("%d of %d groups have no leader", n, eggs.Groups),
			Doing:       "their replicas elect one as soon as a majority of them is there",
		})
	}
	s.Health = Healthy
	for _, p := range s.Problems {
		if p.Unavailable {
			s.Health = Unavailable
			return
		}
		s.Health = Degraded
	}
}

// leaderless counts the groups that no node leads, by anybody's word.
func (s *ClusterStatus) leaderless() int {
	led := make(map[uint32]bool, eggs.Groups)
	for _, n := range s.Nodes {
		for _, g := range n.Groups {
			if g.State == "leader" || g.Leader != 0 && g.Leader == n.Id {
				led[g.Group] = true
			}
		}
	}
	return eggs.Groups - len(led)
}
