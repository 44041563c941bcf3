package netns

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Mount is one eggsfuse at a folder.
type Mount struct {
	Dir string

	c    *Cluster
	args []string
	mu   sync.Mutex
	cmd  *exec.Cmd
}

// Mount mounts the cluster at a new folder. flags go before the address.
func (c *Cluster) Mount(flags ...string) (*Mount, error) {
	dir, err := os.MkdirTemp(c.cfg.Dir, "mnt")
	if err != nil {
		return nil, err
	}
	m := &Mount{Dir: dir, c: c}
	m.args = append(append([]string{"--foreground", "--key-file", c.Key()}, flags...),
		strings.Join(c.Addrs(), ","), dir)
	if err := m.Start(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.mounts = append(c.mounts, m)
	c.mu.Unlock()
	return m, nil
}

// Start mounts again after Kill.
func (m *Mount) Start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd != nil {
		return nil
	}
	log, err := os.OpenFile(m.Dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(m.c.cfg.Bin, "eggsfuse"), m.args...)
	cmd.Stderr, cmd.Stdout, cmd.Env = log, log, m.c.env()
	if err := cmd.Start(); err != nil {
		return err
	}
	for limit := time.Now().Add(mountLimit); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		if mounted(m.Dir) {
			m.cmd = cmd
			return nil
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return fmt.Errorf("netns: no mount at %s after %s, see %s.log", m.Dir, mountLimit, m.Dir)
}

func mounted(dir string) bool {
	b, err := os.ReadFile("/proc/mounts")
	return err == nil && strings.Contains(string(b), " "+dir+" fuse")
}

// Kill is kill -9 of the daemon; the mount point is cleared away.
func (m *Mount) Kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	m.cmd = nil
	_ = syscall.Unmount(m.Dir, syscall.MNT_DETACH)
}

// Close unmounts and waits for the daemon, which is killed when that takes too long.
func (m *Mount) Close() {
	m.mu.Lock()
	cmd := m.cmd
	m.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(stopLimit, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	timer.Stop()
	m.mu.Lock()
	m.cmd = nil
	m.mu.Unlock()
	_ = syscall.Unmount(m.Dir, syscall.MNT_DETACH)
}
