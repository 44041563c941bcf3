package fuse

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/internal/fstest"
)

// Some tests need a program that does what no shell does; the test binary is it.
func TestMain(m *testing.M) {
	if name := os.Getenv("EGGS_HELPER"); name != "" {
		helper := helpers[name]
		if helper == nil {
			fmt.Println("no helper", name)
			os.Exit(2)
		}
		if err := helper(os.Args[1:]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// room is one file system in memory, mounted twice.
type room struct {
	*testing.T
	mem  *fstest.Memory
	d, o string // the two mount points
	m    *Mounted
	log  *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// mustMount skips without root, and fails as root when there is no /dev/fuse.
func mustMount(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Fatalf("root, but no /dev/fuse: %v", err)
	}
}

// tool fails with the Debian package of a program that is not there.
func tool(t *testing.T, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is not installed: apt-get install %s", name, pkg)
	}
}

func newRoom(t *testing.T, change ...func(*Config)) *room {
	t.Helper()
	mustMount(t)
	r := &room{T: t, mem: fstest.NewMemory(), log: &lockedBuffer{}}
	if addrs := os.Getenv("EGGS_TEST_CLUSTER"); addrs != "" {
		r.onCluster(addrs, change...)
		return r
	}
	r.m, r.d = r.mount(r.mem, change...)
	_, r.o = r.mount(r.mem.Client(), change...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the mounts:\n%s", r.log)
		}
	})
	return r
}

// onCluster mounts a directory of a running cluster instead: EGGS_TEST_CLUSTER=ADDR[,ADDR…]
// with EGGS_KEY_FILE runs the tests of what a user sees against the real thing. Those
// that make the memory fail have no business there.
func (r *room) onCluster(addrs string, change ...func(*Config)) {
	r.Helper()
	var root eggs.InodeID
	for i := range 2 {
		c, err := client.Open(r.Context(), client.Config{Addrs: strings.Split(addrs, ",")})
		r.ok(err)
		r.Cleanup(func() { c.Close() })
		if i == 0 {
			a, err := c.Mkdir(r.Context(), eggs.Root, fmt.Sprint("test-", time.Now().UnixNano()), createMode(0o755))
			r.ok(err)
			root = a.ID
		}
		m, dir := r.mount(c, append(change, func(c *Config) { c.Root = root })...)
		if i == 0 {
			r.m, r.d = m, dir
		} else {
			r.o = dir
		}
	}
}

func (r *room) mount(mem client.API, change ...func(*Config)) (*Mounted, string) {
	r.Helper()
	dir := r.TempDir()
	h := slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})
	c := Config{Client: mem, Mountpoint: dir, Logger: slog.New(h), SpillDir: os.TempDir()}
	for _, f := range change {
		f(&c)
	}
	m, err := Mount(c)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := m.Unmount(); err != nil {
			r.Error(err)
		}
		for end := time.Now().Add(time.Second); m.fs.limits.memory.Load() != 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) { // RELEASE comes late
				r.Errorf("%d bytes of memory were not given back", m.fs.limits.memory.Load())
				break
			}
		}
		if s := m.fs.limits.spill.Load(); s != 0 {
			r.Errorf("%d bytes of local files were not given back", s)
		}
	})
	return m, dir
}

// try runs a script in the first mount, with $D and $O the two mounts.
func (r *room) try(script string) (string, error) {
	c := exec.Command("bash", "-c", script)
	c.Dir = r.d
	c.Env = append(os.Environ(), "D="+r.d, "O="+r.o, "HOME="+os.TempDir(), "LC_ALL=C")
	out, err := c.CombinedOutput()
	return string(out), err
}

// sh runs a script that must succeed.
func (r *room) sh(script string) string {
	r.Helper()
	out, err := r.try("set -e; " + script)
	if err != nil {
		r.Fatalf("%s\n%v: %s", script, err, out)
	}
	return out
}

func (r *room) path(name string) string  { return filepath.Join(r.d, name) }
func (r *room) other(name string) string { return filepath.Join(r.o, name) }

// reads checks what the other mount reads.
func (r *room) reads(name, want string) {
	r.Helper()
	got, err := os.ReadFile(r.other(name))
	if err != nil || string(got) != want {
		r.Fatalf("%s reads %q, %v on the other mount; want %q", name, clip(string(got)), err, clip(want))
	}
}

func clip(s string) string {
	if len(s) > 100 {
		return fmt.Sprintf("%s… (%d bytes)", s[:100], len(s))
	}
	return s
}

// absent checks that the other mount does not find a name.
func (r *room) absent(name string) {
	r.Helper()
	if _, err := os.Lstat(r.other(name)); !os.IsNotExist(err) {
		r.Fatalf("%s on the other mount: %v, want ENOENT", name, err)
	}
}

// eventually waits for what comes without a close to wait for.
func (r *room) eventually(what string, ok func() bool) {
	r.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			r.Fatalf("not within a minute: %s", what)
		}
	}
}

func (r *room) errno(what string, err error, want syscall.Errno) {
	r.Helper()
	var got syscall.Errno
	for e := err; e != nil; {
		if n, ok := e.(syscall.Errno); ok {
			got = n
			break
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			break
		}
		e = u.Unwrap()
	}
	if got != want {
		r.Fatalf("%s: %v, want %v", what, err, want)
	}
}

func (r *room) create(name string) *os.File {
	r.Helper()
	f, err := os.OpenFile(r.path(name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		r.Fatal(err)
	}
	return f
}

func (r *room) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// run starts the test binary as a helper.
func (r *room) helper(name string, args ...string) *exec.Cmd {
	r.Helper()
	exe, err := os.Executable()
	r.ok(err)
	c := exec.Command(exe, args...)
	c.Env = append(os.Environ(), "EGGS_HELPER="+name)
	c.Dir = r.d
	return c
}

var helpers = map[string]func(args []string) error{
	"mmap": helpMmap, "stat": helpStat,
}

// helpMmap writes a file through a mapping: before the close, or after it.
func helpMmap(args []string) error {
	f, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	size := 300_000
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	p, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	early := args[1] == "close-first"
	if early {
		if err := f.Close(); err != nil {
			return err
		}
		if len(args) > 2 { // the other mount must not see it now
			if _, err := os.Stat(args[2]); !os.IsNotExist(err) {
				return fmt.Errorf("visible while mapped: %v", err)
			}
		}
	}
	copy(p, fstest.Pattern(size, 9))
	if err := unix.Munmap(p); err != nil {
		return err
	}
	if !early {
		return f.Close()
	}
	return nil
}

// helpStat stats a path once, and says what came of it.
func helpStat(args []string) error {
	_, err := os.Stat(args[0])
	fmt.Println(strings.Contains(fmt.Sprint(err), "no such file"))
	return nil
}

func fail(op, name string, k eggs.Kind) func(fstest.Call) error {
	return func(c fstest.Call) error {
		if c.Op == op && (name == "" || c.Name == name) {
			return eggs.E("test", k, "")
		}
		return nil
	}
}

func createMode(mode uint32) client.CreateOptions { return client.CreateOptions{Mode: mode} }
