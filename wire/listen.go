package wire

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"eggsfs/eggs"
)

// Limits of a listener. A stranger costs a goroutine, a socket and a few KiB,
// for at most greetTime.
const (
	greetTime = 5 * time.Second // first byte and TLS handshake together
	// maxStrangers is how many connections may be unknown yet; the oldest is
	// closed for one more, so that those who say nothing can't keep out those who do.
	maxStrangers = 512
	// maxWaiting is how many known connections may wait for a room to accept them.
	maxWaiting = 128
	// maxAcceptPause bounds the wait after an accept failed, as when descriptors run out.
	maxAcceptPause = time.Second

	tlsHandshakeByte = 0x16 // the first byte of every TLS connection
	wrongPort        = "eggsfs: this port speaks TLS with the cluster's key, for nodes and mounts; " +
		"the status page is on the --http address\n"
)

// Listener is a node's one TCP port.
type Listener struct {
	tcp    net.Listener
	tls    *tls.Config
	plain  bool
	log    *strangerLog
	closed chan struct{}
	once   sync.Once

	mu        sync.Mutex
	protocols map[string]*protocol
	strangers *list.List // of net.Conn, oldest first

	maxStrangers int
	greetTime    time.Duration
}

// Listen opens the port. With plainBlocks, block connections may come without
// TLS. It fails with Kind InUse, Permission or Invalid, in words.
func Listen(
	addr string, cfg *tls.Config, plainBlocks bool, logger *slog.Logger,
) (*Listener, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	tcp, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, &eggs.Error{Op: "wire.Listen", Name: addr, Kind: listenKind(err), Err: err}
	}
	l := &Listener{
		tcp: tcp, tls: cfg, plain: plainBlocks, log: newStrangerLog(logger),
		closed: make(chan struct{}), protocols: map[string]*protocol{}, strangers: list.New(),
		maxStrangers: maxStrangers, greetTime: greetTime,
	}
	go l.acceptLoop()
	return l, nil
}

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.tcp.Addr() }

// Close closes the port and every connection that no room has accepted.
func (l *Listener) Close() error {
	var err error
	l.once.Do(func() {
		close(l.closed)
		err = l.tcp.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		for e := l.strangers.Front(); e != nil; e = e.Next() {
			e.Value.(net.Conn).Close()
		}
		for _, p := range l.protocols {
			p.drain()
		}
	})
	return err
}

// ALPN returns the listener of one protocol. Its connections are *tls.Conn
// after the handshake, or for plain blocks *net.TCPConn after the magic.
// Closing it closes nothing but itself.
func (l *Listener) ALPN(name string) net.Listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.protocols[name]
	if p == nil {
		p = &protocol{l: l, queue: make(chan net.Conn, maxWaiting), closed: make(chan struct{})}
		l.protocols[name] = p
	}
	return p
}

// protocol is the listener of one ALPN name.
type protocol struct {
	l      *Listener
	queue  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Accept waits for the next connection.
func (p *protocol) Accept() (net.Conn, error) {
	select {
	case c := <-p.queue:
		return c, nil
	case <-p.closed:
	case <-p.l.closed:
	}
	return nil, &eggs.Error{Op: "wire.Accept", Kind: eggs.Unavailable, Err: net.ErrClosed}
}

// Close refuses connections of this protocol from now on.
func (p *protocol) Close() error {
	p.once.Do(func() { close(p.closed); p.drain() })
	return nil
}

// Addr is the port's.
func (p *protocol) Addr() net.Addr { return p.l.Addr() }

func (p *protocol) drain() {
	for {
		select {
		case c := <-p.queue:
			c.Close()
		default:
			return
		}
	}
}

// give hands a connection over, or closes it when nobody takes it.
func (p *protocol) give(conn net.Conn) error {
	select {
	case <-p.closed:
		conn.Close()
		return eggs.E("wire.Accept", eggs.Unavailable, "this protocol is not served any more")
	case <-p.l.closed:
		conn.Close()
		return nil
	case p.queue <- conn:
	default:
		conn.Close()
		return eggs.E("wire.Accept", eggs.Busy, "too many connections wait to be accepted")
	}
	select { // closed between the two: nobody will accept it
	case <-p.closed:
		p.drain()
	case <-p.l.closed:
		p.drain()
	default:
	}
	return nil
}

// acceptLoop takes connections from the kernel.
func (l *Listener) acceptLoop() {
	pause := time.Duration(0)
	for {
		conn, err := l.tcp.Accept()
		if err == nil {
			pause = 0
			conn.SetDeadline(time.Now().Add(l.patience()))
			go l.greet(conn, l.enter(conn))
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		pause = min(2*pause+5*time.Millisecond, maxAcceptPause)
		l.log.say("accept", err)
		select {
		case <-time.After(pause):
		case <-l.closed:
			return
		}
	}
}

func (l *Listener) patience() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.greetTime
}

// enter notes a stranger, and closes the one who has been one for longest when there are too many.
func (l *Listener) enter(conn net.Conn) *list.Element {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.strangers.Len() >= l.maxStrangers {
		oldest := l.strangers.Front()
		oldest.Value.(net.Conn).Close()
		l.strangers.Remove(oldest)
	}
	return l.strangers.PushBack(conn)
}

// leave forgets a stranger. Removing one twice does nothing.
func (l *Listener) leave(e *list.Element) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.strangers.Remove(e)
}

// greet finds out what a connection is and gives it to its room.
func (l *Listener) greet(raw net.Conn, e *list.Element) {
	defer l.leave(e)
	conn, name, err := l.identify(raw)
	if err == nil {
		l.mu.Lock()
		p := l.protocols[name]
		l.mu.Unlock()
		if p == nil {
			err = eggs.E("wire.Accept", eggs.Unsupported, "nobody serves protocol "+name)
		} else {
			raw.SetDeadline(time.Time{})
			err = p.give(conn)
		}
	}
	if err != nil {
		raw.Close()
		select {
		case <-l.closed:
		default:
			l.log.say(hostOf(raw.RemoteAddr()), err)
		}
	}
}

// identify reads the first bytes and shakes hands.
func (l *Listener) identify(raw net.Conn) (net.Conn, string, error) {
	first := make([]byte, len(PlainBlockMagic))
	n, err := raw.Read(first)
	if n == 0 {
		if isTimeout(err) {
			err = eggs.E("wire.Accept", eggs.Timeout, "said nothing for "+l.patience().String())
		}
		return nil, "", err
	}
	if first[0] == tlsHandshakeByte {
		conn := tls.Server(&replayed{Conn: raw, head: first[:n]}, l.tls)
		if err := conn.Handshake(); err != nil {
			return nil, "", explainTLS(err)
		}
		name := conn.ConnectionState().NegotiatedProtocol
		if name == "" {
			conn.Close()
			err = eggs.E("wire.Accept", eggs.Version, "the peer names no protocol (ALPN)")
		}
		return conn, name, err
	}
	if string(first[:n]) == PlainBlockMagic[:n] {
		if _, err := io.ReadFull(raw, first[n:]); err != nil {
			return nil, "", err
		}
		if string(first) == PlainBlockMagic && l.plain {
			return raw, ALPNBlock, nil
		}
		if string(first) == PlainBlockMagic {
			return nil, "", l.turnAway(raw, "block connections without TLS are not allowed here")
		}
	}
	return nil, "", l.turnAway(raw, "neither TLS nor a block connection")
}

// turnAway tells a stranger in a line of text where it has come to.
func (l *Listener) turnAway(raw net.Conn, why string) error {
	raw.SetDeadline(time.Now().Add(lingerTime))
	io.WriteString(raw, wrongPort)
	if t, ok := raw.(*net.TCPConn); ok {
		t.CloseWrite()
	}
	io.CopyN(io.Discard, raw, MaxHello) // so that the line is not lost in a reset
	return eggs.E("wire.Accept", eggs.Invalid, why)
}

// replayed gives the bytes that were read from it once more.
type replayed struct {
	net.Conn
	head []byte
}

func (r *replayed) Read(p []byte) (int, error) {
	if len(r.head) > 0 {
		n := copy(p, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}
