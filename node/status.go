package node

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// reporter is what the status page knows of this node; it implements web.Reporter.
type reporter struct{ n *Node }

func (r reporter) NodeStatus() *wire.NodeStatus { return r.n.nodeStatus() }

func (r reporter) ClusterStatus(ctx context.Context) (*client.ClusterStatus, error) {
	return r.n.client.ClusterStatus(ctx)
}

func (r reporter) Waiting() string { return r.n.waiting() }

func (r reporter) GroupHash(id eggs.GroupID) (hash, index uint64, err error) {
	g := r.n.host.Group(id)
	if g == nil {
		return 0, 0, r.n.notHere(id)
	}
	at, sum := g.HashAt()
	return uint64(sum), at, nil
}

// nodeStatus is this node's truth about itself.
func (n *Node) nodeStatus() *wire.NodeStatus {
	n.mu.Lock()
	id := *n.identity
	n.mu.Unlock()
	st := &wire.NodeStatus{
		Id: uint64(n.id), Address: id.advertised(), Version: eggs.BuildVersion, Started: n.started.UnixNano(),
		Ready: n.isReady.Load(), Events: n.events.all(), Cluster: uint64(id.cluster()), Domain: id.Domain,
		Http: n.WebAddr(), Memory: resident(), CpuSeconds: cpuSeconds(), Disks: n.blocks.Disks(),
		Facts: n.router.Facts(),
	}
	for _, g := range n.host.Groups() {
		st.Groups = append(st.Groups, g.Status())
	}
	for _, nv := range n.gossip.View().Nodes {
		st.Members = append(st.Members, &wire.MemberStatus{
			Id: uint64(nv.ID), Address: nv.Addr, State: fmt.Sprint(nv.State),
		})
	}
	for _, d := range st.Disks {
		d.Node = uint64(n.id)
	}
	if c := n.cdc.Load(); c != nil {
		if g := n.host.Group(eggs.CDCGroup); g != nil && g.Leads() {
			st.Cdc = n.cdcStat(c)
		}
	}
	st.Problems = n.problems(st)
	return st
}

func (n *Node) cdcStat(c interface {
	Query(context.Context, *wire.CdcQuery) (*wire.CdcAnswer, error)
},
) *wire.CdcStatAnswer {
	ctx, cancel := context.WithTimeout(n.ctx, time.Second)
	defer cancel()
	a, err := c.Query(ctx, &wire.CdcQuery{Query: &wire.CdcQuery_CdcStat{CdcStat: &wire.CdcStat{}}})
	if err != nil {
		return nil
	}
	return a.Stat
}

// problems says what is missing here, and what is being done about it.
func (n *Node) problems(st *wire.NodeStatus) []*wire.Problem {
	var all []*wire.Problem
	me := n.id.String()[:8]
	if why := n.waiting(); why != "" {
		all = append(all, &wire.Problem{What: fmt.Sprintf("node %s is not ready: %s", me, why)})
	}
	if p := n.clockProblem(n.clockVerdict()); p != nil {
		all = append(all, p)
	}
	for _, d := range st.Disks {
		if f := factOfDisk(st.Facts, d.Id); f != nil && f.Retired && d.Error == "" &&
			!strings.HasPrefix(f.Why, "asked for") {
			all = append(all, &wire.Problem{
				What: fmt.Sprintf("disk %s of node %s was retired (%s) and is not used", d.Path, me, f.Why),
				Doing: "its blocks were or are made anew elsewhere; take it out, and start the node with --disk for " +
					"each disk that it has, new ones at paths of their own",
			})
		}
		if d.Error != "" {
			all = append(all, &wire.Problem{
				What:  fmt.Sprintf("disk %s of node %s does not serve: %s", d.Path, me, d.Error),
				Doing: "reads rebuild what was on it from parity; mend or replace the disk and restart the node",
			})
		}
	}
	all = append(all, n.downProblems()...)
	all = append(all, placementProblems(n.router.Facts(), n.aliveNodes())...)
	return all
}

// resident is this process's memory in bytes, as the kernel counts it.
func resident() uint64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(fields[1], 10, 64)
	return pages * uint64(os.Getpagesize())
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
