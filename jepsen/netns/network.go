package netns

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Host is the endpoint of the clients, which share the bridge's address.
const Host = -1

// ErrNoNamespaces says that a fault needs network namespaces, and so root.
var ErrNoNamespaces = errors.New("netns: needs root: nodes on loopback addresses have no network to break")

const (
	commandLimit = 20 * time.Second // one ip or nft command, on a busy machine
	port         = "3447"
	webPort      = "5000"
)

var networks atomic.Int32

// Network is a bridge and the namespaces of the nodes at it.
type Network struct {
	prefix string // of every name
	subnet byte   // 10.213.subnet.0/24
	broken broken

	mu    sync.Mutex
	nodes int
}

// NewNetwork makes a bridge for nodes to come. It sweeps what dead owners left.
func NewNetwork() (*Network, error) {
	if os.Getuid() != 0 {
		return nil, ErrNoNamespaces
	}
	if err := Sweep(); err != nil {
		return nil, err
	}
	seq := networks.Add(1)
	n := &Network{prefix: fmt.Sprintf("ej%d%c", os.Getpid(), 'a'+rune(seq%26))}
	n.broken.rules = map[int]*nodeRules{}
	taken, err := run("", "ip", "-o", "-4", "addr")
	if err != nil {
		return nil, err
	}
	n.subnet = byte(os.Getpid() + int(seq)*31)
	for range 256 {
		if !strings.Contains(taken, n.address(Host)+"/") {
			break
		}
		n.subnet++
	}
	bridge := n.bridge()
	if err := batch(
		"link add "+bridge+" type bridge",
		"link set "+bridge+" up",
		"addr add "+n.address(Host)+"/24 dev "+bridge,
	); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Network) bridge() string             { return n.prefix + "b" }
func (n *Network) namespace(node int) string  { return fmt.Sprintf("%s-%d", n.prefix, node) }
func (n *Network) portOfNode(node int) string { return fmt.Sprintf("%sh%d", n.prefix, node) }

// address is a node's address, or with Host that of the clients.
func (n *Network) address(node int) string {
	last := byte(254)
	if node != Host {
		last = byte(node + 1)
	}
	return net.IPv4(10, 213, n.subnet, last).String()
}

// add makes the namespace of one more node, from 0.
func (n *Network) add() (int, error) {
	n.mu.Lock()
	node := n.nodes
	n.nodes++
	n.mu.Unlock()
	ns, outer, inner := n.namespace(node), n.portOfNode(node), fmt.Sprintf("%sn%d", n.prefix, node)
	if _, err := run("", "ip", "netns", "add", ns); err != nil {
		return node, err
	}
	if err := batch(
		"link add "+outer+" type veth peer name "+inner,
		"link set "+outer+" master "+n.bridge(),
		"link set "+outer+" up",
		"link set "+inner+" netns "+ns,
	); err != nil {
		return node, err
	}
	for _, args := range []string{
		"link set lo up", "link set " + inner + " name eth0",
		"addr add " + n.address(node) + "/24 dev eth0", "link set eth0 up",
	} {
		if _, err := run("", "ip", append([]string{"-n", ns}, strings.Fields(args)...)...); err != nil {
			return node, err
		}
	}
	return node, nil
}

// Close removes everything of this network. What is gone already is no error.
func (n *Network) Close() {
	n.mu.Lock()
	nodes := n.nodes
	n.mu.Unlock()
	for i := range nodes {
		_, _ = run("", "ip", "link", "del", n.portOfNode(i))
		_, _ = run("", "ip", "netns", "del", n.namespace(i))
	}
	_, _ = run("", "ip", "link", "del", n.bridge())
}

// batch runs several ip commands in one process.
func batch(lines ...string) error {
	_, err := run(strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
	return err
}

// run runs a command with an input and returns its output; its words are in the error.
func run(input, name string, args ...string) (string, error) {
	var out, talk bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &talk
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("netns: %s: %w", name, err)
	}
	timer := time.AfterFunc(commandLimit, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("netns: %s %s: %w: %s", name, strings.Join(args, " "), err,
			strings.TrimSpace(talk.String()))
	}
	return out.String(), nil
}
