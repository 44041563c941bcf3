package client

import (
	"net"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// Router shows the newest picture of the cluster that its owner has. Both
// methods are cheap and safe for concurrent use.
type Router interface {
	// Routes returns a picture that nobody changes any more; nil before the first.
	Routes() *wire.Routes
	// Changed is closed when Routes returns another picture than at the call.
	Changed() <-chan struct{}
}

// Doubter is a Router that can be told that its picture seems to be old:
// requests find no leader where it says there is one.
type Doubter interface{ Doubt() }

// picture is a Routes with indexes.
type picture struct {
	routes *wire.Routes
	nodes  map[eggs.NodeID]*wire.RouteNode
	disks  map[eggs.DiskID]*wire.RouteDisk
}

var noRoutes = &wire.Routes{}

func newPicture(r *wire.Routes) *picture {
	p := &picture{
		routes: r,
		nodes:  make(map[eggs.NodeID]*wire.RouteNode, len(r.Nodes)),
		disks:  make(map[eggs.DiskID]*wire.RouteDisk, len(r.Disks)),
	}
	for _, n := range r.Nodes {
		p.nodes[eggs.NodeID(n.Id)] = n
	}
	for _, d := range r.Disks {
		p.disks[eggs.DiskID(d.Id)] = d
	}
	return p
}

// node returns what the picture says of a node, nil when it is not in it.
func (p *picture) node(id eggs.NodeID) *wire.RouteNode {
	if p == nil {
		return nil
	}
	return p.nodes[id]
}

// leader returns what the picture says of a group: 0 when it does not know.
func (p *picture) leader(g eggs.GroupID) (node eggs.NodeID, term uint64) {
	if int(g) < len(p.routes.Leaders) {
		node = eggs.NodeID(p.routes.Leaders[g])
	}
	if int(g) < len(p.routes.Terms) {
		term = p.routes.Terms[g]
	}
	return node, term
}

// see returns the newest picture. A new one has the connections to dead nodes
// closed, so that whoever waits on one asks elsewhere.
func (c *Client) see() *picture {
	r := c.o.Router.Routes()
	if r == nil {
		r = noRoutes
	}
	p := c.picture.Load()
	if p != nil && p.routes == r {
		return p
	}
	next := newPicture(r)
	c.picture.Store(next)
	for _, n := range r.Nodes {
		id := eggs.NodeID(n.Id)
		if was := p.node(id); !n.Alive && was != nil && was.Alive {
			c.peers.drop(id)
			c.blocks.drop(n.Address)
		}
	}
	return next
}

// allAlive reports whether no node of the cluster is down.
func (p *picture) allAlive() bool {
	for _, n := range p.routes.Nodes {
		if !n.Alive {
			return false
		}
	}
	return len(p.routes.Nodes) > 0
}

// closeDead looks at the picture for its side effect, when no request does.
func (c *Client) closeDead() { c.see() }

// Routes is the picture that requests are routed by; it must not be changed.
func (c *Client) Routes() *wire.Routes { return c.see().routes }

// hint is what a node said of a group's leader, good while the picture says
// of that group what it said then.
type hint struct {
	node   eggs.NodeID
	leader eggs.NodeID
	term   uint64
}

// leader returns whom to ask for a group: 0 when nobody knows.
func (c *Client) leader(p *picture, g eggs.GroupID) eggs.NodeID {
	node, term := p.leader(g)
	if h := c.hints[g].Load(); h != nil {
		if h.leader == node && h.term == term {
			return h.node
		}
		c.hints[g].CompareAndSwap(h, nil)
	}
	return node
}

// learn remembers that a node was named as a group's leader.
func (c *Client) learn(g eggs.GroupID, node eggs.NodeID) {
	leader, term := c.see().leader(g)
	c.hints[g].Store(&hint{node: node, leader: leader, term: term})
}

// someNode returns an alive node, another one for each n.
func (p *picture) someNode(n int) eggs.NodeID {
	alive := make([]eggs.NodeID, 0, len(p.routes.Nodes))
	for _, x := range p.routes.Nodes {
		if x.Alive {
			alive = append(alive, eggs.NodeID(x.Id))
		}
	}
	if len(alive) == 0 {
		return 0
	}
	return alive[n%len(alive)]
}

// cluster is the cluster's id, 0 before it is known.
func (c *Client) cluster() eggs.ClusterID {
	if c.o.Cluster != 0 {
		return c.o.Cluster
	}
	return eggs.ClusterID(c.see().routes.Cluster)
}

// loopback reports whether an address is this machine's own.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
