package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Node is one eggsnode, running or not.
type Node struct {
	c     *Cluster
	Index int    // from 0
	Addr  string // HOST:PORT
	HTTP  string // HOST:PORT
	Data  string // its data folder

	mu      sync.Mutex
	cmd     *exec.Cmd
	ready   chan struct{}
	done    chan struct{}
	err     error
	paused  bool
	removed bool
}

// Name is what reports call it: n1, n2, …
func (n *Node) Name() string { return fmt.Sprintf("n%d", n.Index+1) }

// Log is the file of its standard error, over all starts.
func (n *Node) Log() string { return n.Data + ".log" }

// Start starts the node; ready or not is WaitReady's to find out.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		return nil
	}
	a := []string{"--data", n.Data, "--listen", n.Addr, "--http", n.HTTP, "--key-file", n.c.Key()}
	if _, err := os.Stat(filepath.Join(n.Data, "node.json")); err != nil && (n.Index > 0 || n.ready != nil) {
		if err := n.c.waitKey(); err != nil {
			return err
		}
		var seeds []string
		for _, o := range n.c.Nodes() {
			if o != n && !o.Removed() { // n's own mutex is held
				seeds = append(seeds, o.Addr)
			}
		}
		a = append(a, "--join", strings.Join(seeds, ","))
	}
	a = append(a, n.c.cfg.Args...)
	if n.c.cfg.NodeArgs != nil {
		a = append(a, n.c.cfg.NodeArgs(n.Index)...)
	}
	log, err := os.OpenFile(n.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(log, "---- start %s %s\n", time.Now().Format(time.RFC3339Nano), strings.Join(a, " "))
	cmd := exec.Command(filepath.Join(n.c.cfg.Bin, "eggsnode"), a...)
	cmd.Stderr, cmd.Env = log, n.c.env()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if n.c.net != nil {
		err = within(n.c.net.namespace(n.Index), cmd.Start)
	} else {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	n.cmd, n.ready, n.done, n.err, n.paused = cmd, make(chan struct{}), make(chan struct{}), nil, false
	go n.watch(cmd, bufio.NewScanner(out), n.ready, n.done)
	return nil
}

func (c *Cluster) waitKey() error {
	for limit := time.Now().Add(readyLimit); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(c.Key()); err == nil {
			return nil
		}
	}
	return errors.New("netns: the first node made no key")
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
func (n *Node) WaitReady(ctx context.Context) error {
	n.mu.Lock()
	ready, done := n.ready, n.done
	n.mu.Unlock()
	if ready == nil {
		return fmt.Errorf("netns: %s was never started", n.Name())
	}
	select {
	case <-ready:
		return nil
	case <-done:
		return fmt.Errorf("netns: %s ended: %w\n%s", n.Name(), n.Err(), n.LogTail())
	case <-ctx.Done():
		return fmt.Errorf("netns: %s: %w\n%s", n.Name(), ctx.Err(), n.LogTail())
	case <-time.After(readyLimit):
		return fmt.Errorf("netns: %s is not ready after %s\n%s", n.Name(), readyLimit, n.LogTail())
	}
}

// Err is how the last process ended; nil while it runs.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// LogTail is the end of the node's log.
func (n *Node) LogTail() string {
	b, err := os.ReadFile(n.Log())
	if err != nil {
		return err.Error()
	}
	return tail(string(b))
}

// Running reports whether the process runs, paused or not.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil
}

// Removed reports whether the node was removed from the cluster for good.
func (n *Node) Removed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.removed
}

// SetRemoved says that the node is not to be started again.
func (n *Node) SetRemoved() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.removed = true
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
	n.paused = s == syscall.SIGSTOP || n.paused && s != syscall.SIGCONT
	return n.done
}

// Kill is kill -9; it returns when the process is gone.
func (n *Node) Kill() {
	if done := n.signal(syscall.SIGKILL); done != nil {
		<-done
	}
}

// Shoot is kill -9 that does not wait: a process that a stuck disk holds stays
// until the disk answers.
func (n *Node) Shoot() { n.signal(syscall.SIGKILL) }

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
		return n.Err()
	case <-time.After(stopLimit):
		n.Kill()
		return fmt.Errorf("netns: %s did not stop within %s", n.Name(), stopLimit)
	}
}
