package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"time"

	"eggsfs/blockd"
	"eggsfs/cdc"
	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/gateway/web"
	"eggsfs/gossip"
	"eggsfs/internal/auth"
	"eggsfs/raftgroup"
	"eggsfs/raftshard"
	"eggsfs/wire"
)

const (
	dialTimeout = 2 * time.Second        // a peer that needs longer is as good as away
	joinRetry   = 250 * time.Millisecond // between rounds over the seeds
	seedLimit   = time.Second            // a later start waits no longer for a seed to say it is of another cluster
)

// takeFolder locks the data folder and finds out who this node is.
func (n *Node) takeFolder() error {
	lock, err := lockData(n.cfg.Data)
	if err != nil {
		return err
	}
	n.lock = lock
	id, err := loadIdentity(n.cfg.Data)
	if err != nil {
		return err
	}
	if id == nil {
		if id, err = n.newIdentity(); err != nil {
			return err
		}
	}
	if err := n.remember(id); err != nil {
		return err
	}
	n.identity, n.id = id, id.node()
	if n.key, err = n.takeKey(id); err != nil {
		return err
	}
	return id.save(n.cfg.Data)
}

// newIdentity makes the identity of a new data folder, of the first node or of one that joins.
func (n *Node) newIdentity() (*identity, error) {
	node, err := newID()
	if err != nil {
		return nil, err
	}
	id := &identity{
		Format: identityFormat, Node: eggs.NodeID(node).String(), First: len(n.cfg.Join) == 0,
		Listen: DefaultListen, HTTP: DefaultHTTP, KeyFile: filepath.Join(n.cfg.Data, "cluster.key"),
		Roles: RoleMeta | RoleBlock | RoleUpkeep, Replicas: DefaultReplicas, BlockTLS: "auto",
	}
	if !id.First {
		return id, nil
	}
	cluster, err := newID()
	if err != nil {
		return nil, err
	}
	id.Cluster = eggs.ClusterID(cluster).String()
	for g := range eggs.Groups {
		id.Groups = append(id.Groups, g)
	}
	return id, nil
}

// remember puts what the flags say over what the folder remembers.
func (n *Node) remember(id *identity) error {
	c := &n.cfg
	set := func(to *string, from string) {
		if from != "" {
			*to = from
		}
	}
	set(&id.Listen, c.Listen)
	set(&id.Advertise, c.Advertise)
	set(&id.HTTP, c.HTTP)
	set(&id.Domain, c.FailureDomain)
	set(&id.BlockTLS, c.BlockTLS)
	if c.KeyFile != "" {
		abs, err := filepath.Abs(c.KeyFile)
		if err != nil {
			return err
		}
		id.KeyFile = abs
	}
	if c.Roles != 0 {
		id.Roles = c.Roles
	}
	if c.Replicas != 0 {
		if !id.First && len(c.Join) > 0 && id.Cluster == "" {
			return invalid("--replicas is the first node's to say; leave it out with --join")
		}
		id.Replicas = c.Replicas
	}
	return n.rememberDisks(id)
}

func (n *Node) rememberDisks(id *identity) error {
	want := n.cfg.Disks
	if len(want) == 0 && len(id.Disks) > 0 && n.cfg.BlockServices == 0 {
		return nil
	}
	if len(want) == 0 {
		count := n.cfg.BlockServices
		if count == 0 {
			count = DefaultBlockServices
		}
		if id.Roles&RoleBlock == 0 {
			count = 0
		}
		for i := range max(count, 0) {
			want = append(want, Disk{Path: filepath.Join(n.cfg.Data, "blocks", fmt.Sprintf("%02d", i))})
		}
	}
	known := map[string]diskIdentity{}
	for _, d := range id.Disks {
		known[d.Path] = d
	}
	id.Disks = nil
	for _, d := range want {
		path, err := filepath.Abs(d.Path)
		if err != nil {
			return err
		}
		k, ok := known[path]
		if !ok {
			k = diskIdentity{Path: path}
		}
		k.Class = d.Class
		id.Disks = append(id.Disks, k)
	}
	return nil
}

// takeKey reads the cluster's key; the first node makes one where there is none.
func (n *Node) takeKey(id *identity) (*auth.Key, error) {
	key, err := auth.LoadKey(id.KeyFile)
	if err == nil {
		return key, nil
	}
	if _, serr := os.Stat(id.KeyFile); !errors.Is(serr, fs.ErrNotExist) {
		return nil, err
	}
	if !id.First || id.LogExists {
		return nil, &eggs.Error{
			Op: "node.Start", Name: id.KeyFile, Kind: eggs.Permission,
			Err: errors.New("the cluster's key is not there: copy it from another node and name it with --key-file"),
		}
	}
	key, err = auth.CreateKey(id.KeyFile)
	if err == nil {
		n.events.add("info", "made the cluster's key at "+id.KeyFile)
	}
	return key, err
}

func (n *Node) self() auth.Identity { return auth.Identity{Node: n.id} }

// listen takes the node's one address, TCP and UDP.
func (n *Node) listen() error {
	conf, err := n.key.ServerTLS(n.self(), wire.ALPNRPC, wire.ALPNRaft, wire.ALPNGossip, wire.ALPNBlock)
	if err != nil {
		return err
	}
	if n.listener, err = wire.Listen(n.identity.Listen, conf, n.identity.BlockTLS != "on", n.log); err != nil {
		return err
	}
	n.onClose(func() { n.listener.Close() })
	addr := n.listener.Addr().String()
	if n.udp, err = net.ListenPacket("udp", addr); err != nil {
		return &eggs.Error{Op: "node.Listen", Name: addr, Kind: eggs.IO, Err: err}
	}
	n.onClose(func() { n.udp.Close() })
	if _, port, _ := net.SplitHostPort(n.identity.Listen); port == "0" {
		n.identity.Listen = addr
		return n.identity.save(n.cfg.Data)
	}
	return nil
}

// dial connects to an address over TLS for one protocol.
func (n *Node) dial(ctx context.Context, addr, alpn string) (net.Conn, error) {
	conf, err := n.key.ClientTLS(n.self(), alpn)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return wire.DialTLS(ctx, addr, conf)
}

// learnCluster asks the seeds which cluster this is, the first time. Later it only
// refuses seeds that say at once that they are of another.
func (n *Node) learnCluster() error {
	if n.identity.Cluster != "" {
		return n.sameCluster()
	}
	for round := 0; ; round++ {
		for _, addr := range n.cfg.Join {
			cluster, err := n.askCluster(addr)
			switch {
			case err == nil:
				n.identity.Cluster = cluster.String()
				return n.identity.save(n.cfg.Data)
			case errors.Is(err, eggs.Permission), errors.Is(err, eggs.Version), errors.Is(err, eggs.WrongCluster):
				return err
			case round%20 == 0:
				n.log.Info("waiting for a node to join", "addr", addr, "err", err)
			}
		}
		select {
		case <-n.ctx.Done():
			return n.ctx.Err()
		case <-time.After(joinRetry):
		}
	}
}

// sameCluster fails when a seed is of another cluster than this data folder. Seeds
// that do not answer are no reason to wait: they are a hint only.
func (n *Node) sameCluster() error {
	answers := make(chan error, len(n.cfg.Join))
	for _, addr := range n.cfg.Join {
		go func() {
			_, err := n.askCluster(addr)
			answers <- err
		}()
	}
	limit := time.After(seedLimit)
	for range n.cfg.Join {
		select {
		case err := <-answers:
			if errors.Is(err, eggs.Permission) || errors.Is(err, eggs.WrongCluster) {
				return &eggs.Error{
					Op: "node.Join", Name: n.cfg.Data, Kind: eggs.WrongCluster,
					Err: fmt.Errorf("this data folder belongs to cluster %s: %w", n.identity.Cluster, err),
				}
			}
		case <-limit:
			return nil
		}
	}
	return nil
}

func (n *Node) askCluster(addr string) (eggs.ClusterID, error) {
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	conn, err := wire.Dial(ctx, wire.DialConfig{
		Addr:  addr,
		Dial:  func(ctx context.Context, addr string) (net.Conn, error) { return n.dial(ctx, addr, wire.ALPNRPC) },
		Hello: n.hello(),
	})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	cluster := eggs.ClusterID(conn.Peer().Cluster)
	if cluster == 0 {
		return 0, eggs.E("node.Join", eggs.Unavailable, addr+" has not joined a cluster itself yet")
	}
	return cluster, nil
}

func (n *Node) hello() *wire.Hello {
	return wire.NewHello(n.identity.cluster(), n.id, eggs.BuildVersion)
}

// openGroups opens the log and the state of all groups and starts the replicas held here.
func (n *Node) openGroups() error {
	host, err := raftgroup.Open(raftgroup.Config{
		Dir: n.cfg.Data, Node: n.id, Cluster: n.identity.cluster(), Logger: n.log, MustExist: n.identity.LogExists,
		Dial: func(ctx context.Context, to eggs.NodeID) (net.Conn, error) {
			addr := n.addrOf(to)
			if addr == "" {
				return nil, &eggs.Error{Op: "node.Dial", Name: to.String(), Kind: eggs.NotExist}
			}
			return n.dial(ctx, addr, wire.ALPNRaft)
		},
		Fatal: n.cfg.Fatal, Event: n.events.add,
	})
	if err != nil {
		return err
	}
	n.host = host
	n.onClose(func() {
		if err := host.Close(); err != nil {
			n.log.Error("closing the groups", "err", err)
		}
	})
	first := !n.identity.LogExists
	if err := n.addGroups(n.identity.Groups); err != nil {
		return err
	}
	if first && n.identity.First {
		if err := host.BootstrapAll([]eggs.NodeID{n.id}); err != nil {
			return err
		}
	}
	if first {
		n.identity.LogExists = true
		return n.identity.save(n.cfg.Data)
	}
	return nil
}

// addGroups starts replicas, all at once: each reads its own piece of the log.
func (n *Node) addGroups(groups []int) error {
	machines, shards := map[eggs.GroupID]raftgroup.Machine{}, map[eggs.ShardID]*raftshard.Machine{}
	for _, g := range groups {
		if id := eggs.GroupID(g); id == eggs.CDCGroup {
			machines[id] = n.cdcState
		} else {
			shards[eggs.ShardID(id)] = raftshard.NewMachine(eggs.ShardID(id), n.key)
			machines[id] = shards[eggs.ShardID(id)]
		}
	}
	if err := n.host.AddAll(machines); err != nil {
		return err
	}
	for shard, m := range shards {
		n.shards[shard].Store(raftshard.New(raftshard.Config{
			Shard: shard, Group: n.host.Group(shard.Group()), Machine: m, Key: n.key, Blocks: n.router,
			Clock: n.clock, Logger: n.log,
		}))
	}
	if machines[eggs.CDCGroup] != nil {
		g := n.host.Group(eggs.CDCGroup)
		n.cdc.Store(cdc.New(cdc.Config{
			Group: g, Machine: n.cdcState, Shards: n.client.Fenced(), Clock: n.clock, Logger: n.log,
		}))
		g.OnLead(n.place)
	}
	return nil
}

// openDisks opens the block services. A disk that fails is shown, the others serve.
func (n *Node) openDisks() error {
	conf := blockd.Config{
		Auth: n.key.Blocks(), Node: n.id, Cluster: n.identity.cluster(), Reserve: n.cfg.Reserve,
		Logger: n.log, Event: n.events.add,
	}
	for _, d := range n.identity.Disks {
		want, _ := eggs.ParseNodeID(d.ID)
		conf.Disks = append(conf.Disks, blockd.DiskConfig{Path: d.Path, Class: d.Class, Want: eggs.DiskID(want)})
	}
	var err error
	if n.blocks, err = blockd.Open(conf); err != nil {
		return err
	}
	n.onClose(func() { n.blocks.Close() })
	changed := false
	for i, st := range n.blocks.Disks() {
		if d := &n.identity.Disks[i]; d.ID == "" && st.Id != 0 && st.Error == "" {
			d.ID, changed = eggs.DiskID(st.Id).String(), true
		}
	}
	if changed {
		return n.identity.save(n.cfg.Data)
	}
	return nil
}

// openGossip meets the others.
func (n *Node) openGossip() error {
	var err error
	n.gossip, err = gossip.Open(gossip.Config{
		Node: n.id, Cluster: n.identity.cluster(), Advertise: n.identity.advertised(), Keys: n.key.GossipKeys(),
		Dial: func(ctx context.Context, addr string) (net.Conn, error) { return n.dial(ctx, addr, wire.ALPNGossip) },
		UDP:  n.udp, Self: n.nodeInfo, Logger: n.log,
	})
	if err != nil {
		return err
	}
	n.onClose(func() { n.gossip.Close() })
	n.accept(wire.ALPNGossip, func(c net.Conn) { n.gossip.ServeConn(c) })
	return nil
}

// accept hands the connections of one protocol to serve, until the listener closes.
func (n *Node) accept(alpn string, serve func(net.Conn)) {
	ln := n.listener.ALPN(alpn)
	n.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	})
}

// openClient makes this node's own client; it needs no network to reach itself.
func (n *Node) openClient() error {
	n.cdcState = cdc.NewMachine()
	n.router = newRouter(n)
	var err error
	n.client, err = client.New(client.Options{
		Router: n.router, Key: n.key, Cluster: n.identity.cluster(), Self: n.id, Local: n.local,
		Software: eggs.BuildVersion, Logger: n.log, BlockTLS: n.identity.BlockTLS,
	})
	if err != nil {
		return err
	}
	n.onClose(func() { n.client.Close() })
	return nil
}

// serve answers from here on.
func (n *Node) serve() error {
	n.rpc = wire.NewServer(wire.ServerConfig{Hello: n.hello, Logger: n.log, Admit: admit})
	n.handle(n.rpc)
	n.onClose(func() { n.rpc.Close() })
	n.accept(wire.ALPNRPC, n.rpc.ServeConn)
	n.accept(wire.ALPNBlock, n.blocks.ServeConn)
	n.accept(wire.ALPNRaft, func(c net.Conn) {
		t, ok := c.(*tls.Conn)
		if !ok {
			c.Close()
			return
		}
		peer, err := auth.PeerOf(t.ConnectionState())
		if err != nil || peer.Node == 0 {
			n.log.Warn("a client tried to speak raft", "from", c.RemoteAddr(), "err", err)
			c.Close()
			return
		}
		n.host.Serve(c, peer.Node)
	})
	return nil
}

// admit refuses a peer that says it is another node than its certificate says.
func admit(conn net.Conn, peer *wire.Hello) error {
	t, ok := conn.(*tls.Conn)
	if !ok {
		return eggs.E("node.Admit", eggs.Permission, "requests need TLS")
	}
	who, err := auth.PeerOf(t.ConnectionState())
	if err != nil {
		return err
	}
	if who.Node != eggs.NodeID(peer.Node) {
		return &eggs.Error{
			Op: "node.Admit", Name: eggs.NodeID(peer.Node).String(), Kind: eggs.Permission,
			Err: fmt.Errorf("the certificate is that of %s", who),
		}
	}
	return nil
}

// openPprof serves Go's profiler, if asked for.
func (n *Node) openPprof() error {
	if n.cfg.Pprof == "" {
		return nil
	}
	ln, err := net.Listen("tcp", n.cfg.Pprof)
	if err != nil {
		return &eggs.Error{Op: "node.Pprof", Name: n.cfg.Pprof, Kind: eggs.IO, Err: err}
	}
	n.onClose(func() { ln.Close() })
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	n.wg.Go(func() { _ = (&http.Server{Handler: mux, ReadHeaderTimeout: dialTimeout}).Serve(ln) })
	return nil
}

// openWeb opens the status page.
func (n *Node) openWeb() error {
	if n.identity.HTTP == "off" {
		return nil
	}
	s, err := web.Open(n.identity.HTTP, reporter{n}, n.log)
	if err != nil {
		return err
	}
	n.web = s
	n.onClose(func() { s.Close() })
	return nil
}
