package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
)

// raw connects to the rig with its key and no manners.
func (r *rig) raw(alpn string) net.Conn {
	r.t.Helper()
	tc, err := r.key.ClientTLS(auth.Identity{}, alpn)
	if err != nil {
		r.t.Fatal(err)
	}
	conn, err := DialTLS(context.Background(), r.l.Addr().String(), tc)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// frame is a frame with any header.
func frame(n uint32, kind byte, body string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, n)
	b = append(b, kind, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(MethodPing))
	b = binary.LittleEndian.AppendUint64(b, 1)
	return append(b, body...)
}

// Whatever breaks the rules is told so in words, and the connection is closed.
func TestBadInputIsRefusedInWords(t *testing.T) {
	hello, err := appendFrame(nil, header{kind: frameHello}, nil, NewHello(testCluster, 0, "bad"))
	if err != nil {
		t.Fatal(err)
	}
	rows := []struct {
		name  string
		hello bool
		bytes []byte
		kind  eggs.Kind
		words string
	}{
		{"text instead of a hello", false, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), eggs.TooLarge, "limit"},
		{"zeros instead of a hello", false, make([]byte, 64), eggs.Invalid, "not EggsFS's protocol"},
		{"a request instead of a hello", false, frame(12, byte(frameRequest), ""), eggs.Invalid, "a hello was wanted"},
		{"a hello that is none", false, frame(12+3, byte(frameHello), "\xff\xff\xff"), eggs.Invalid, ""},
		{"a huge hello", false, frame(1<<20, byte(frameHello), ""), eggs.TooLarge, "4096"},
		{"an oversized frame", true, frame(MaxBody+13, byte(frameRequest), ""), eggs.TooLarge, "16777216"},
		{"the most a length can say", true, frame(1<<32-1, byte(frameRequest), ""), eggs.TooLarge, "16777216"},
		{"an unknown type", true, frame(12, 99, ""), eggs.Invalid, "type 99"},
		{"an answer to the server", true, frame(12, byte(frameReply), ""), eggs.Invalid, "type 3"},
		{"a second hello", true, frame(12, byte(frameHello), ""), eggs.Invalid, "type 1"},
		{"a credit of no number", true, frame(14, byte(frameCredit), "ab"), eggs.Invalid, "4 bytes"},
		{"a long cancel", true, frame(12+MaxHello+1, byte(frameCancel), ""), eggs.TooLarge, "type 5"},
		{"call ids that repeat", true, append(frame(12, byte(frameRequest), ""),
			frame(12, byte(frameRequest), "")...), eggs.Invalid, "twice"},
	}
	r := newRig(t, ServerConfig{})
	var all sync.WaitGroup // each lingers a while
	for _, row := range rows {
		conn := r.raw(ALPNRPC)
		all.Go(func() {
			if row.hello {
				conn.Write(hello)
			}
			conn.Write(row.bytes)
			got := lastWord(t, conn)
			if eggs.KindOf(got) != row.kind || !strings.Contains(got.Error(), row.words) {
				t.Errorf("%s: %v", row.name, got)
			}
		})
	}
	all.Wait()
	if err := r.dial().Call(context.Background(), MethodPing, &Ping{}, &Pong{}); err != nil {
		t.Error("an honest peer afterwards:", err)
	}
}

// lastWord reads until the peer closes and returns the refusal it gave.
func lastWord(t *testing.T, conn net.Conn) error {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	r := newFrameReader(conn)
	var last error = errors.New("no word")
	for {
		h, err := r.next(MaxBody)
		if err != nil {
			if isTimeout(err) {
				t.Error("the connection stays open")
			}
			return last
		}
		b, err := r.take(h.size)
		if err != nil {
			return last
		}
		switch h.kind {
		case frameHello:
			m := &Hello{}
			if err := m.UnmarshalVT(*b); err != nil {
				t.Error(err)
			}
			if m.Error != nil {
				last = m.Error.AsError()
			}
		case frameGoodbye:
			last = goodbyeError(*b)
		}
	}
}

// An unknown method is a newer peer's, not an attack: other calls of the connection go on.
func TestUnknownMethodIsRefusedAlone(t *testing.T) {
	r := newRig(t, ServerConfig{})
	c := r.dial()
	err := c.Call(context.Background(), 4711, &Ping{}, &Pong{})
	if !errors.Is(err, eggs.Unsupported) || !strings.Contains(err.Error(), "4711") {
		t.Error(err)
	}
	if err := c.Call(context.Background(), MethodPing, &Ping{}, &Pong{}); err != nil {
		t.Error(err)
	}
}

// A message beyond the limit is refused by its sender, in both directions, and costs no connection.
func TestOversizedMessages(t *testing.T) {
	r := newRig(t, ServerConfig{})
	big := strings.Repeat("x", MaxBody)
	r.s.Handle(MethodNodeStatus, func(context.Context, []byte, *Hello) (Message, error) {
		return &NodeStatus{Version: big}, nil
	})
	c := r.dial()
	ctx := context.Background()
	wantKind(t, "a request", c.Call(ctx, MethodPing, &Event{Text: big}, &Pong{}), eggs.TooLarge)
	wantKind(t, "an answer", c.Call(ctx, MethodNodeStatus, &GetNodeStatus{}, &NodeStatus{}), eggs.TooLarge)
	if err := c.Call(ctx, MethodPing, &Ping{}, &Pong{}); err != nil {
		t.Error(err)
	}
}

// Peers that do not belong together find out at the first frame, both of them, in words.
func TestHelloRefusals(t *testing.T) {
	r := newRig(t, ServerConfig{Admit: func(_ net.Conn, h *Hello) error {
		if h.Node == 0xBAD {
			return eggs.E("node.Admit", eggs.Permission, "the certificate is another's")
		}
		return nil
	}})
	rows := []struct {
		name   string
		change func(*DialConfig)
		kind   eggs.Kind
		words  string
	}{
		{"a newer protocol", func(d *DialConfig) { d.Hello.MinVersion, d.Hello.MaxVersion = 7, 9 }, eggs.Version, "7 to 9"},
		{"an older protocol", func(d *DialConfig) { d.Hello.MinVersion, d.Hello.MaxVersion = 0, 0 }, eggs.Version, "0 to 0"},
		{"another cluster", func(d *DialConfig) { d.Hello.Cluster = 0xC2 }, eggs.WrongCluster, "00000000000000c2"},
		{"another cluster was meant", func(d *DialConfig) { d.Hello.Cluster, d.WantCluster = 0, 0xC2 }, eggs.WrongCluster, "was meant"},
		{"another node was meant", func(d *DialConfig) { d.WantNode = 0xB7 }, eggs.WrongCluster, "00000000000000b7"},
		{"not who the certificate says", func(d *DialConfig) { d.Hello.Node = 0xBAD }, eggs.Permission, "another's"},
	}
	for _, row := range rows {
		d := r.config()
		row.change(&d)
		_, err := Dial(context.Background(), d)
		if eggs.KindOf(err) != row.kind || !strings.Contains(err.Error(), row.words) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	d := r.config()
	d.Hello.Cluster = 0 // does not know yet: how a node joins
	c, err := Dial(context.Background(), d)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// Nobody there is Unavailable, at once; somebody who says nothing is, after a while.
func TestDialNobody(t *testing.T) {
	r := newRig(t, ServerConfig{})
	d := r.config()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.Addr = l.Addr().String()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err = Dial(ctx, d)
	wantKind(t, "a silent peer", err, eggs.Unavailable)
	l.Close()
	_, err = Dial(context.Background(), d)
	wantKind(t, "nobody", err, eggs.Unavailable)
}

// logLines keeps what was logged.
type logLines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// port is a listener for its own tests.
func port(t *testing.T, plain bool) (*Listener, *auth.Key, *logLines) {
	t.Helper()
	key, err := auth.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	tc, err := key.ServerTLS(auth.Identity{Node: testNode}, ALPNRPC, ALPNBlock, ALPNRaft)
	if err != nil {
		t.Fatal(err)
	}
	lines := &logLines{}
	l, err := Listen("127.0.0.1:0", tc, plain, slog.New(slog.NewTextHandler(lines, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, key, lines
}

func hangUp(t *testing.T, conn net.Conn) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	b, err := io.ReadAll(conn)
	if isTimeout(err) {
		t.Error("the connection stays open")
	}
	return string(b)
}

// A browser, a port scanner, or a plain block client where that is not allowed is told
// where it has come to; the log has one line about it, not one a connection.
func TestStrangersAtThePort(t *testing.T) {
	l, _, lines := port(t, false)
	for _, s := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x01\x02", "EGGS", "EGGSBLK2", PlainBlockMagic} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(s))
		conn.(*net.TCPConn).CloseWrite()
		if got := hangUp(t, conn); s != "EGGS" && got != wrongPort {
			t.Errorf("%q: was told %q", s, got)
		}
		conn.Close()
	}
	n := 0
	for end := time.Now().Add(30 * time.Second); n == 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		n = strings.Count(lines.String(), "closed a connection")
	}
	if n != 1 {
		t.Errorf("%d lines in the log:\n%s", n, lines)
	}
}

// Plain block connections reach the block server as raw TCP behind the magic, and TLS ones by ALPN.
func TestBlockConnections(t *testing.T) {
	l, key, _ := port(t, true)
	accept := l.ALPN(ALPNBlock)
	plain, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for _, part := range []string{"EGG", "SBLK1", "hello"} { // however it is cut
		plain.Write([]byte(part))
		time.Sleep(10 * time.Millisecond)
	}
	got, err := accept.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	b := make([]byte, 5)
	io.ReadFull(got, b)
	if _, ok := got.(*net.TCPConn); !ok || string(b) != "hello" {
		t.Errorf("a %T that says %q", got, b)
	}
	tc, _ := key.ClientTLS(auth.Identity{Node: 0xB1}, ALPNBlock)
	conn, err := DialTLS(context.Background(), l.Addr().String(), tc)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err = accept.Accept(); err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	id, err := auth.PeerOf(got.(*tls.Conn).ConnectionState())
	if err != nil || id.Node != 0xB1 {
		t.Errorf("the peer is %v, %v", id, err)
	}
}

// A wrong key and a wrong protocol are said in words on both ends.
func TestWrongKeyAndProtocolAtThePort(t *testing.T) {
	l, key, lines := port(t, false)
	other, _ := auth.NewKey()
	for _, row := range []struct {
		name  string
		key   *auth.Key
		alpn  string
		kind  eggs.Kind
		words string
	}{
		{"a wrong key", other, ALPNRPC, eggs.Permission, auth.NotThisKey},
		{"a protocol that is not served", key, ALPNGossip, eggs.Version, "does not serve"},
	} {
		tc, _ := row.key.ClientTLS(auth.Identity{}, row.alpn)
		_, err := DialTLS(context.Background(), l.Addr().String(), tc)
		if eggs.KindOf(err) != row.kind || !strings.Contains(err.Error(), row.words) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	for end := time.Now().Add(time.Second); !strings.Contains(lines.String(), auth.NotThisKey); {
		if time.Now().After(end) {
			t.Fatalf("the server does not say why:\n%s", lines)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Those who say nothing cannot keep out those who do, and are closed in the end.
func TestSlowStrangersGiveWay(t *testing.T) {
	l, key, _ := port(t, false)
	l.mu.Lock()
	l.maxStrangers, l.greetTime = 8, 700*time.Millisecond
	l.mu.Unlock()
	go func() {
		for {
			if _, err := l.ALPN(ALPNRPC).Accept(); err != nil {
				return
			}
		}
	}()
	var slow []net.Conn
	for range 20 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		slow = append(slow, conn)
	}
	tc, _ := key.ClientTLS(auth.Identity{}, ALPNRPC)
	conn, err := DialTLS(context.Background(), l.Addr().String(), tc)
	if err != nil {
		t.Fatal("an honest peer is kept out:", err)
	}
	conn.Close()
	for _, c := range slow {
		hangUp(t, c)
	}
}

// A port in use is an error in words, of the kind that says so.
func TestListenInUse(t *testing.T) {
	l, _, _ := port(t, false)
	_, err := Listen(l.Addr().String(), nil, false, nil)
	wantKind(t, "the port is taken", err, eggs.InUse)
	_, err = Listen("192.0.2.77:1", nil, false, nil)
	wantKind(t, "not an address of this machine", err, eggs.Invalid)
}
