package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"eggsfs/client"
)

// Bounds of what a cluster under test may take.
const (
	readyLimit = 120 * time.Second // from start to "ready", on a busy machine
	stopLimit  = 30 * time.Second  // from SIGTERM to exit
	mountLimit = 30 * time.Second
	maxNodes   = 9
)

// Config says what to run.
type Config struct {
	Bin      string                  // folder of the binaries
	Dir      string                  // folder for data, logs and mount points
	Nodes    int                     // 1 to 9
	Args     []string                // more flags for every eggsnode
	NodeArgs func(node int) []string // and for one node, from 0; may be nil
	Loopback bool                    // no namespaces, even as root
	Env      []string                // more environment for every process
	// Flags of the binaries' clients that a call may wait; default 10 s.
	Timeout time.Duration
}

// Cluster is a cluster of real processes.
type Cluster struct {
	cfg Config
	net *Network // nil: loopback

	mu     sync.Mutex
	nodes  []*Node
	mounts []*Mount
}

// New prepares a cluster; nothing runs yet.
func New(cfg Config) (*Cluster, error) {
	if cfg.Nodes < 1 || cfg.Nodes > maxNodes {
		return nil, fmt.Errorf("netns.New: %d nodes, must be 1 to %d", cfg.Nodes, maxNodes)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg}
	if !cfg.Loopback && os.Getuid() == 0 {
		var err error
		if c.net, err = NewNetwork(); err != nil {
			return nil, err
		}
	}
	for range cfg.Nodes {
		if _, err := c.Add(); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// Network is what can be broken between the nodes; nil on loopback addresses.
func (c *Cluster) Network() *Network { return c.net }

// Add prepares one more node, which joins the others when it is started.
func (c *Cluster) Add() (*Node, error) {
	c.mu.Lock()
	i := len(c.nodes)
	c.mu.Unlock()
	if i >= maxNodes {
		return nil, fmt.Errorf("netns.Add: there are %d nodes already", i)
	}
	n := &Node{c: c, Index: i, Data: filepath.Join(c.cfg.Dir, fmt.Sprintf("node%d", i+1))}
	if c.net != nil {
		if _, err := c.net.add(); err != nil {
			return nil, err
		}
		n.Addr, n.HTTP = c.net.address(i)+":"+port, c.net.address(i)+":"+webPort
	} else {
		var err error
		if n.Addr, err = freeAddr(); err != nil {
			return nil, err
		}
		if n.HTTP, err = freeAddr(); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	c.nodes = append(c.nodes, n)
	c.mu.Unlock()
	return n, nil
}

// freeAddr finds a loopback port that is free for TCP and UDP.
func freeAddr() (string, error) {
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		addr := l.Addr().String()
		u, uerr := net.ListenPacket("udp", addr)
		l.Close()
		if uerr == nil {
			u.Close()
			return addr, nil
		}
	}
	return "", errors.New("netns: no free port")
}

// Node returns the i-th node, from 0.
func (c *Cluster) Node(i int) *Node { return c.Nodes()[i] }

// Nodes returns all of them, those that were removed included.
func (c *Cluster) Nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Node(nil), c.nodes...)
}

// Key is the cluster's key file.
func (c *Cluster) Key() string { return filepath.Join(c.cfg.Dir, "cluster.key") }

// Addrs is the address of every node that is not removed.
func (c *Cluster) Addrs() []string {
	var a []string
	for _, n := range c.Nodes() {
		if !n.Removed() {
			a = append(a, n.Addr)
		}
	}
	return a
}

// Start starts every node that does not run and waits until all are ready.
func (c *Cluster) Start(ctx context.Context) error {
	for _, n := range c.Nodes() {
		if n.Removed() {
			continue
		}
		if err := n.Start(); err != nil {
			return err
		}
	}
	return c.WaitReady(ctx)
}

// WaitReady waits until every running node has said that it is ready.
func (c *Cluster) WaitReady(ctx context.Context) error {
	for _, n := range c.Nodes() {
		if n.Removed() {
			continue
		}
		if err := n.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close unmounts and kills everything that runs, and removes the network.
func (c *Cluster) Close() {
	c.mu.Lock()
	mounts := c.mounts
	c.mounts = nil
	c.mu.Unlock()
	for _, m := range mounts {
		m.Close()
	}
	for _, n := range c.Nodes() {
		n.Kill()
	}
	if c.net != nil {
		c.net.Close()
	}
}

// Client opens the library; the caller closes it.
func (c *Cluster) Client(ctx context.Context) (*client.Client, error) {
	return client.Open(ctx, client.Config{Addrs: c.Addrs(), KeyFile: c.Key(), Timeout: c.cfg.Timeout})
}

// Eggs runs the command line against the cluster and returns its standard output.
func (c *Cluster) Eggs(ctx context.Context, args ...string) ([]byte, error) {
	a := append([]string{"--cluster", strings.Join(c.Addrs(), ","), "--key-file", c.Key()}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(c.cfg.Bin, "eggs"), a...)
	cmd.WaitDelay = time.Second
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &talk, c.env()
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("eggs %s: %w: %s%s", strings.Join(args, " "), err, tail(out.String()),
			tail(talk.String()))
	}
	return out.Bytes(), nil
}

func (c *Cluster) env() []string { return append(os.Environ(), c.cfg.Env...) }

// tail is the end of a text, for an error.
func tail(s string) string {
	if len(s) > 2<<10 {
		return "…" + s[len(s)-2<<10:]
	}
	return s
}
