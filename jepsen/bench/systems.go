package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"eggsfs/jepsen"
)

// cluster is a running cluster and its data folder.
type cluster struct {
	*jepsen.Cluster
	dir string
}

// cluster starts nodes in a folder of their own and waits until they are ready.
func (e *env) cluster(nodes int) (*cluster, error) {
	c, err := e.prepare(nodes)
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		c.close()
		return &cluster{}, err
	}
	return c, nil
}

func (e *env) prepare(nodes int) (*cluster, error) {
	dir, err := os.MkdirTemp(e.dir, "cluster")
	if err != nil {
		return &cluster{}, err
	}
	c, err := jepsen.New(jepsen.Config{Bin: e.bin, Dir: dir, Nodes: nodes})
	if err != nil {
		return &cluster{}, err
	}
	return &cluster{c, dir}, nil
}

// close kills the nodes and the mounts and removes the data.
func (c *cluster) close() {
	if c.Cluster == nil {
		return
	}
	c.Close()
	os.RemoveAll(c.dir)
	c.Cluster = nil
}

func (c *cluster) pids() (pids []int) {
	for _, n := range c.Nodes() {
		if p := n.PID(); p > 0 {
			pids = append(pids, p)
		}
	}
	return pids
}

// viaLibrary is the cluster through the client library.
func (c *cluster) viaLibrary() system {
	return system{
		name: "library", say: "library:", pids: c.pids,
		args: []string{"--cluster", c.Addrs(), "--key-file", c.Key()},
	}
}

// viaMount mounts the cluster; the mount ends with the function that is returned.
func (c *cluster) viaMount() (system, *jepsen.Mount, error) {
	m, err := c.Mount()
	if err != nil {
		return system{}, nil, err
	}
	return system{
		name: "mount", say: "mount:", pids: func() []int { return append(c.pids(), m.PID()) },
		args: []string{"--dir", m.Dir},
	}, m, nil
}

// plain is a folder of the disk itself.
func (e *env) plain() (system, error) {
	dir := filepath.Join(e.dir, "plain")
	return system{
		name: "plain", say: "plain folder:", args: []string{"--dir", dir}, pids: func() []int { return nil },
	}, os.MkdirAll(dir, 0o755)
}

// loopback mounts go-fuse's example, which passes everything on to a folder and syncs nothing.
func (e *env) loopback() (s system, unmount func(), err error) {
	program := filepath.Join(e.dir, "loopback")
	if _, err := os.Stat(program); err != nil {
		build := exec.Command("go", "build", "-o", program, "github.com/hanwen/go-fuse/v2/example/loopback")
		if out, err := build.CombinedOutput(); err != nil {
			return s, nil, fmt.Errorf("build of go-fuse's loopback: %w: %s", err, last(string(out), 300))
		}
	}
	under := filepath.Join(e.dir, "under")
	if err := os.MkdirAll(under, 0o755); err != nil {
		return s, nil, err
	}
	mnt, err := os.MkdirTemp(e.dir, "loop")
	if err != nil {
		return s, nil, err
	}
	cmd, err := e.daemon("loopback", program, "-q", mnt, under)
	if err != nil {
		return s, nil, err
	}
	unmount = func() {
		_ = syscall.Unmount(mnt, syscall.MNT_DETACH)
		cmd.end()
	}
	if err := mounted(mnt, cmd, 10*time.Second); err != nil {
		unmount()
		return s, nil, err
	}
	return system{
		name: "loopback", say: "loopback:", args: []string{"--dir", mnt},
		pids: func() []int { return []int{cmd.Process.Pid} },
	}, unmount, nil
}

// daemon is a process that runs until it is ended.
type daemon struct {
	*exec.Cmd
	log  string
	done chan struct{}
}

// daemon starts a program; its output goes to a file.
func (e *env) daemon(name, program string, args ...string) (*daemon, error) {
	d := &daemon{exec.Command(program, args...), filepath.Join(e.dir, name+".log"), make(chan struct{})}
	log, err := os.Create(d.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.Stdout, d.Stderr = log, log
	if err := d.Start(); err != nil {
		return nil, err
	}
	go func() { _ = d.Wait(); close(d.done) }()
	e.undo = append(e.undo, d.end)
	return d, nil
}

// end asks the process to stop, and kills it if it does not.
func (d *daemon) end() {
	_ = d.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(5 * time.Second):
		_ = d.Process.Kill()
		<-d.done
	}
}

// mounted waits until something is mounted at dir, or d has ended.
func mounted(dir string, d *daemon, limit time.Duration) error {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if b, _ := os.ReadFile("/proc/mounts"); strings.Contains(string(b), " "+dir+" ") {
			return nil
		}
		select {
		case <-d.done:
			return fmt.Errorf("%s ended: %s", d.Path, tail(d.log))
		default:
		}
	}
	return fmt.Errorf("%s: nothing is mounted at %s after %s: %s", d.Path, dir, limit, tail(d.log))
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return last(string(b), 300)
}
