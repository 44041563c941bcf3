package jepsen

import (
	"bufio"
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

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

// refused runs eggsnode and fails unless it ends with an error that says want.
func refused(t *testing.T, want string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
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
	pid := n.PID()
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
	t.Run("another cluster's data folder", func(t *testing.T) {
		second := secondCluster(t)
		must(t, second.Node(0).Stop())
		refused(t, "belongs to cluster", "--data", second.Node(0).Data, "--listen", free(), "--join", n.Addr,
			"--key-file", c.Key())
		must(t, second.Start()) // it is still what it was
	})
	t.Run("garbage on the port", func(t *testing.T) { garbage(t, n.Addr) })
	t.Run("strangers", func(t *testing.T) { strangers(t, c, n.Addr) })

	if n.PID() != pid {
		t.Fatal("the node ended meanwhile")
	}
	if out := run(t, c, "status"); !strings.Contains(out, "healthy") {
		t.Fatalf("after all that the cluster is not healthy:\n%s", out)
	}
}

func secondCluster(t *testing.T) *Cluster {
	t.Helper()
	return start(t, 1)
}

// garbage sends what strangers send; the port answers in words or closes, and serves on.
func garbage(t *testing.T, addr string) {
	t.Helper()
	random := make([]byte, 1<<20)
	_, _ = rand.Read(random)
	for _, x := range []struct{ bytes, words string }{
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "this port speaks TLS"},
		{"\x00" + string(random), "this port speaks TLS"},
		{"\x16\x03\x01\xff\xff", ""},
		{wire.PlainBlockMagic + strings.Repeat("\xff", 64), "the limit is"}, // a frame of 4 GiB
		{wire.PlainBlockMagic + "\x08\x00\x00\x00" + strings.Repeat("\xff", 8), "unexpected EOF"},
		{"", ""},
	} {
		said := ""
		for range 20 {
			conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
			must(t, err)
			_ = conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
			_, _ = io.WriteString(conn, x.bytes)
			b, _ := io.ReadAll(conn)
			said += string(b)
			conn.Close()
		}
		if !strings.Contains(said, x.words) {
			t.Errorf("%.20q is answered with %q, want a word of %q", x.bytes, said, x.words)
		}
		udp, err := net.Dial("udp", addr)
		must(t, err)
		_, _ = io.WriteString(udp, x.bytes[:min(len(x.bytes), 1400)])
		udp.Close()
	}
}

// strangers are those who speak the protocol, but wrongly: each is told why.
func strangers(t *testing.T, c *Cluster, addr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dial := func(keyFile, alpn string) func(ctx context.Context, addr string) (net.Conn, error) {
		key, err := auth.LoadKey(keyFile)
		must(t, err)
		conf, err := key.ClientTLS(auth.Identity{}, alpn)
		must(t, err)
		return func(ctx context.Context, addr string) (net.Conn, error) { return wire.DialTLS(ctx, addr, conf) }
	}
	other := filepath.Join(t.TempDir(), "other.key")
	_, err := auth.CreateKey(other)
	must(t, err)
	wrongCluster := wire.NewHello(0xC2, 0, "a stranger")
	newer := wire.NewHello(0, 0, "of another version")
	newer.MinVersion, newer.MaxVersion = 77, 99
	for _, x := range []struct {
		name  string
		key   string
		hello *wire.Hello
		kind  eggs.Kind
		words string
	}{
		{"a client of another version", c.Key(), newer, eggs.Version, "77 to 99"},
		{"another cluster's client", c.Key(), wrongCluster, eggs.WrongCluster, "00000000000000c2"},
		{"a wrong key", other, wire.NewHello(0, 0, "of another key"), eggs.Permission, auth.NotThisKey},
	} {
		conn, err := wire.Dial(ctx, wire.DialConfig{Addr: addr, Dial: dial(x.key, wire.ALPNRPC), Hello: x.hello})
		if err == nil {
			conn.Close()
		}
		if eggs.KindOf(err) != x.kind || !strings.Contains(err.Error(), x.words) {
			t.Errorf("%s: %v", x.name, err)
		}
	}
	conn, err := dial(c.Key(), wire.ALPNRPC)(ctx, addr)
	must(t, err)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, err = conn.Write(bytes.Repeat([]byte{0xff}, 64)) // the header of a frame of 4 GiB
	must(t, err)
	if b, err := io.ReadAll(conn); err != nil || !strings.Contains(string(b), "limit") {
		t.Errorf("an oversized frame is answered with %q, %v", b, err)
	}
	plain, err := net.DialTimeout("tcp", addr, 5*time.Second)
	must(t, err)
	defer plain.Close()
	_ = plain.SetDeadline(time.Now().Add(2 * time.Minute))
	_, err = io.WriteString(plain, wire.PlainBlockMagic)
	must(t, err)
	must(t, wire.WriteBlockFrame(plain, &wire.BlockRequest{Op: &wire.BlockRequest_List{
		List: &wire.ListBlocks{Disk: library(t, c).Routes().Disks[0].Id},
	}}))
	var answer wire.BlockReply
	must(t, wire.ReadBlockFrame(bufio.NewReader(plain), &answer))
	if err := answer.Error.AsError(); eggs.KindOf(err) != eggs.Permission || len(answer.Blocks) > 0 {
		t.Errorf("a list of blocks for one without a key: %v, %d blocks", err, len(answer.Blocks))
	}
	out, err := exec.CommandContext(ctx, filepath.Join(binaries, "eggs"),
		"--cluster", addr, "--key-file", other, "status").CombinedOutput()
	if err == nil || !strings.Contains(string(out), auth.NotThisKey) {
		t.Errorf("eggs with a wrong key: %v: %s", err, out)
	}
	out, err = exec.CommandContext(ctx, filepath.Join(binaries, "eggsfuse"),
		"--key-file", other, addr, t.TempDir()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), auth.NotThisKey) {
		t.Errorf("eggsfuse with a wrong key: %v: %s", err, out)
	}
}

// TestForeignAndDamagedFolders: a node that is not who it was says so, and
// nothing acknowledged is lost by it.
func TestForeignAndDamagedFolders(t *testing.T) {
	c := start(t, 1)
	mnt := mount(t, c)
	kept := newLargeFiles(1)
	kept.write(t, mnt)
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
	t.Run("block folders are swapped, empty, unreadable or damaged", func(t *testing.T) {
		blocks := n.Data + "/blocks/"
		must(t, os.Rename(blocks+"00", blocks+"x"))
		must(t, os.Rename(blocks+"01", blocks+"00"))
		must(t, os.Rename(blocks+"x", blocks+"01"))
		must(t, os.Rename(blocks+"02", blocks+"away"))
		must(t, os.Mkdir(blocks+"02", 0o700))
		must(t, os.Rename(blocks+"03", blocks+"away3"))
		must(t, os.WriteFile(blocks+"03", []byte("a file"), 0o600))
		whole, err := os.ReadFile(blocks + "04/identity")
		must(t, err)
		must(t, os.WriteFile(blocks+"04/identity", whole[:len(whole)/2], 0o600))
		must(t, n.Start())
		must(t, n.WaitReady())
		out := run(t, c, "-o", "json", "status")
		if strings.Count(out, `does not serve`) < 5 {
			t.Fatalf("status does not say that five disks do not serve:\n%s", out)
		}
		must(t, n.Stop())
		must(t, os.WriteFile(blocks+"04/identity", whole, 0o600))
		must(t, os.Remove(blocks+"03"))
		must(t, os.Rename(blocks+"away3", blocks+"03"))
		must(t, os.Remove(blocks+"02"))
		must(t, os.Rename(blocks+"away", blocks+"02"))
		must(t, os.Rename(blocks+"00", blocks+"x"))
		must(t, os.Rename(blocks+"01", blocks+"00"))
		must(t, os.Rename(blocks+"x", blocks+"01"))
	})
	must(t, n.Start())
	must(t, n.WaitReady())
	kept.compare(t, c, "after all that")
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
	for limit := time.Now().Add(readyLimit); ; time.Sleep(200 * time.Millisecond) {
		// The news that a disk has room travels by gossip.
		out := sh(t, "dd if=/dev/zero of=%s/fits bs=1M count=20 2>&1 || true", mnt)
		if st, err := os.Stat(mnt + "/fits"); err == nil && st.Size() == 20<<20 {
			break
		}
		if !strings.Contains(out, "No space left") || time.Now().After(limit) {
			t.Fatalf("with room again: %s", out)
		}
	}
}
