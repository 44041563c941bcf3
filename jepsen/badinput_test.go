package jepsen

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// refused runs eggsnode and fails unless it ends with an error that says want.
func refused(t *testing.T, want string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	args = append(args, "--http", "off")
	out, err := exec.CommandContext(ctx, filepath.Join(binaries, "eggsnode"), args...).CombinedOutput()
	if err == nil || ctx.Err() != nil {
		t.Fatalf("eggsnode %q was not refused (%v):\n%s", args, err, out)
	}
	if !strings.Contains(string(out), want) {
		t.Fatalf("eggsnode %q says not %q but:\n%s", args, want, out)
	}
	if strings.Contains(string(out), "goroutine ") {
		t.Fatalf("eggsnode %q crashed:\n%s", args, out)
	}
}

// TestBadInput: what people and strangers get wrong is refused in words, and
// the cluster goes on.
func TestBadInput(t *testing.T) {
	c := start(t, 1)
	n := c.Node(0)
	free := func() string { a, err := freeAddr(); must(t, err); return a }
	other := t.TempDir()

	t.Run("flags", func(t *testing.T) {
		refused(t, "--data is required")
		refused(t, "must be HOST:PORT", "--data", other+"/x", "--listen", "nonsense")
		refused(t, "must be 1, 3, 5 or 7", "--data", other+"/x", "--replicas", "2")
		refused(t, "unknown flag", "--data", other+"/x", "--nonsense")
	})
	t.Run("a data folder in use", func(t *testing.T) {
		refused(t, "another eggsnode", "--data", n.Data, "--listen", free(), "--key-file", c.Key())
	})
	t.Run("an address in use", func(t *testing.T) {
		refused(t, "address already in use", "--data", other+"/inuse", "--listen", n.Addr)
	})
	t.Run("joining without the key", func(t *testing.T) {
		refused(t, "the cluster's key is not there", "--data", other+"/nokey", "--listen", free(), "--join", n.Addr)
	})
	t.Run("joining with another cluster's key", func(t *testing.T) {
		second := secondCluster(t)
		refused(t, "not the key of this cluster", "--data", other+"/wrongkey", "--listen", free(), "--join", n.Addr,
			"--key-file", second.Key())
	})
	t.Run("a damaged key file", func(t *testing.T) {
		bad := filepath.Join(other, "bad.key")
		must(t, os.WriteFile(bad, []byte("nonsense\n"), 0o600))
		refused(t, "bad.key", "--data", other+"/badkey", "--listen", free(), "--join", n.Addr, "--key-file", bad)
	})
	t.Run("garbage on the port", func(t *testing.T) { garbage(t, n.Addr) })

	if out := run(t, c, "status"); !strings.Contains(out, "healthy") {
		t.Fatalf("after all that the cluster is not healthy:\n%s", out)
	}
}

func secondCluster(t *testing.T) *Cluster {
	t.Helper()
	return start(t, 1)
}

// garbage sends what strangers send; the port must answer or close, and take no memory.
func garbage(t *testing.T, addr string) {
	t.Helper()
	random := make([]byte, 1<<20)
	_, _ = rand.Read(random)
	for _, b := range [][]byte{
		[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		random,
		{0x16, 0x03, 0x01, 0xff, 0xff},
		append([]byte("EGGSBLK1"), bytes.Repeat([]byte{0xff}, 64)...),
		{},
	} {
		for range 20 {
			conn, err := net.DialTimeout("tcp", addr, time.Second)
			must(t, err)
			_ = conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
			_, _ = conn.Write(b)
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
		udp, err := net.Dial("udp", addr)
		must(t, err)
		_, _ = udp.Write(b[:min(len(b), 1400)])
		udp.Close()
	}
}

// TestForeignAndDamagedFolders: a node that is not who it was says so, and
// nothing acknowledged is lost by it.
func TestForeignAndDamagedFolders(t *testing.T) {
	c := start(t, 1)
	mnt := mount(t, c)
	must(t, os.WriteFile(mnt+"/kept", []byte("kept"), 0o644))
	n := c.Node(0)
	free, err := freeAddr()
	must(t, err)
	must(t, n.Stop())
	flags := []string{"--data", n.Data, "--listen", free, "--key-file", c.Key()}

	t.Run("the log is gone", func(t *testing.T) {
		must(t, os.Rename(n.Data+"/raft.log", n.Data+"/log.away"))
		refused(t, "raft.log", flags...)
		must(t, os.Rename(n.Data+"/log.away", n.Data+"/raft.log"))
	})
	t.Run("the log is damaged", func(t *testing.T) {
		whole, err := os.ReadFile(n.Data + "/raft.log")
		must(t, err)
		bad := bytes.Clone(whole)
		for i := 0; i < len(bad); i += 512 {
			bad[i] ^= 0x10
		}
		must(t, os.WriteFile(n.Data+"/raft.log", bad, 0o600))
		refused(t, "raft.log", flags...)
		must(t, os.WriteFile(n.Data+"/raft.log", whole, 0o600))
	})
	t.Run("node.json is damaged", func(t *testing.T) {
		whole, err := os.ReadFile(n.Data + "/node.json")
		must(t, err)
		must(t, os.WriteFile(n.Data+"/node.json", whole[:len(whole)/2], 0o600))
		refused(t, "node.json", flags...)
		must(t, os.WriteFile(n.Data+"/node.json", whole, 0o600))
	})
	t.Run("two block folders are swapped, a third is empty", func(t *testing.T) {
		blocks := n.Data + "/blocks/"
		must(t, os.Rename(blocks+"00", blocks+"x"))
		must(t, os.Rename(blocks+"01", blocks+"00"))
		must(t, os.Rename(blocks+"x", blocks+"01"))
		must(t, os.Rename(blocks+"02", blocks+"away"))
		must(t, os.Mkdir(blocks+"02", 0o700))
		must(t, n.Start())
		must(t, n.WaitReady())
		out := run(t, c, "-o", "json", "status")
		if strings.Count(out, `does not serve`) < 3 {
			t.Fatalf("status does not say that three disks do not serve:\n%s", out)
		}
		must(t, n.Stop())
		must(t, os.Remove(blocks+"02"))
		must(t, os.Rename(blocks+"away", blocks+"02"))
		must(t, os.Rename(blocks+"00", blocks+"x"))
		must(t, os.Rename(blocks+"01", blocks+"00"))
		must(t, os.Rename(blocks+"x", blocks+"01"))
	})
	must(t, n.Start())
	must(t, n.WaitReady())
	if b, err := os.ReadFile(mnt + "/kept"); err != nil || string(b) != "kept" {
		t.Fatalf("after all that the file reads %q, %v", b, err)
	}
}

// TestFullDisk: at the reserve a writer gets ENOSPC, the cluster stays up, and
// there is room again after a removal and a collection.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	sh(t, "mount -t tmpfs -o size=200m none %s", dir)
	t.Cleanup(func() { sh(t, "umount -l %s", dir) })
	c, err := New(Config{Bin: binaries, Dir: dir, Nodes: 1, Args: []string{"--reserve", "64MiB"}})
	must(t, err)
	t.Cleanup(c.Close)
	must(t, c.Start())
	mnt := mount(t, c)
	must(t, os.WriteFile(mnt+"/small", []byte("small"), 0o644))
	out := sh(t, "dd if=/dev/zero of=%s/big bs=1M count=400 2>&1 || true", mnt)
	if !strings.Contains(out, "No space left") {
		t.Fatalf("a full disk says: %s", out)
	}
	if _, err := os.Stat(mnt + "/big"); !os.IsNotExist(err) {
		t.Fatalf("the file that did not fit is there: %v", err)
	}
	if b, err := os.ReadFile(mnt + "/small"); err != nil || string(b) != "small" {
		t.Fatalf("small reads %q, %v", b, err)
	}
	must(t, os.Mkdir(mnt+"/dir", 0o755))
	nothingIsLeft(t, c, mnt)
	sh(t, "dd if=/dev/zero of=%s/fits bs=1M count=20 2>&1", mnt)
}
