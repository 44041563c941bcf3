package gossip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"eggsfs/eggs"
)

// Limits of the transport.
const (
	maxPacket    = 64 << 10         // bytes: what UDP can carry
	packetQueue  = 256              // packets between the socket and memberlist; more are dropped
	streamQueue  = 16               // streams that memberlist has not taken yet
	streamWait   = time.Second      // for a place in that queue
	resolveEvery = 30 * time.Second // a host name is looked up again
	resolveTime  = 2 * time.Second  // and given up, keeping what was known
	maxJoins     = 4096             // addresses ever joined; then they are forgotten at once
)

// The addresses that memberlist sees: one a node, and one an address to join.
const (
	nodePrefix = 0xfdee_6567_6773_0001
	joinPrefix = 0xfdee_6567_6773_0002
	fakePort   = 1
)

func fakeIP(prefix, n uint64) net.IP {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16), prefix)
	return net.IP(binary.BigEndian.AppendUint64(b, n))
}

// transport carries memberlist's packets and streams.
type transport struct {
	self  eggs.NodeID
	label string
	udp   net.PacketConn
	dial  func(ctx context.Context, addr string) (net.Conn, error)

	packets chan *memberlist.Packet
	streams chan net.Conn
	closed  chan struct{}
	once    sync.Once
	reading sync.WaitGroup

	mu    sync.Mutex
	nodes map[eggs.NodeID]string
	joins map[uint64]*join
	names map[string]*resolved
}

// join is an address to join, and why it could not be dialed.
type join struct {
	addr string
	err  error
}

// resolved is where the packets for an address go.
type resolved struct {
	addr net.Addr
	at   time.Time // zero: a literal, for ever
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(cfg *Config, label string) *transport {
	t := &transport{
		self: cfg.Node, label: label, udp: cfg.UDP, dial: cfg.Dial,
		packets: make(chan *memberlist.Packet, packetQueue),
		streams: make(chan net.Conn, streamQueue),
		closed:  make(chan struct{}),
		nodes:   map[eggs.NodeID]string{}, joins: map[uint64]*join{},
		names: map[string]*resolved{},
	}
	t.reading.Add(1)
	go t.readLoop()
	return t
}

// learn notes where a node is.
func (t *transport) learn(id eggs.NodeID, addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.nodes[id]; old != addr {
		delete(t.names, old)
	}
	t.nodes[id] = addr
}

func (t *transport) unlearn(id eggs.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.names, t.nodes[id])
	delete(t.nodes, id)
}

// joinName gives an address to join a form that memberlist takes without asking DNS.
func (t *transport) joinName(addr string) (string, uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n, j := range t.joins {
		if j.addr == addr {
			return net.JoinHostPort(fakeIP(joinPrefix, n).String(), fmt.Sprint(fakePort)), n
		}
	}
	if len(t.joins) >= maxJoins {
		clear(t.joins)
	}
	n := uint64(len(t.joins) + 1)
	t.joins[n] = &join{addr: addr}
	return net.JoinHostPort(fakeIP(joinPrefix, n).String(), fmt.Sprint(fakePort)), n
}

// joinError is why the last dial to an address to join failed, or nil.
func (t *transport) joinError(n uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if j := t.joins[n]; j != nil {
		return j.err
	}
	return nil
}

// real translates an address of memberlist's; j is set for one to join.
func (t *transport) real(addr string) (host string, j *join, err error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return "", nil, err
	}
	b := ap.Addr().As16()
	prefix, n := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	t.mu.Lock()
	defer t.mu.Unlock()
	switch prefix {
	case nodePrefix:
		host = t.nodes[eggs.NodeID(n)]
	case joinPrefix:
		if j = t.joins[n]; j != nil {
			host = j.addr
		}
	}
	if host == "" {
		return "", nil, fmt.Errorf("no address is known for %s", addr)
	}
	return host, j, nil
}

// FinalAdvertiseAddr is what memberlist takes for this node's address.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return fakeIP(nodePrefix, uint64(t.self)), fakePort, nil
}

// WriteTo sends a packet.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress sends a packet.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	host, _, err := t.real(a.Addr)
	if err != nil {
		return time.Time{}, err
	}
	to, err := t.resolve(host)
	if err != nil {
		return time.Time{}, err
	}
	_, err = t.udp.WriteTo(b, to)
	return time.Now(), err
}

// resolve finds where packets for HOST:PORT go, asking DNS now and then.
func (t *transport) resolve(addr string) (net.Addr, error) {
	t.mu.Lock()
	r := t.names[addr]
	t.mu.Unlock()
	if r != nil && (r.at.IsZero() || time.Since(r.at) < resolveEvery) {
		return r.addr, nil
	}
	next := &resolved{}
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		next.addr = net.UDPAddrFromAddrPort(ap)
	} else {
		found, err := lookup(addr)
		switch {
		case err == nil:
			next.addr = found
		case r != nil:
			next.addr = r.addr
		default:
			return nil, err
		}
		next.at = time.Now()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.names[addr] = next
	return next.addr, nil
}

func lookup(addr string) (net.Addr, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTime)
	defer cancel()
	p, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(ips[0].Unmap(), uint16(p))), nil
}

// DialTimeout opens a stream.
func (t *transport) DialTimeout(addr string, d time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, d)
}

// DialAddressTimeout opens a stream.
func (t *transport) DialAddressTimeout(a memberlist.Address, d time.Duration) (net.Conn, error) {
	host, j, err := t.real(a.Addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	conn, err := t.dial(ctx, host)
	if j != nil {
		t.mu.Lock()
		j.err = err
		t.mu.Unlock()
	}
	return conn, err
}

// PacketCh gives memberlist the packets that come.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh gives memberlist the streams that come.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// serve hands a stream to memberlist.
func (t *transport) serve(conn net.Conn) {
	late := time.NewTimer(streamWait)
	defer late.Stop()
	select {
	case t.streams <- conn:
		return
	case <-t.closed:
	case <-late.C:
	}
	conn.Close()
}

// Shutdown ends both ways in.
func (t *transport) Shutdown() error {
	var err error
	t.once.Do(func() {
		close(t.closed)
		err = t.udp.Close()
	})
	t.reading.Wait()
	return err
}

// labelByte is what memberlist puts in front of a label.
const labelByte = 244

// ours reports whether a packet is labelled with our cluster's id. Anything else
// ends here, without a line in the log, since anyone can send a packet.
func (t *transport) ours(b []byte) bool {
	n := len(t.label)
	return len(b) > 2+n && b[0] == labelByte && int(b[1]) == n && string(b[2:2+n]) == t.label
}

// readLoop takes packets from the socket.
func (t *transport) readLoop() {
	defer t.reading.Done()
	buf := make([]byte, maxPacket)
	for {
		n, from, err := t.udp.ReadFrom(buf)
		at := time.Now()
		if err != nil {
			select {
			case <-t.closed:
				return
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // such as a refusal by ICMP: not the socket's end
			continue
		}
		if !t.ours(buf[:n]) {
			continue
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: at}
		select {
		case t.packets <- p:
		default: // memberlist is behind; packets may be lost
		}
	}
}
