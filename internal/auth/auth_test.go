package auth

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"eggsfs/eggs"
)

func newKey(t testing.TB) *Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// fixed is a key that is the same in every run.
func fixed(t testing.TB, b byte) *Key {
	t.Helper()
	k, err := ringOf([][secretBytes]byte{[secretBytes]byte(bytes.Repeat([]byte{b}, secretBytes))})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What is derived from the key is in certificates, gossip and cookies of running clusters: frozen.
func TestGoldenDerivation(t *testing.T) {
	k := fixed(t, 7)
	c := BlockCert{Disk: 1, Block: 2, Size: 3, CRC: 4, Mark: 5}
	b := k.Blocks()
	for _, row := range []struct {
		name, want string
		got        []byte
	}{
		{"id", "5663537dd339a611", nil},
		{"gossip", "1e3f64544b2d58b4c10d22c1c17181caf1f99339e1bbc38430679a8ec2f655ef", k.GossipKeys()[0]},
		{"cookie", "7f70950884128aa77ef4dc86a6f42722", k.Cookie(9)},
		{"write", "1beb6f510c98c58374e51ff417aa133b", b.WriteMAC(c)},
		{"read", "ffeee1533662d8872b12637116a6e860", b.ReadMAC(c)},
		{"erase", "f46d3a895232c6f8eb0edfd841456db0", b.EraseMAC(c)},
		{"write proof", "73339c994c5ade2aa3db2c494c11e0bd", b.WriteProof(c)},
		{"erase proof", "3fb2a916b8d8a961be9e5be14e81cb71", b.EraseProof(c)},
	} {
		got := fmt.Sprintf("%x", row.got)
		if row.got == nil {
			got = k.ID()
		}
		if got != row.want {
			t.Errorf("{%q, %q},", row.name, got)
		}
	}
}

// A key file that is made is read back, is private, and is never overwritten.
func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster.key")
	k, err := CreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	got, err := LoadKey(path)
	if err != nil || got.ID() != k.ID() || !bytes.Equal(got.Text(), k.Text()) {
		t.Errorf("read back: %v", err)
	}
	if _, err := CreateKey(path); !errors.Is(err, eggs.Exist) {
		t.Errorf("a second CreateKey: %v", err)
	}
	if _, err := CreateKey(filepath.Join(path, "x")); err == nil {
		t.Error("a key was made below a file")
	}
}

// A key that is missing, damaged or open to others is refused in words that say
// what to do, and never printed.
func TestBadKeyFiles(t *testing.T) {
	k := newKey(t)
	good := string(k.Text())
	line := strings.TrimSpace(good[strings.Index(good, keyMagic):])
	secret := line[strings.LastIndex(line, " ")+1:]
	flip := func(s string, i int) string {
		c := byte('A')
		if s[i] == 'A' {
			c = 'B'
		}
		return s[:i] + string(c) + s[i+1:]
	}
	rows := []struct {
		name, text string
		mode       os.FileMode
		kind       eggs.Kind
		words      string
	}{
		{"good", good, 0o600, eggs.Other, ""},
		{"good, for a group", good, 0o640, eggs.Other, ""},
		{"good, with notes", "# mine\n\n  " + line + "  \r\n", 0o400, eggs.Other, ""},
		{"others may read it", good, 0o644, eggs.Permission, "chmod 600"},
		{"the group may write it", good, 0o660, eggs.Permission, "chmod 600"},
		{"empty", "", 0o600, eggs.Corrupt, "no key"},
		{"only notes", "# nothing\n", 0o600, eggs.Corrupt, "no key"},
		{"cut off", line[:len(line)-9], 0o600, eggs.Corrupt, "line 1"},
		{"one character wrong", flip(line, len(line)-20), 0o600, eggs.Corrupt, "damaged"},
		{"the id wrong", flip(line, len(keyMagic)+1), 0o600, eggs.Corrupt, "damaged"},
		{"another file", "-----BEGIN CERTIFICATE-----\n", 0o600, eggs.Corrupt, "not of the form"},
		{"binary", string(make([]byte, 1000)), 0o600, eggs.Corrupt, "not of the form"},
		{"huge", strings.Repeat("#", maxKeyFile+1), 0o600, eggs.Corrupt, "not a key file"},
		{"a long line", strings.Repeat("#", maxKeyFile), 0o600, eggs.Corrupt, ""},
		{"too many keys", strings.Repeat(line+"\n", maxKeys+1), 0o600, eggs.Corrupt, "more than"},
	}
	for _, row := range rows {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, row.mode)
		got, err := LoadKey(path)
		if row.kind == eggs.Other {
			if err != nil || got.ID() != k.ID() {
				t.Errorf("%s: %v", row.name, err)
			}
			continue
		}
		if !errors.Is(err, row.kind) || !strings.Contains(err.Error(), row.words) ||
			!strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", row.name, err)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the secret is printed", row.name)
		}
	}
	dir := t.TempDir()
	if _, err := LoadKey(filepath.Join(dir, "none")); !errors.Is(err, eggs.NotExist) ||
		!strings.Contains(err.Error(), "--key-file") {
		t.Errorf("missing: %v", err)
	}
	if _, err := LoadKey(dir); err == nil {
		t.Error("a directory is a key")
	}
}

// FuzzParseKey: no text may crash the parser, and what it takes it can print again.
func FuzzParseKey(f *testing.F) {
	k := newKey(f)
	f.Add(k.Text())
	f.Add([]byte(keyMagic + " 0 " + base64.StdEncoding.EncodeToString(make([]byte, 32))))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKey(b)
		if err != nil {
			return
		}
		if again, err := ParseKey(k.Text()); err != nil || again.ID() != k.ID() {
			t.Fatalf("printed and read: %v", err)
		}
	})
}

// A MAC lets its holder do one thing to one block of one disk. Changing
// anything it covers, or using it for something else, must fail.
func TestBlockMACs(t *testing.T) {
	b := newKey(t).Blocks()
	c := BlockCert{Disk: 1, Block: 2, Size: 3, CRC: 4, Mark: 5}
	type change struct {
		name string
		c    BlockCert
	}
	disk, block, size, crc, mark := c, c, c, c, c
	disk.Disk, block.Block, size.Size, crc.CRC, mark.Mark = 9, 9, 9, 9, 9
	changes := []change{{"disk", disk}, {"block", block}, {"size", size}, {"crc", crc}, {"mark", mark}}
	rows := []struct {
		name   string
		make   func(BlockCert) []byte
		check  func(BlockCert, []byte) bool
		covers string
	}{
		{"write", b.WriteMAC, b.CheckWrite, "disk block size crc"},
		{"read", b.ReadMAC, b.CheckRead, "disk block size"},
		{"erase", b.EraseMAC, b.CheckErase, "disk block mark"},
		{"write proof", b.WriteProof, b.CheckWriteProof, "disk block size crc"},
		{"erase proof", b.EraseProof, b.CheckEraseProof, "disk block"},
	}
	for _, row := range rows {
		mac := row.make(c)
		if len(mac) != MACBytes || !row.check(c, mac) {
			t.Errorf("%s: its own MAC is refused", row.name)
		}
		for _, ch := range changes {
			if covered := strings.Contains(row.covers, ch.name); row.check(ch.c, mac) == covered {
				t.Errorf("%s: another %s: accepted = %v", row.name, ch.name, covered)
			}
		}
		for i := range mac {
			bad := bytes.Clone(mac)
			bad[i] ^= 1
			if row.check(c, bad) {
				t.Errorf("%s: byte %d is not checked", row.name, i)
			}
		}
		if row.check(c, nil) || row.check(c, mac[:15]) || row.check(c, append(mac, 0)) {
			t.Errorf("%s: a MAC of another length is accepted", row.name)
		}
		for _, other := range rows {
			if other.name != row.name && other.check(c, mac) {
				t.Errorf("the MAC for %s allows %s", row.name, other.name)
			}
		}
	}
	if newKey(t).Blocks().CheckWrite(c, b.WriteMAC(c)) {
		t.Error("another cluster's MAC is accepted")
	}
}

// The cookie is the same on every replica, and of one file only.
func TestCookies(t *testing.T) {
	a, b := fixed(t, 1), fixed(t, 1)
	if !bytes.Equal(a.Cookie(5), b.Cookie(5)) || !a.CheckCookie(5, b.Cookie(5)) {
		t.Error("two replicas differ")
	}
	if a.CheckCookie(6, a.Cookie(5)) || a.CheckCookie(5, nil) || fixed(t, 2).CheckCookie(5, a.Cookie(5)) {
		t.Error("a wrong cookie is accepted")
	}
}

// While a key is being rotated, nodes with the ring in either order, and MACs
// of either key, get along; a node that has dropped the old key does not take it.
func TestRotation(t *testing.T) {
	old, young := fixed(t, 1), fixed(t, 2)
	first, err := old.Ring(young)
	if err != nil {
		t.Fatal(err)
	}
	second, err := young.Ring(old)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := ParseKey(second.Text()); err != nil || text.ID() != young.ID() || len(text.GossipKeys()) != 2 {
		t.Errorf("a ring printed and read: %v", err)
	}
	c := BlockCert{Disk: 1}
	for _, row := range []struct {
		a, b *Key
		ok   bool
	}{{old, first, true}, {first, second, true}, {second, first, true}, {second, young, true}, {old, young, false}} {
		if row.b.Blocks().CheckRead(c, row.a.Blocks().ReadMAC(c)) != row.ok ||
			row.b.CheckCookie(3, row.a.Cookie(3)) != row.ok {
			t.Errorf("MACs of %s at %s: want %v", row.a.ID(), row.b.ID(), row.ok)
		}
		if row.ok {
			if _, _, err, err2 := shake(t, row.a, Identity{}, row.b, 1); err != nil || err2 != nil {
				t.Errorf("TLS from %s to %s: %v, %v", row.a.ID(), row.b.ID(), err, err2)
			}
		}
	}
}

// shake makes a TLS connection and returns who each end takes the other for.
func shake(t testing.TB, client *Key, who Identity, server *Key, node eggs.NodeID) (
	atServer, atClient tls.ConnectionState, clientErr, serverErr error,
) {
	t.Helper()
	sc, err := server.ServerTLS(Identity{Node: node}, "x/1")
	if err != nil {
		t.Fatal(err)
	}
	cc, err := client.ClientTLS(who, "x/1")
	if err != nil {
		t.Fatal(err)
	}
	return shakeWith(t, cc, sc)
}

func shakeWith(t testing.TB, cc, sc *tls.Config) (
	atServer, atClient tls.ConnectionState, clientErr, serverErr error,
) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(30 * time.Second))
		conn := tls.Server(raw, sc)
		if serverErr = conn.Handshake(); serverErr == nil {
			atServer = conn.ConnectionState()
			conn.Write([]byte("hello"))
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, cc)
	if clientErr = conn.HandshakeContext(ctx); clientErr == nil {
		atClient = conn.ConnectionState()
		_, clientErr = io.ReadFull(conn, make([]byte, 5))
	}
	raw.Close()
	<-done
	return
}

// Each end learns who the other is, from its certificate.
func TestIdentities(t *testing.T) {
	k := newKey(t)
	for _, who := range []Identity{{}, {Node: 7}, {Scope: "/a b?&=/ü"}, {Node: 8, Scope: "x"}} {
		atServer, atClient, err, err2 := shake(t, k, who, k, 1)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if got, err := PeerOf(atServer); err != nil || got != who {
			t.Errorf("the server sees %v, %v; it was %v", got, err, who)
		}
		if got, err := PeerOf(atClient); err != nil || got.Node != 1 {
			t.Errorf("the client sees %v, %v", got, err)
		}
		if atClient.Version != tls.VersionTLS13 {
			t.Errorf("TLS version %x", atClient.Version)
		}
	}
	if _, err := k.ServerTLS(Identity{}, "x"); err == nil {
		t.Error("a client may serve")
	}
	if _, err := k.ClientTLS(Identity{Scope: strings.Repeat("s", maxScope+1)}, "x"); err == nil {
		t.Error("a scope of any length is taken")
	}
}

// Another cluster's key, a client that plays the server, and a peer without a
// certificate are refused, with the reason in words.
func TestRefusals(t *testing.T) {
	k, other := newKey(t), newKey(t)
	_, _, clientErr, serverErr := shake(t, other, Identity{}, k, 1)
	if !errors.Is(clientErr, eggs.Permission) || !strings.Contains(clientErr.Error(), NotThisKey) ||
		!strings.Contains(clientErr.Error(), k.ID()) {
		t.Errorf("the client of another cluster: %v", clientErr)
	}
	if serverErr == nil {
		t.Error("the server of another cluster is content")
	}
	sc, _ := k.ServerTLS(Identity{Node: 1}, "x/1")
	cc, _ := other.ClientTLS(Identity{}, "x/1")
	cc.VerifyConnection = nil // a client that does not care whom it talks to
	if _, _, _, err := shakeWith(t, cc, sc); !errors.Is(err, eggs.Permission) || !strings.Contains(err.Error(), other.ID()) {
		t.Errorf("the server, of a careless client: %v", err)
	}
	cc, _ = k.ClientTLS(Identity{}, "x/1")
	cc.Certificates = nil
	if _, _, _, err := shakeWith(t, cc, sc); err == nil {
		t.Error("a client without a certificate is taken")
	}
	cc, _ = k.ClientTLS(Identity{Node: 2}, "x/1")
	asClient, _ := k.ClientTLS(Identity{}, "x/1")
	sc.Certificates = asClient.Certificates
	if _, _, err, _ := shakeWith(t, cc, sc); !errors.Is(err, eggs.Permission) {
		t.Errorf("a client's certificate serves: %v", err)
	}
	cc.MaxVersion, cc.MinVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, _, err, _ := shakeWith(t, cc, sc); err == nil {
		t.Error("TLS 1.2 is taken")
	}
}

// A redial must be cheap: sessions are resumed, and still checked.
func TestResumption(t *testing.T) {
	k := newKey(t)
	sc, _ := k.ServerTLS(Identity{Node: 1}, "x/1")
	cc, _ := k.ClientTLS(Identity{Node: 9}, "x/1")
	l, err := tls.Listen("tcp", "127.0.0.1:0", sc)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("x"))
			c.Close()
		}
	}()
	for i := range 3 {
		c, err := tls.Dial("tcp", l.Addr().String(), cc)
		if err != nil {
			t.Fatal(err)
		}
		c.Read(make([]byte, 1)) // the ticket comes before it
		cs := c.ConnectionState()
		if id, err := PeerOf(cs); err != nil || id.Node != 1 || cs.DidResume != (i > 0) {
			t.Errorf("dial %d: resumed %v, peer %v, %v", i, cs.DidResume, id, err)
		}
		c.Close()
	}
}

func BenchmarkHandshake(b *testing.B) {
	k := newKey(b)
	sc, _ := k.ServerTLS(Identity{Node: 1}, "x/1")
	cc, _ := k.ClientTLS(Identity{}, "x/1")
	cc.ClientSessionCache = nil
	for b.Loop() {
		shakeWith(b, cc, sc)
	}
}

func BenchmarkReadMAC(b *testing.B) {
	blocks := newKey(b).Blocks()
	b.ReportAllocs()
	for b.Loop() {
		blocks.ReadMAC(BlockCert{Disk: 5, Block: 6, Size: 7})
	}
}
