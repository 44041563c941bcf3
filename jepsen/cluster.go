package jepsen

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Bounds of what a cluster under test may take.
const (
	readyLimit = 120 * time.Second // from start to "ready", on a busy machine
	stopLimit  = 60 * time.Second  // from SIGTERM to exit
	mountLimit = 90 * time.Second
	maxNodes   = 9
)

// Config says what to run.
type Config struct {
	Bin   string   // folder of the binaries
	Dir   string   // folder for data, logs and mount points
	Nodes int      // 1 to 9
	Args  []string // more flags for every eggsnode
}

// Cluster is a cluster of real processes on loopback addresses.
type Cluster struct {
	cfg   Config
	nodes []*Node
	mu    sync.Mutex
	mnts  []*Mount
}

// Node is one eggsnode, running or not.
type Node struct {
	c     *Cluster
	Index int    // from 0
	Addr  string // HOST:PORT
	HTTP  string // HOST:PORT
	Data  string // its data folder

	mu    sync.Mutex
	cmd   *exec.Cmd
	ready chan struct{}
	done  chan struct{}
	err   error
}

// New prepares a cluster; nothing runs yet.
func New(cfg Config) (*Cluster, error) {
	if cfg.Nodes < 1 || cfg.Nodes > maxNodes {
		return nil, fmt.Errorf("jepsen.New: %d nodes, must be 1 to %d", cfg.Nodes, maxNodes)
	}
	c := &Cluster{cfg: cfg}
	for range cfg.Nodes {
		if _, err := c.Add(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Add prepares one more node, which joins the first when it is started.
func (c *Cluster) Add() (*Node, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	web, err := freeAddr()
	if err != nil {
		return nil, err
	}
	i := len(c.nodes)
	n := &Node{c: c, Index: i, Addr: addr, HTTP: web, Data: filepath.Join(c.cfg.Dir, fmt.Sprintf("node%d", i+1))}
	c.nodes = append(c.nodes, n)
	return n, nil
}

// Ports of nodes. They are below those that Linux gives to outgoing connections (32768 and up): one of those
// would be taken by somebody else while its node is down.
const firstPort, lastPort = 10_000, 32_000

// nextPort begins anywhere, for the sake of others on this machine, and gives no port twice.
var nextPort = func() *atomic.Int32 {
	var n atomic.Int32
	n.Store(rand.Int32N(lastPort - firstPort))
	return &n
}()

// freeAddr finds a loopback port that is free for TCP and UDP.
func freeAddr() (string, error) {
	for range 50 {
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+nextPort.Add(1)%(lastPort-firstPort))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		u, uerr := net.ListenPacket("udp", addr)
		l.Close()
		if uerr == nil {
			u.Close()
			return addr, nil
		}
	}
	return "", errors.New("jepsen: no free port")
}

// Node returns the i-th node, from 0.
func (c *Cluster) Node(i int) *Node { return c.nodes[i] }

// Nodes returns all of them.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// Key is the cluster's key file.
func (c *Cluster) Key() string { return filepath.Join(c.cfg.Dir, "cluster.key") }

// Addrs is every node's address, for --cluster and mounts.
func (c *Cluster) Addrs() string {
	var a []string
	for _, n := range c.nodes {
		a = append(a, n.Addr)
	}
	return strings.Join(a, ",")
}

// Start starts every node that does not run and waits until all are ready.
func (c *Cluster) Start() error {
	for _, n := range c.nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	return c.WaitReady()
}

// WaitReady waits until every running node has said that it is ready.
func (c *Cluster) WaitReady() error {
	for _, n := range c.nodes {
		if err := n.WaitReady(); err != nil {
			return err
		}
	}
	return nil
}

// Close unmounts and kills everything that runs.
func (c *Cluster) Close() {
	c.mu.Lock()
	mnts := c.mnts
	c.mnts = nil
	c.mu.Unlock()
	for _, m := range mnts {
		m.Close()
	}
	for _, n := range c.nodes {
		n.Kill()
	}
}

// Start starts the node; ready or not is WaitReady's to find out.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		return nil
	}
	if err := os.MkdirAll(n.c.cfg.Dir, 0o755); err != nil {
		return err
	}
	a := []string{"--data", n.Data, "--listen", n.Addr, "--http", n.HTTP, "--key-file", n.c.Key()}
	if _, err := os.Stat(filepath.Join(n.Data, "node.json")); err != nil && n.Index > 0 {
		a = append(a, "--join", n.c.nodes[0].Addr)
		if err := n.c.waitKey(); err != nil {
			return err
		}
	}
	a = append(a, n.c.cfg.Args...)
	log, err := os.OpenFile(n.Data+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(n.c.cfg.Bin, "eggsnode"), a...)
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	n.cmd, n.ready, n.done, n.err = cmd, make(chan struct{}), make(chan struct{}), nil
	go n.watch(cmd, bufio.NewScanner(out), n.ready, n.done)
	return nil
}

func (c *Cluster) waitKey() error {
	for limit := time.Now().Add(readyLimit); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(c.Key()); err == nil {
			return nil
		}
	}
	return errors.New("jepsen: the first node made no key")
}

func (n *Node) watch(cmd *exec.Cmd, out *bufio.Scanner, ready, done chan struct{}) {
	said := false
	for out.Scan() {
		if !said && strings.HasPrefix(out.Text(), "ready") {
			said = true
			close(ready)
		}
	}
	err := cmd.Wait()
	n.mu.Lock()
	n.err = err
	if n.cmd == cmd {
		n.cmd = nil
	}
	n.mu.Unlock()
	close(done)
}

// WaitReady waits until the node has said that it is ready.
func (n *Node) WaitReady() error {
	n.mu.Lock()
	ready, done := n.ready, n.done
	n.mu.Unlock()
	if ready == nil {
		return fmt.Errorf("jepsen: node %d was never started", n.Index+1)
	}
	select {
	case <-ready:
		return nil
	case <-done:
		return fmt.Errorf("jepsen: node %d ended: %w\n%s", n.Index+1, n.err, n.LogTail())
	case <-time.After(readyLimit):
		return fmt.Errorf("jepsen: node %d is not ready after %s\n%s", n.Index+1, readyLimit, n.LogTail())
	}
}

// LogTail is the end of the node's log.
func (n *Node) LogTail() string {
	b, err := os.ReadFile(n.Data + ".log")
	if err != nil {
		return err.Error()
	}
	if len(b) > 4<<10 {
		b = b[len(b)-4<<10:]
	}
	return string(b)
}

// Running reports whether the process runs.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil
}

// PID is the process's, 0 when it does not run.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return 0
	}
	return n.cmd.Process.Pid
}

// signal sends s and returns what tells that the process ended; nil when it does not run.
func (n *Node) signal(s syscall.Signal) chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return nil
	}
	_ = n.cmd.Process.Signal(s)
	return n.done
}

// Kill is kill -9; it returns when the process is gone.
func (n *Node) Kill() {
	if done := n.signal(syscall.SIGKILL); done != nil {
		<-done
	}
}

// Pause is SIGSTOP: the process is there and does nothing.
func (n *Node) Pause() { n.signal(syscall.SIGSTOP) }

// Resume is SIGCONT.
func (n *Node) Resume() { n.signal(syscall.SIGCONT) }

// Stop is SIGTERM; it returns the process's error.
func (n *Node) Stop() error {
	done := n.signal(syscall.SIGTERM)
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return n.err
	case <-time.After(stopLimit):
		n.Kill()
		return fmt.Errorf("jepsen: node %d did not stop within %s", n.Index+1, stopLimit)
	}
}

// Mount is one eggsfuse.
type Mount struct {
	Dir string
	cmd *exec.Cmd
	log bytes.Buffer
}

// Mount mounts the cluster at a new folder. flags go before the address.
func (c *Cluster) Mount(flags ...string) (*Mount, error) {
	dir, err := os.MkdirTemp(c.cfg.Dir, "mnt")
	if err != nil {
		return nil, err
	}
	m := &Mount{Dir: dir}
	a := append([]string{"--foreground", "--key-file", c.Key()}, flags...)
	m.cmd = exec.Command(filepath.Join(c.cfg.Bin, "eggsfuse"), append(a, c.Addrs(), dir)...)
	m.cmd.Stderr, m.cmd.Stdout = &m.log, &m.log
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	for limit := time.Now().Add(mountLimit); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		if mounted(dir) {
			c.mu.Lock()
			c.mnts = append(c.mnts, m)
			c.mu.Unlock()
			return m, nil
		}
	}
	m.Close()
	return nil, fmt.Errorf("jepsen: no mount at %s after %s: %s", dir, mountLimit, m.log.String())
}

func mounted(dir string) bool {
	b, err := os.ReadFile("/proc/mounts")
	return err == nil && strings.Contains(string(b), " "+dir+" fuse")
}

// PID is the mount daemon's.
func (m *Mount) PID() int { return m.cmd.Process.Pid }

// Kill is kill -9 of the daemon; the mount point is cleared away.
func (m *Mount) Kill() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	_ = syscall.Unmount(m.Dir, syscall.MNT_DETACH)
}

// Close unmounts and waits for the daemon.
func (m *Mount) Close() {
	if m.cmd.ProcessState != nil {
		return
	}
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = m.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(stopLimit):
		_ = m.cmd.Process.Kill()
		<-done
	}
	_ = syscall.Unmount(m.Dir, syscall.MNT_DETACH)
}

// Eggs runs the command line against the cluster and returns its standard output.
func (c *Cluster) Eggs(ctx context.Context, args ...string) ([]byte, error) {
	a := append([]string{"--cluster", c.Addrs(), "--key-file", c.Key()}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(c.cfg.Bin, "eggs"), a...)
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("eggs %s: %w: %s", strings.Join(args, " "), err, talk.String())
	}
	return out.Bytes(), nil
}
