package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Bounds of the development cluster.
const (
	devMaxNodes    = 9                // all on this machine
	devReady       = 90 * time.Second // until every node says ready: long, for a busy machine
	devStop        = 15 * time.Second // until a node that was asked to stop is killed
	devTail        = 4 << 10          // bytes of a failed node's log shown
	devFirstPort   = 3447
	devFirstWeb    = 5000
	devMountWait   = 30 * time.Second
	devLogFileMode = 0o644
)

type devCluster struct {
	o     *options
	nodes int
	data  string
	mount string
	port  int
	web   int
	bin   string // folder of the binaries
	procs []*devNode
}

type devNode struct {
	cmd   *exec.Cmd
	log   string
	ready chan string
	done  chan struct{}
	err   error
}

func devCommand(o *options) *cobra.Command {
	d := &devCluster{o: o}
	cmd := &cobra.Command{
		Use: "dev", Short: "start a whole cluster on this machine, until Ctrl-C", Args: args(cobra.NoArgs),
		Long: `dev starts real nodes on loopback, mounts the file system if asked, says what to
try, and stops all of it on Ctrl-C. The data stays: the next 'eggs dev' with the
same --data goes on with it.

Exit codes: 0 stopped, 1 failure, 2 usage.`,
		Example: "  eggs dev --nodes 3 --mount /tmp/mnt",
		RunE:    func(cmd *cobra.Command, _ []string) error { return d.run(cmd.Context()) },
	}
	cmd.Flags().IntVar(&d.nodes, "nodes", 3, "how many nodes, 1 to 9")
	cmd.Flags().StringVar(&d.data, "data", "", "folder of the nodes' data (default: a new one, removed at the end)")
	cmd.Flags().StringVar(&d.mount, "mount", "", "mount the file system there")
	cmd.Flags().IntVar(&d.port, "port", devFirstPort, "port of the first node; the others follow")
	cmd.Flags().IntVar(&d.web, "http-port", devFirstWeb, "port of the first status page; the others follow")
	return cmd
}

func (d *devCluster) run(ctx context.Context) (err error) {
	if d.nodes < 1 || d.nodes > devMaxNodes {
		return usageError{fmt.Errorf("--nodes %d: must be 1 to %d", d.nodes, devMaxNodes)}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	d.bin = filepath.Dir(self)
	if d.data == "" {
		if d.data, err = os.MkdirTemp("", "eggs-dev-"); err != nil {
			return err
		}
		defer os.RemoveAll(d.data)
	}
	if d.data, err = filepath.Abs(d.data); err != nil {
		return err
	}
	if err := os.MkdirAll(d.data, 0o755); err != nil {
		return err
	}
	defer d.stop()
	begin := time.Now()
	if err := d.startNodes(ctx); err != nil {
		return err
	}
	if err := d.waitReady(ctx); err != nil {
		return err
	}
	d.o.say("%d nodes ready after %s", d.nodes, time.Since(begin).Round(10*time.Millisecond))
	if d.mount != "" {
		unmount, err := d.mountIt(ctx)
		if err != nil {
			return err
		}
		defer unmount()
	}
	d.advise()
	return d.watch(ctx)
}

func (d *devCluster) key() string       { return filepath.Join(d.data, "cluster.key") }
func (d *devCluster) addr(i int) string { return fmt.Sprintf("127.0.0.1:%d", d.port+i) }

func (d *devCluster) startNodes(ctx context.Context) error {
	for i := range d.nodes {
		dir := filepath.Join(d.data, fmt.Sprintf("node%d", i+1))
		a := []string{
			"--data", dir, "--listen", d.addr(i), "--key-file", d.key(),
			"--http", fmt.Sprintf("127.0.0.1:%d", d.web+i),
			"--failure-domain", fmt.Sprintf("node%d", i+1), // one machine, but three to learn with
		}
		_, err := os.Stat(filepath.Join(dir, "node.json"))
		if i > 0 && errors.Is(err, os.ErrNotExist) {
			a = append(a, "--join", d.addr(0))
		}
		n, err := d.start(dir+".log", a)
		if err != nil {
			return err
		}
		d.procs = append(d.procs, n)
		if i == 0 {
			if err := d.waitKey(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// waitKey waits until the first node has made the key that the others need.
func (d *devCluster) waitKey(ctx context.Context, n *devNode) error {
	for limit := time.Now().Add(devReady); ; {
		if _, err := os.Stat(d.key()); err == nil {
			return nil
		}
		select {
		case <-n.done:
			return n.failure()
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(limit) {
			return fmt.Errorf("the first node made no key within %s; see %s", devReady, n.log)
		}
	}
}

func (d *devCluster) start(log string, a []string) (*devNode, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, devLogFileMode)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n := &devNode{log: log, ready: make(chan string, 1), done: make(chan struct{})}
	n.cmd = exec.Command(filepath.Join(d.bin, "eggsnode"), a...)
	n.cmd.Stderr = f
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s := bufio.NewScanner(out)
		for s.Scan() {
			if strings.HasPrefix(s.Text(), "ready") {
				select {
				case n.ready <- s.Text():
				default:
				}
			}
		}
		_, _ = io.Copy(io.Discard, out)
		n.err = n.cmd.Wait()
		close(n.done)
	}()
	return n, nil
}

// failure says why a node ended, with the end of its log.
func (n *devNode) failure() error {
	b, _ := os.ReadFile(n.log)
	if len(b) > devTail {
		b = b[len(b)-devTail:]
	}
	return fmt.Errorf("a node ended (%v); the end of %s:\n%s", n.err, n.log, strings.TrimSpace(string(b)))
}

func (d *devCluster) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, devReady)
	defer cancel()
	for i, n := range d.procs {
		select {
		case <-n.ready:
		case <-n.done:
			return n.failure()
		case <-ctx.Done():
			return fmt.Errorf("node %d is not ready: %w; see %s", i+1, ctx.Err(), n.log)
		}
	}
	return nil
}

func (d *devCluster) mountIt(ctx context.Context) (unmount func(), err error) {
	mnt, err := filepath.Abs(d.mount)
	if err != nil {
		return nil, err
	}
	d.mount = mnt
	if err := os.MkdirAll(mnt, 0o755); err != nil && !errors.Is(err, syscall.ENOTCONN) &&
		!errors.Is(err, os.ErrExist) {
		return nil, err
	}
	var addrs []string
	for i := range d.nodes {
		addrs = append(addrs, d.addr(i))
	}
	ctx, cancel := context.WithTimeout(ctx, devMountWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "eggsfuse"), "--key-file", d.key(),
		strings.Join(addrs, ","), mnt)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot mount at %s: %w\n%s", mnt, err, out)
	}
	return func() {
		if out, err := exec.Command("fusermount3", "-u", mnt).CombinedOutput(); err != nil {
			d.o.say("%s is in use (%s): unmounting when it is free", mnt, strings.TrimSpace(string(out)))
			_ = exec.Command("fusermount3", "-uz", mnt).Run()
		}
	}, nil
}

func (d *devCluster) advise() {
	d.o.say("")
	if d.mount != "" {
		d.o.say("  files         cp -a /usr/share/doc %s/ && ls %s/doc | head", d.mount, d.mount)
	}
	flags := ""
	if d.port != devFirstPort {
		flags = " --cluster " + d.addr(0)
	}
	d.o.say("  status        %s --key-file %s%s status", filepath.Join(d.bin, "eggs"), d.key(), flags)
	d.o.say("  status page   http://127.0.0.1:%d/", d.web)
	if d.nodes >= 3 {
		d.o.say("  break it      kill -9 %d    (a node; go on working)", d.procs[d.nodes-1].cmd.Process.Pid)
	}
	d.o.say("")
	d.o.say("Ctrl-C stops everything; the data stays in %s.", d.data)
}

// watch waits for Ctrl-C; a node that ends is told, and the others go on.
func (d *devCluster) watch(ctx context.Context) error {
	ended := make(chan int, len(d.procs))
	for i, n := range d.procs {
		go func() { <-n.done; ended <- i }()
	}
	for left := len(d.procs); left > 0; {
		select {
		case <-ctx.Done():
			d.o.say("stopping")
			return nil
		case i := <-ended:
			left--
			d.o.say("node %d ended (%v); the others go on. Its log: %s", i+1, d.procs[i].err, d.procs[i].log)
		}
	}
	return errors.New("all nodes ended")
}

func (d *devCluster) stop() {
	var wg sync.WaitGroup
	for _, n := range d.procs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_ = n.cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-n.done:
			case <-time.After(devStop):
				_ = n.cmd.Process.Kill()
				<-n.done
			}
		}()
	}
	wg.Wait()
}
