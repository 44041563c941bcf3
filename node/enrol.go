package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

const (
	enrolRetry   = 200 * time.Millisecond // between attempts to be recorded as a member
	readyEvery   = 20 * time.Millisecond  // how soon "ready" is noticed
	readySettled = 2 * time.Second        // after it, only problems are looked for, so rarely
	diskEvery    = 3 * time.Second        // between pushes of the disks' fill, and looks for one that hangs
)

// enrol has the coordinator record this node and its disks: gossip says who is
// alive, but only the durable facts say who belongs. It goes on until it succeeds.
func (n *Node) enrol(ctx context.Context) {
	for {
		err := n.tryEnrol(ctx)
		if err == nil {
			n.enrolled.Store(true)
			n.refused.Store(nil)
			return
		}
		if ctx.Err() != nil {
			return
		}
		why := err.Error()
		n.refused.Store(&why)
		n.log.Debug("not recorded as a member yet", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(enrolRetry):
		}
	}
}

func (n *Node) tryEnrol(ctx context.Context) error {
	facts, err := n.queryFacts(ctx)
	if err != nil {
		return err
	}
	n.mu.Lock()
	id := *n.identity
	n.mu.Unlock()
	if facts.Cluster != 0 && facts.Cluster != uint64(id.cluster()) {
		return eggs.E("node.Enrol", eggs.WrongCluster, "this data folder belongs to cluster "+id.Cluster)
	}
	if id.First && facts.Cluster == 0 {
		if err := n.record(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_PutCluster{PutCluster: &wire.PutCluster{
			Id: uint64(id.cluster()), Replicas: uint32(id.Replicas),
		}}}); err != nil {
			return err
		}
	}
	if err := n.banished(facts); err != nil {
		n.fail(err)
		return err
	}
	for _, d := range n.blocks.Disks() {
		if err := n.enrolDisk(ctx, facts, d); err != nil {
			return err
		}
	}
	domain := id.Domain
	if domain == "" {
		domain = id.Node
	}
	return n.record(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_PutNode{PutNode: &wire.PutNode{
		Node: &wire.NodeFact{
			Id: uint64(n.id), Address: id.advertised(), Domain: domain, Roles: id.Roles, Joined: int64(n.clock()),
			Protocol: n.protocol(),
		},
	}}})
}

// banished returns why this node does not belong any more, nil when it does or may join.
func (n *Node) banished(facts *wire.Facts) error {
	me := factOfNode(facts, n.id)
	if me == nil || !me.Removed && !me.Lost {
		return nil
	}
	was := "was declared lost"
	if me.Removed {
		was = "was removed from the cluster"
	}
	return &eggs.Error{
		Op: "node.Enrol", Name: n.id.String(), Kind: eggs.Permission,
		Err: fmt.Errorf("this node %s, and its replicas and disks were replaced: "+
			"start with an empty --data and --join as a new node", was),
	}
}

// enrolDisk records a disk that is new, or that comes from another node: its identity is on
// the disk, and its node is where it is served.
func (n *Node) enrolDisk(ctx context.Context, facts *wire.Facts, d *wire.DiskStatus) error {
	put := &wire.PutDisk{Disk: &wire.DiskFact{Id: d.Id, Node: uint64(n.id), Class: d.Class}}
	f := factOfDisk(facts, d.Id)
	switch {
	case d.Id == 0 || d.Error != "":
		return nil
	case f == nil:
	case f.Retired || f.Node == uint64(n.id):
		return nil
	default:
		put.Mask = diskNodeMask
		n.events.add("info", fmt.Sprintf("disk %s comes here from node %s", eggs.DiskID(d.Id), eggs.NodeID(f.Node)))
	}
	return n.record(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_PutDisk{PutDisk: put}})
}

const diskNodeMask = 8 // of PutDisk: the node

func factOfDisk(f *wire.Facts, id uint64) *wire.DiskFact {
	for _, d := range f.GetDisks() {
		if d.Id == id {
			return d
		}
	}
	return nil
}

func factOfNode(f *wire.Facts, id eggs.NodeID) *wire.NodeFact {
	for _, x := range f.GetNodes() {
		if x.Id == uint64(id) {
			return x
		}
	}
	return nil
}

// record changes one durable fact.
func (n *Node) record(ctx context.Context, r *wire.CdcRequest) error {
	_, err := n.client.CDC(ctx, r)
	return err
}

func (n *Node) queryFacts(ctx context.Context) (*wire.Facts, error) {
	a, err := n.client.QueryCDC(ctx, &wire.CdcQuery{Query: &wire.CdcQuery_GetFacts{GetFacts: &wire.GetFacts{}}})
	if err != nil {
		return nil, err
	}
	if a.Facts == nil {
		return nil, errors.New("the coordinator answered no facts")
	}
	return a.Facts, nil
}

// waiting says in words what this node waits for; "" when it is ready.
func (n *Node) waiting() string {
	if !n.enrolled.Load() {
		if why := n.refused.Load(); why != nil {
			return "not recorded as a member yet: " + *why
		}
		return "not recorded as a member yet"
	}
	facts := n.router.Facts()
	me := factOfNode(facts, n.id)
	if me == nil || !me.Placed {
		return "replicas are being placed"
	}
	for _, g := range facts.GetGroups() {
		if why := n.waitingFor(g); why != "" {
			return why
		}
	}
	for _, d := range n.blocks.Disks() {
		if d.Error == "" && d.Id == 0 {
			return "disk " + d.Path + " is not open yet"
		}
	}
	return ""
}

// mayLag is how many entries a replica may be behind: none before the node was
// ready the first time; later it is only busy.
func (n *Node) mayLag() uint64 {
	const busy = 10_000 // entries: seconds of one group's fastest writes
	select {
	case <-n.ready:
		return busy
	default:
		return 0
	}
}

// waitingFor says what is missing at one replica assigned to this node.
func (n *Node) waitingFor(g *wire.PutReplicas) string {
	id := eggs.GroupID(g.Group)
	for _, l := range g.Learners { // one more, later, is the placer's business
		if l == uint64(n.id) && n.mayLag() == 0 {
			return fmt.Sprintf("group %s is being copied here", id)
		}
	}
	for _, v := range g.Voters {
		if v != uint64(n.id) {
			continue
		}
		here := n.host.Group(id)
		if here == nil {
			return fmt.Sprintf("group %s is not open yet", id)
		}
		if st := here.Status(); st.Leader == 0 {
			return fmt.Sprintf("group %s has no leader", id)
		} else if st.Applied+n.mayLag() < st.Committed {
			return fmt.Sprintf("group %s catches up, %d entries behind", id, st.Committed-st.Applied)
		}
	}
	return ""
}

// watchReady closes ready the first time nothing is waited for, and keeps isReady true to the facts.
func (n *Node) watchReady(ctx context.Context) {
	every := readyEvery
	for {
		now := n.waiting() == ""
		if was := n.isReady.Swap(now); now && !was && every == readyEvery {
			n.events.add("info", fmt.Sprintf("ready after %s", time.Since(n.started).Round(time.Millisecond)))
			close(n.ready)
			every = readySettled
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

// reportDisks keeps the others informed of this node's disks; blockd tells people of those that fail.
func (n *Node) reportDisks(ctx context.Context) {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n.gossip.Update()
	}
}
