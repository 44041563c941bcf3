package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
)

// Addresses of the nodes that can be cut off: from the range that RFC 2544 keeps for benchmarks.
const (
	cutNet    = "198.18.77."
	cutPort   = ":3447"
	cutReady  = 60 * time.Second
	cutBridge = 254
)

// apart is a cluster whose nodes are in network namespaces of their own, joined by a bridge on this machine.
type apart struct {
	e     *env
	dir   string
	id    string // of the bridge and the namespaces
	nodes []*daemon
}

// cutOff measures what a node costs that is still there and that nobody can reach.
func (e *env) cutOff(ctx context.Context, part string) error {
	const say = "a node cut off (its network is down)"
	if os.Geteuid() != 0 {
		e.rep.fail(part, say, "failover.cut", fmt.Errorf("network namespaces need root"))
		return nil
	}
	a := &apart{e: e, id: fmt.Sprintf("eb%d", os.Getpid()%100_000)}
	e.undo = append(e.undo, a.close)
	w, err := a.start(ctx)
	if err != nil {
		e.rep.fail(part, say, "failover.cut", err)
		return nil
	}
	defer w.c.Close()
	e.trial(ctx, part, fault{
		"cut", say,
		func(i int) error { return ip("link", "set", a.link(i), "down") },
		func(i int) error { return ip("link", "set", a.link(i), "up") },
	}, w)
	a.close()
	return nil
}

func (a *apart) link(i int) string { return fmt.Sprintf("%sn%d", a.id, i) }

func (a *apart) addr(i int) string { return fmt.Sprintf("%s%d", cutNet, i+1) }

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, last(string(out), 200))
	}
	return nil
}

// start makes the network, and a cluster of three nodes in it.
func (a *apart) start(ctx context.Context) (*writer, error) {
	dir, err := os.MkdirTemp(a.e.dir, "apart")
	if err != nil {
		return nil, err
	}
	a.dir = dir
	commands := []string{
		"link add " + a.id + " type bridge",
		fmt.Sprintf("addr add %s%d/24 dev %s", cutNet, cutBridge, a.id),
		"link set " + a.id + " up",
	}
	for i := range 3 {
		l := a.link(i)
		commands = append(
			commands, "netns add "+l,
			"link add "+l+" type veth peer name eth0 netns "+l,
			"link set "+l+" master "+a.id+" up",
			"-n "+l+" addr add "+a.addr(i)+"/24 dev eth0",
			"-n "+l+" link set eth0 up",
			"-n "+l+" link set lo up",
		)
	}
	for _, c := range commands {
		if err := ip(strings.Fields(c)...); err != nil {
			return nil, err
		}
	}
	key := filepath.Join(dir, "cluster.key")
	var addrs []string
	for i := range 3 {
		addrs = append(addrs, a.addr(i)+cutPort)
		args := []string{
			"netns", "exec", a.link(i), filepath.Join(a.e.bin, "eggsnode"), "--data", filepath.Join(dir, a.link(i)),
			"--listen", addrs[i], "--http", "off", "--key-file", key,
		}
		if i > 0 {
			args = append(args, "--join", addrs[0])
		}
		d, err := a.e.daemon(a.link(i), "ip", args...)
		if err != nil {
			return nil, err
		}
		a.nodes = append(a.nodes, d)
		if err := until(ctx, d, func() bool { _, err := os.Stat(key); return err == nil }); err != nil {
			return nil, err
		}
	}
	for _, d := range a.nodes {
		if err := until(ctx, d, d.ready); err != nil {
			return nil, err
		}
	}
	return a.writer(ctx, addrs, key)
}

func (a *apart) writer(ctx context.Context, addrs []string, key string) (*writer, error) {
	c, err := client.Open(ctx, client.Config{Addrs: addrs, KeyFile: key, Timeout: writeLimit})
	if err != nil {
		return nil, err
	}
	w := &writer{c: c, dirs: map[eggs.ShardID]eggs.InodeID{}}
	if err := w.spread(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return w, nil
}

// ready reports whether the node has said so.
func (d *daemon) ready() bool {
	b, _ := os.ReadFile(d.log)
	return strings.HasPrefix(string(b), "ready") || strings.Contains(string(b), "\nready")
}

// until waits for something of d.
func until(ctx context.Context, d *daemon, ok func() bool) error {
	for end := time.Now().Add(cutReady); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.done:
			return fmt.Errorf("%s ended: %s", d.Path, tail(d.log))
		default:
		}
	}
	return fmt.Errorf("%s is not ready after %s: %s", d.Path, cutReady, tail(d.log))
}

// close ends the nodes and removes the network; what is not there is no error.
func (a *apart) close() {
	for i, d := range a.nodes {
		_ = ip("link", "set", a.link(i), "up")
		d.end()
	}
	a.nodes = nil
	for i := range 3 {
		_ = ip("netns", "del", a.link(i))
		_ = ip("link", "del", a.link(i))
	}
	_ = ip("link", "del", a.id)
	if a.dir != "" {
		os.RemoveAll(a.dir)
	}
}
