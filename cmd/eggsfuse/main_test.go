package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/fuse"
	"eggsfs/internal/fstest"
)

// The test binary is eggsfuse over a file system in memory when asked to be.
func TestMain(m *testing.M) {
	switch os.Getenv("EGGS_TEST_AS") {
	case "":
		os.Exit(m.Run())
	case "memory":
		connect = func(_ context.Context, c client.Config) (client.API, error) {
			mem := fstest.NewMemory()
			_, err := mem.Mkdir(context.Background(), eggs.Root, "sub", client.CreateOptions{Mode: 0o755})
			return mem, err
		}
	case "away":
		connect = func(context.Context, client.Config) (client.API, error) {
			return nil, eggs.E("client.Open", eggs.Timeout, "no node answers")
		}
	case "panic":
		connect = func(context.Context, client.Config) (client.API, error) { os.Exit(7); return nil, nil }
	}
	os.Exit(run(os.Args))
}

// eggsfuse runs the program under a name, and returns its exit code and what it says.
func eggsfuse(t *testing.T, as, name string, args ...string) (int, string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, exe)
	c.Args = append([]string{name}, args...)
	c.Env = append(os.Environ(), "EGGS_TEST_AS="+as)
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(out)
}

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
}

func mounted(dir string) (string, bool) {
	text, _ := os.ReadFile("/proc/mounts")
	for _, line := range strings.Split(string(text), "\n") {
		if w := strings.Fields(line); len(w) > 3 && w[1] == dir && w[2] == fuse.FSType {
			return w[0] + " " + w[3], true
		}
	}
	return "", false
}

// daemons finds the daemon of a mount by its arguments.
func daemons(t *testing.T, dir string) []int {
	t.Helper()
	var pids []int
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range all {
		text, _ := os.ReadFile(p)
		if bytes.Contains(text, append([]byte(dir), 0)) && bytes.HasPrefix(text, []byte("eggsfuse")) {
			var pid int
			for _, c := range strings.Split(p, "/")[2] {
				pid = pid*10 + int(c-'0')
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

func gone(t *testing.T, what string, there func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); there(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still there after 5 s: %s", what)
		}
	}
}

// The command returns when the mount answers, and umount ends the daemon.
func TestBackground(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, end := range []string{"umount", "SIGTERM"} {
		code, out := eggsfuse(t, "memory", "eggsfuse", "--log-file", filepath.Join(t.TempDir(), "log"), "host:1,host2", dir)
		if code != 0 || out != "" {
			t.Fatalf("%d %q", code, out)
		}
		if how, ok := mounted(dir); !ok || !strings.HasPrefix(how, "host:1,host2 rw,nosuid,nodev") ||
			!strings.Contains(how, "allow_other") || !strings.Contains(how, "default_permissions") {
			t.Fatalf("mounted as %q %v", how, ok)
		}
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		pids := daemons(t, dir)
		if len(pids) != 1 {
			t.Fatalf("daemons %v", pids)
		}
		if code, out := eggsfuse(t, "memory", "eggsfuse", dir); code != exitFailure || !strings.Contains(out, "already") {
			t.Fatalf("a second mount: %d %q", code, out)
		}
		if end == "umount" {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Fatal(err)
			}
		} else if err := syscall.Kill(pids[0], syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		gone(t, "the daemon", func() bool { return len(daemons(t, dir)) > 0 })
		if _, ok := mounted(dir); ok {
			t.Fatal("still mounted after ", end)
		}
	}
}

// A file open for writing does not keep SIGTERM from ending the daemon, nor is it published.
func TestTermWhileWriting(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if code, out := eggsfuse(t, "memory", "eggsfuse", dir); code != 0 {
		t.Fatalf("%d %q", code, out)
	}
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("abc"); err != nil {
		t.Fatal(err)
	}
	for _, pid := range daemons(t, dir) {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	gone(t, "the daemon", func() bool { return len(daemons(t, dir)) > 0 })
	if err := f.Close(); err == nil {
		t.Error("close succeeded after the mount had ended")
	}
}

// The names and words that mount(8) uses.
func TestMountHelper(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	code, out := eggsfuse(t, "memory", "mount.eggs", "host:1/sub", dir, "-sn", "-o",
		"ro,noexec,_netdev,x-systemd.automount,dir_timeout=5", "-t", "eggs")
	if code != 0 {
		t.Fatalf("%d %q", code, out)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	if how, _ := mounted(dir); !strings.HasPrefix(how, "host:1/sub ro,nosuid,nodev,noexec") {
		t.Fatalf("mounted as %q", how)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Fatal(err)
	}
	if code, out := eggsfuse(t, "memory", "mount.eggs", "host:1", t.TempDir(), "-f"); code != 0 {
		t.Fatalf("a fake mount: %d %q", code, out)
	}
}

// Failures are said in words, and told apart by the exit code.
func TestFailures(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		as, args string
		code     int
		says     string
	}{
		{"memory", "", exitUsage, "want [ADDR"},
		{"memory", "a b c", exitUsage, "want [ADDR"},
		{"memory", "--bogus " + dir, exitUsage, "unknown flag"},
		{"memory", "-o bogus " + dir, exitUsage, "not an option"},
		{"memory", "-o key-file " + dir, exitUsage, "needs a value"},
		{"memory", "host:x " + dir, exitUsage, "HOST[:PORT]"},
		{"memory", "--read-ahead much " + dir, exitUsage, "not a size"},
		{"memory", "host /nowhere/at/all", exitFailure, "does not exist"},
		{"memory", "host/nothing " + dir, exitFailure, "does not exist"},
		{"away", "host " + dir, exitFailure, "Is a node running there?"},
		{"panic", "host " + dir, exitFailure, "without a word"},
		{"memory", "--help", 0, "Exit codes: 0"},
		{"memory", "--version", 0, "eggsfuse version"},
	} {
		code, out := eggsfuse(t, c.as, "eggsfuse", strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("eggsfuse %s: exit %d, %q; want %d and %q", c.args, code, out, c.code, c.says)
		}
	}
}

// Addresses and options as people and fstab write them.
func TestSettings(t *testing.T) {
	t.Setenv("EGGS_CLUSTER", "")
	parse := func(args ...string) (settings, error) {
		var s settings
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		s.addFlags(f)
		if err := f.Parse(args); err != nil {
			return s, err
		}
		return s, s.read(f, f.Args())
	}
	for _, c := range []struct {
		source string
		addrs  []string
		subdir string
	}{
		{"h", []string{"h:3447"}, ""},
		{"h:1,g/a/b/", []string{"h:1", "g:3447"}, "a/b"},
		{"[::1]:5,::1", []string{"[::1]:5", "[::1]:3447"}, ""},
	} {
		s, err := parse(c.source, "/m")
		if err != nil || !reflect.DeepEqual(s.addrs, c.addrs) || s.subdir != c.subdir || s.mount.Mountpoint != "/m" {
			t.Errorf("%s: %v %q %v", c.source, s.addrs, s.subdir, err)
		}
	}
	s, err := parse("/m", "-o", "attr_timeout=1.5,negative-timeout=2s,allow_other,suid,debug", "--memory", "1GiB")
	m := s.mount
	if err != nil || m.FileTimeout != 1500*time.Millisecond || m.NegativeTimeout != 2*time.Second || !m.AllowOther ||
		!m.Suid || !s.debug || m.TotalMemory != 1<<30 || !reflect.DeepEqual(s.addrs, []string{"127.0.0.1:3447"}) {
		t.Errorf("%+v %v", s, err)
	}
	if s, _ := parse("--dir-timeout", "0", "/m"); s.mount.DirTimeout != -1 {
		t.Errorf("no time-out for directories became %v", s.mount.DirTimeout)
	}
	for _, bad := range []string{"", "h,,g", ":1", "h:99999", "h:1:2"} {
		if _, err := parse(bad+"/", "/m"); bad != "" && err == nil {
			t.Errorf("%q is taken for an address", bad)
		}
	}
}
