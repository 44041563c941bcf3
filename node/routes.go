package node

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/gossip"
	"eggsfs/upkeep"
	"eggsfs/wire"
)

// routesEvery bounds how often a new picture is made: subscribers get at most 20 a second.
const routesEvery = 50 * time.Millisecond

// router keeps the picture by which requests are routed and blocks placed:
// who is alive (gossip), who leads (the groups), and what the coordinator has
// decided about disks (its durable facts). It implements client.Router and
// raftshard.Blocks.
type router struct {
	n     *Node
	given given

	mu      sync.Mutex
	routes  *wire.Routes
	changed chan struct{}
	facts   *wire.Facts // as asked, where this node holds no replica of the CDC
}

func newRouter(n *Node) *router {
	return &router{n: n, routes: &wire.Routes{Cluster: uint64(n.identity.cluster())}, changed: make(chan struct{})}
}

// Routes returns the newest picture; nobody changes it any more.
func (r *router) Routes() *wire.Routes {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.routes
}

// Changed is closed at the next picture.
func (r *router) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Facts returns the durable facts as this node has them, never nil.
func (r *router) Facts() *wire.Facts {
	r.mu.Lock()
	facts := r.facts
	r.mu.Unlock()
	if r.n.host.Group(eggs.CDCGroup) != nil { // a new replica knows nothing for a while
		if here := r.n.cdcState.Facts(); here.Version >= facts.GetVersion() {
			return here
		}
	}
	if facts == nil {
		return &wire.Facts{}
	}
	return facts
}

func (r *router) setFacts(f *wire.Facts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.facts = f
}

// refresh makes a new picture.
func (r *router) refresh() {
	p := r.build(r.n.gossip.View(), r.Facts())
	r.mu.Lock()
	defer r.mu.Unlock()
	p.Version = r.routes.Version + 1
	r.routes = p
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *router) build(view *gossip.View, facts *wire.Facts) *wire.Routes {
	p := &wire.Routes{Cluster: uint64(r.n.identity.cluster())}
	domain, gone := map[uint64]string{}, map[uint64]bool{}
	for _, f := range facts.GetNodes() {
		gone[f.Id] = f.Removed
	}
	down := r.n.host.Down() // sooner than gossip
	for _, nv := range view.Nodes {
		if gone[uint64(nv.ID)] {
			continue
		}
		d := nv.Domain
		if d == "" {
			d = nv.ID.String()
		}
		domain[uint64(nv.ID)] = d
		p.Nodes = append(p.Nodes, &wire.RouteNode{
			Id: uint64(nv.ID), Address: nv.Addr, Domain: d,
			Alive: nv.State == gossip.Alive && !slices.Contains(down, nv.ID),
		})
	}
	for _, f := range facts.GetNodes() { // members that gossip has not met since it started
		if !f.Removed && !slices.ContainsFunc(p.Nodes, func(n *wire.RouteNode) bool { return n.Id == f.Id }) {
			p.Nodes = append(p.Nodes, &wire.RouteNode{Id: f.Id, Address: f.Address, Domain: f.Domain})
		}
	}
	slices.SortFunc(p.Nodes, func(a, b *wire.RouteNode) int { return strings.Compare(a.Address, b.Address) })
	closed := map[uint64]bool{} // for writing
	for d := range upkeep.LeavingDisks(facts) {
		closed[uint64(d)] = true
	}
	for _, d := range facts.GetDisks() {
		closed[d.Id] = closed[d.Id] || d.NoWrite
	}
	for _, nv := range view.Nodes {
		if gone[uint64(nv.ID)] {
			continue
		}
		for _, d := range nv.Disks {
			rd := &wire.RouteDisk{
				Id: uint64(d.ID), Node: uint64(nv.ID), Class: uint32(d.Class), Capacity: d.Capacity, Free: d.Free,
				Writable: d.Writable && !closed[uint64(d.ID)], Domain: domain[uint64(nv.ID)],
			}
			p.Disks = append(p.Disks, rd)
		}
	}
	leaders, terms := r.n.host.Leaders()
	p.Terms = terms
	for _, l := range leaders {
		p.Leaders = append(p.Leaders, uint64(l))
	}
	return p
}

// watchMembers follows gossip, the groups and the facts, and passes on what
// each of them must know of the others.
func (n *Node) watchMembers(ctx context.Context) {
	n.joinGossip(ctx)
	ask := time.NewTicker(2 * time.Second) // facts, where this node holds no replica of them
	defer ask.Stop()
	for {
		gossipChanged, groupsChanged := n.gossip.Changed(), n.host.Changed()
		factsChanged := n.cdcState.FactsChanged()
		n.tellGroups()
		n.router.refresh()
		if err := n.banished(n.router.Facts()); err != nil {
			n.fail(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-gossipChanged:
		case <-groupsChanged:
		case <-factsChanged:
		case <-ask.C:
			n.askFacts(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(routesEvery):
		}
	}
}

func (n *Node) askFacts(ctx context.Context) {
	if g := n.host.Group(eggs.CDCGroup); g != nil {
		if st := g.Status(); (st.State == "leader" || st.State == "follower") && st.Leader != 0 {
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	a, err := n.client.QueryCDC(ctx, &wire.CdcQuery{Query: &wire.CdcQuery_GetFacts{GetFacts: &wire.GetFacts{}}})
	if err != nil {
		n.log.Debug("facts", "err", err)
		return
	}
	n.router.setFacts(a.Facts)
}

// joinGossip meets the nodes that this one knew, in the background until one answers.
func (n *Node) joinGossip(ctx context.Context) {
	n.mu.Lock()
	addrs := append([]string(nil), n.cfg.Join...)
	for _, p := range n.identity.Peers {
		if _, addr, ok := strings.Cut(p, "="); ok {
			addrs = append(addrs, addr)
		}
	}
	n.mu.Unlock()
	slices.Sort(addrs)
	addrs = slices.Compact(addrs)
	if len(addrs) == 0 {
		return
	}
	n.background(func(ctx context.Context) {
		for {
			met, err := n.gossip.Join(ctx, addrs)
			if met > 0 {
				return
			}
			n.log.Debug("gossip met nobody yet", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(joinRetry):
			}
		}
	})
}

// tellGroups tells the Raft transport who exists, where, and who seems dead.
func (n *Node) tellGroups() {
	view := n.gossip.View()
	peers, gone := map[eggs.NodeID]string{}, map[eggs.NodeID]bool{}
	facts := n.router.Facts()
	for _, f := range facts.GetNodes() {
		if gone[eggs.NodeID(f.Id)] = f.Removed; !f.Removed {
			peers[eggs.NodeID(f.Id)] = f.Address
		}
	}
	for _, nv := range view.Nodes {
		if !gone[nv.ID] {
			peers[nv.ID] = nv.Addr
		}
	}
	delete(peers, n.id)
	n.rememberPeers(peers)
	ids := make([]eggs.NodeID, 0, len(peers))
	for id := range peers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	n.host.SetPeers(ids)
	prefer := make([]eggs.NodeID, eggs.Groups)
	for _, g := range facts.GetGroups() {
		if g.Group < eggs.Groups {
			prefer[g.Group] = eggs.NodeID(g.Leader)
		}
	}
	n.host.Prefer(prefer)
	for _, nv := range view.Nodes {
		if nv.ID != n.id {
			n.host.Hint(nv.ID, nv.State == gossip.Dead)
		}
	}
}

// rememberPeers keeps the addresses for a start at which nobody can be asked.
func (n *Node) rememberPeers(peers map[eggs.NodeID]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	known := map[string]string{}
	for _, p := range n.identity.Peers {
		id, addr, _ := strings.Cut(p, "=")
		known[id] = addr
	}
	changed := false
	for id, addr := range peers {
		if addr != "" && known[id.String()] != addr {
			known[id.String()], changed = addr, true
		}
	}
	if !changed {
		return
	}
	n.identity.Peers = nil
	for id, addr := range known {
		n.identity.Peers = append(n.identity.Peers, id+"="+addr)
	}
	slices.Sort(n.identity.Peers)
	if err := n.identity.save(n.cfg.Data); err != nil {
		n.log.Warn("cannot remember the peers' addresses", "err", err)
	}
}

// addrOf finds where a node is: gossip knows best, then what was remembered.
func (n *Node) addrOf(id eggs.NodeID) string {
	if n.gossip != nil {
		for _, nv := range n.gossip.View().Nodes {
			if nv.ID == id && nv.Addr != "" {
				return nv.Addr
			}
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.identity.Peers {
		if name, addr, _ := strings.Cut(p, "="); name == id.String() {
			return addr
		}
	}
	return ""
}

// nodeInfo is what this node tells by gossip.
func (n *Node) nodeInfo() gossip.NodeInfo {
	n.mu.Lock()
	info := gossip.NodeInfo{
		ID: n.id, Addr: n.identity.advertised(), Domain: n.identity.Domain, Roles: n.identity.Roles,
		Version: eggs.BuildVersion, Clock: n.clock(),
	}
	n.mu.Unlock()
	info.HTTP = n.WebAddr()
	if info.Domain == "" {
		info.Domain = n.id.String()
	}
	if n.blocks == nil {
		return info
	}
	for _, d := range n.blocks.Disks() {
		if d.Error != "" || d.Id == 0 {
			continue
		}
		info.Disks = append(info.Disks, gossip.DiskInfo{
			ID: eggs.DiskID(d.Id), Class: uint8(d.Class), Capacity: d.Capacity, Free: d.Free, Writable: d.Writable,
		})
	}
	return info
}
