package fuse

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/internal/fstest"
)

// The library's own tests of POSIX behaviour must hold, apart from those that ask for
// what EggsFS refuses on purpose.
func TestPosix(t *testing.T) {
	refused := map[string]string{
		"TruncateFile":        "writes to a finished file",
		"TruncateNoFile":      "truncates a finished file",
		"ParallelFileOpen":    "writes to a finished file",
		"Link":                "hard links",
		"LinkUnlinkRename":    "hard links",
		"FcntlFlockLocksFile": "wants a process to be locked out by itself: the library skips it too",
		"Tmpfile":             "a file without a name in a directory has nothing to publish: EOPNOTSUPP, the test skips",
		"XAttrLarge":          "64 KiB of attributes; the limit is eggs.MaxXattrBytes",
	}
	for name, test := range posixtest.All {
		if _, ok := refused[name]; ok {
			delete(refused, name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			test(t, r.d)
		})
	}
	for name := range refused {
		t.Errorf("%s is not a test of the library any more", name)
	}
}

// hanging is a file system whose look-ups of one name never end.
type hanging struct{ client.API }

func (h hanging) Lookup(ctx context.Context, dir eggs.InodeID, name string) (client.Entry, error) {
	if name == "hang" {
		<-ctx.Done()
		return client.Entry{}, eggs.E("test", eggs.Canceled, "")
	}
	return h.API.Lookup(ctx, dir, name)
}

// A process that is killed does not wait for a cluster that is away.
func TestKilledWhileWaiting(t *testing.T) {
	r := newRoom(t, func(c *Config) { c.Client = hanging{c.Client} })
	c := exec.Command("stat", r.path("hang"))
	r.ok(c.Start())
	time.Sleep(50 * time.Millisecond)
	r.ok(c.Process.Kill())
	ended := make(chan struct{})
	go func() { c.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the killed process still waits after 30 s")
	}
}

// helpMount mounts a file system in memory, says so, and waits to be killed.
func helpMount(args []string) error {
	_, err := Mount(Config{Client: fstest.NewMemory(), Mountpoint: args[0]})
	if err != nil {
		return err
	}
	os.Stdout.WriteString("up\n")
	io.ReadAll(os.Stdin)
	return nil
}

func init() { helpers["mount"] = helpMount }

// The mount point of a daemon that died is replaced; one that answers is refused.
func TestDeadMountIsReplaced(t *testing.T) {
	mustMount(t)
	r := &room{T: t, mem: fstest.NewMemory(), log: &lockedBuffer{}, d: t.TempDir()}
	dir := filepath.Join(r.d, "mnt")
	r.ok(os.Mkdir(dir, 0o755))
	for range 2 {
		c := r.helper("mount", dir)
		in, err := c.StdinPipe()
		r.ok(err)
		defer in.Close()
		out, err := c.StdoutPipe()
		r.ok(err)
		r.ok(c.Start())
		b := make([]byte, 3)
		if _, err := io.ReadFull(out, b); err != nil || string(b) != "up\n" {
			t.Fatalf("%q %v", b, err)
		}
		_, err = Mount(Config{Client: r.mem, Mountpoint: dir})
		if eggs.KindOf(err) != eggs.InUse || !strings.Contains(err.Error(), "already") {
			t.Fatal(err)
		}
		r.ok(c.Process.Kill())
		c.Wait()
		_, err = os.Stat(filepath.Join(dir, "f"))
		r.errno("the dead mount point", err, syscall.ENOTCONN)
	}
	m, err := Mount(Config{Client: r.mem, Mountpoint: dir})
	r.ok(err)
	r.ok(os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
	r.ok(m.Unmount())
	for _, c := range []struct {
		path string
		kind eggs.Kind
	}{{filepath.Join(r.d, "none"), eggs.NotExist}, {"/proc/version", eggs.NotDir}, {"", eggs.Invalid}} {
		if _, err := Mount(Config{Client: r.mem, Mountpoint: c.path}); eggs.KindOf(err) != c.kind {
			t.Errorf("mount at %q: %v", c.path, err)
		}
	}
}
