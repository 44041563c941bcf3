package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	seaweedVersion = "v0.0.0-20261109003541-7506e5f91cd6"
	juiceVersion   = "latest"
	buildLimit     = 15 * time.Minute
	peerReady      = 40 * time.Second
)

// peers is `make bench-peers`: other file systems beside a mount of ours, with the same worker in the same run.
func (e *env) peers(ctx context.Context) {
	const ours = "Mount, and its peers"
	if c, err := e.cluster(3); err != nil {
		e.rep.fail(ours, "start of the cluster", "", err)
	} else {
		if s, m, err := c.viaMount(); err != nil {
			e.rep.fail(ours, "the mount", "", err)
		} else {
			e.peer(ctx, ours, s)
			m.Close()
		}
		c.close()
	}
	if s, unmount, err := e.loopback(); err != nil {
		e.rep.fail(ours, "go-fuse loopback", "", err)
	} else {
		e.peer(ctx, ours, s)
		unmount()
	}
	if s, end, err := e.seaweed(ctx); err != nil {
		e.rep.fail(ours, "SeaweedFS", "seaweedfs.1k.16.create", err)
	} else {
		e.peer(ctx, ours, s)
		end()
	}
	if s, end, err := e.juice(ctx); err != nil {
		e.rep.fail(ours, "JuiceFS", "juicefs.1k.16.create", err)
	} else {
		e.peer(ctx, ours, s)
		end()
	}
}

func (e *env) peer(ctx context.Context, part string, s system) {
	e.through(ctx, part, s)
	e.streams(ctx, part, s)
	if pids := s.pids(); len(pids) > 0 {
		e.rep.add(Row{
			Part: part, What: s.say + " memory of all servers and the mount", Unit: "MiB",
			Values: []float64{memory(pids, "VmRSS")},
		})
	}
}

// install finds a program in PATH, or builds it from the Go module proxy in the run's folder. The module is copied
// and built as the main one, since `go install` refuses modules that replace others.
func (e *env) install(ctx context.Context, name, module, pkg string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	e.talk("build of %s; minutes", module)
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	run := func(dir string, args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir, cmd.WaitDelay = dir, 5*time.Second
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				out = append(out, exit.Stderr...)
			}
			err = fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, last(string(out), 300))
		}
		return out, err
	}
	out, err := run(e.dir, "mod", "download", "-json", module)
	if err != nil {
		return "", err
	}
	var got struct{ Dir string }
	if err := json.Unmarshal(out, &got); err != nil {
		return "", fmt.Errorf("go mod download %s: %w", module, err)
	}
	src, program := filepath.Join(e.dir, name+"-src"), filepath.Join(e.dir, name)
	if err := os.CopyFS(src, os.DirFS(got.Dir)); err != nil {
		return "", err
	}
	_, err = run(src, "build", "-o", program, pkg)
	return program, err
}

// group is some daemons and a mount.
type group struct {
	e       *env
	mnt     string
	daemons []*daemon
}

func (g *group) start(name, program string, args ...string) (*daemon, error) {
	d, err := g.e.daemon(name, program, args...)
	if err == nil {
		g.daemons = append(g.daemons, d)
	}
	return d, err
}

func (g *group) pids() (pids []int) {
	for _, d := range g.daemons {
		pids = append(pids, d.Process.Pid)
	}
	return pids
}

func (g *group) end() {
	_ = exec.Command("umount", "-l", g.mnt).Run()
	for i := len(g.daemons) - 1; i >= 0; i-- {
		g.daemons[i].end()
	}
}

// seaweed starts a master, two volume servers with two copies of everything, a filer and a mount.
func (e *env) seaweed(ctx context.Context) (s system, end func(), err error) {
	weed, err := e.install(ctx, "weed", "github.com/seaweedfs/seaweedfs@"+seaweedVersion, "./weed")
	if err != nil {
		return s, nil, err
	}
	g := &group{e: e, mnt: filepath.Join(e.dir, "seaweed-mnt")}
	defer func() {
		if err != nil {
			g.end()
		}
	}()
	ports, err := freePorts(4)
	if err != nil {
		return s, nil, err
	}
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	port := func(i int) []string {
		return []string{
			"-ip=127.0.0.1", fmt.Sprintf("-port=%d", ports[i]), fmt.Sprintf("-port.grpc=%d", ports[i]+10_000),
		}
	}
	for _, d := range []string{"master", "vol0", "vol1", "filer", "cache", "seaweed-mnt"} {
		if err := os.MkdirAll(filepath.Join(e.dir, d), 0o755); err != nil {
			return s, nil, err
		}
	}
	commands := [][]string{append([]string{
		"master", "-mdir=" + filepath.Join(e.dir, "master"),
		"-defaultReplication=001", "-volumeSizeLimitMB=1024",
	}, port(0)...)}
	for i := range 2 {
		dir := filepath.Join(e.dir, fmt.Sprintf("vol%d", i))
		volume := []string{"volume", "-dir=" + dir, "-max=50", "-master=" + at(0)}
		commands = append(commands, append(volume, port(1+i)...))
	}
	commands = append(
		commands,
		append([]string{"filer", "-master=" + at(0), "-defaultStoreDir=" + filepath.Join(e.dir, "filer")}, port(3)...),
		[]string{
			"mount", "-filer=" + at(3), "-dir=" + g.mnt, "-replication=001",
			"-cacheDir=" + filepath.Join(e.dir, "cache"),
		},
	)
	for i, c := range commands {
		d, err := g.start(fmt.Sprintf("weed-%s%d", c[0], i), weed, c...)
		if err != nil {
			return s, nil, err
		}
		if i < len(commands)-1 {
			err = listening(d, at(i))
		} else {
			err = mounted(g.mnt, d, peerReady)
		}
		if err != nil {
			return s, nil, err
		}
	}
	say := "SeaweedFS " + seaweedVersion[len("v0.0.0-"):len("v0.0.0-20061102")] + ", 2 copies, no fsync:"
	return system{name: "seaweedfs", say: say, args: []string{"--dir", g.mnt}, pids: g.pids}, g.end, nil
}

// juice starts Redis with its log synced each second, and a mount on it that keeps data in a folder.
func (e *env) juice(ctx context.Context) (s system, end func(), err error) {
	juice, err := e.install(ctx, "juicefs", "github.com/juicedata/juicefs@"+juiceVersion, ".")
	if err != nil {
		return s, nil, err
	}
	redis, err := exec.LookPath("redis-server")
	if err != nil {
		return s, nil, fmt.Errorf("it needs redis-server (Debian: redis-server): %w", err)
	}
	g := &group{e: e, mnt: filepath.Join(e.dir, "juice-mnt")}
	defer func() {
		if err != nil {
			g.end()
		}
	}()
	ports, err := freePorts(1)
	if err != nil {
		return s, nil, err
	}
	for _, d := range []string{"redis", "juice", "juice-mnt"} {
		if err := os.MkdirAll(filepath.Join(e.dir, d), 0o755); err != nil {
			return s, nil, err
		}
	}
	addr := fmt.Sprintf("127.0.0.1:%d", ports[0])
	d, err := g.start("redis", redis, "--port", fmt.Sprint(ports[0]), "--dir", filepath.Join(e.dir, "redis"),
		"--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "everysec")
	if err == nil {
		err = listening(d, addr)
	}
	if err != nil {
		return s, nil, err
	}
	meta := "redis://" + addr + "/1"
	format := exec.CommandContext(ctx, juice, "format", "--storage", "file", "--bucket", filepath.Join(e.dir, "juice"),
		meta, "bench")
	if out, err := format.CombinedOutput(); err != nil {
		return s, nil, fmt.Errorf("juicefs format: %w: %s", err, last(string(out), 300))
	}
	m, err := g.start("juicefs", juice, "mount", "--no-usage-report", meta, g.mnt)
	if err == nil {
		err = mounted(g.mnt, m, peerReady)
	}
	if err != nil {
		return s, nil, err
	}
	say := "JuiceFS, Redis with AOF every second, 1 copy:"
	return system{name: "juicefs", say: say, args: []string{"--dir", g.mnt}, pids: g.pids}, g.end, nil
}

// freePorts finds loopback ports that are free, as are those 10,000 above them.
func freePorts(n int) ([]int, error) {
	var ports []int
	for p := 12_100; p < 12_900 && len(ports) < n; p++ {
		free := true
		for _, q := range []int{p, p + 10_000} {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", q))
			if err != nil {
				free = false
				break
			}
			l.Close()
		}
		if free {
			ports = append(ports, p)
		}
	}
	if len(ports) < n {
		return nil, fmt.Errorf("no %d free ports between 12100 and 12900", n)
	}
	return ports, nil
}

// listening waits until somebody answers at addr, or d has ended.
func listening(d *daemon, addr string) error {
	for end := time.Now().Add(peerReady); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			c.Close()
			return nil
		}
		select {
		case <-d.done:
			return fmt.Errorf("%s ended: %s", d.Path, tail(d.log))
		default:
		}
	}
	return fmt.Errorf("%s does not answer at %s after %s: %s", d.Path, addr, peerReady, tail(d.log))
}
