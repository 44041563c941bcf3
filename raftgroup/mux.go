package raftgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"eggsfs/eggs"
)

// peer is another node: our one connection to it, which carries what we ask
// for all groups, and what is known of its health. What it asks comes on a
// connection that it dials itself; see session.
type peer struct {
	host    *Host
	id      eggs.NodeID
	speaker speaker

	heard atomic.Int64 // Host.now of the last frame on either connection
	acked atomic.Int64 // and of the last one on ours: it hears us, and we it

	toldAt atomic.Int64 // and of the last ping that brought its table

	redial chan struct{} // holds one: dial now
	gone   chan struct{} // closed when this peer is forgotten

	mu           sync.Mutex
	link         *link         // nil while there is none
	up           chan struct{} // closed while there is one
	met          bool          // its table came on this link
	since        int64         // Host.now when it was met
	incarnation  uint64        // of the process we last met
	refused      bool          // the last dial said that no process listens
	draining     bool          // it asked for no more leaderships
	downs        []eggs.NodeID // whom it reports down
	downsAt      int64         // when it said so
	want         bool          // the next ping asks for its table
	askedAt      int64         // when one last did
	beats        []beat        // heartbeats for the next ping
	stale        bool          // a part of our table was lost on the way; send it whole
	session      *session      // its connection to us
	tableOf      uint64        // incarnation that sent the last table
	tableVersion uint64        // the newest of that
	hinted       bool          // gossip takes it for dead
	reported     bool          // we report it down
	actAfter     int64         // from when on its groups may be taken over
	taken        bool          // since then we began to take its groups over
	takenAt      int64         // when we last did so without being sure
	holdOff      time.Duration // how long to wait with that the next time
}

// beat is one heartbeat on its way into a frame.
type beat struct {
	group eggs.GroupID
	id    uint64
	term  uint64
}

// link is one connection that we dialled.
type link struct {
	peer *peer
	out  *outbox

	mu    sync.Mutex
	calls map[uint64]*call
	next  uint64
	lost  bool
}

// call is a request that waits for its answer. done runs once, on a goroutine
// that must not block.
type call struct {
	deadline int64
	done     func(body []byte, err error)
}

func newPeer(h *Host, id eggs.NodeID) *peer {
	p := &peer{
		host: h, id: id, speaker: newSpeaker(id), up: make(chan struct{}),
		redial: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	p.heard.Store(h.now()) // it has as long to be heard as everybody
	return p
}

// keep dials for as long as the peer and the host exist.
func (p *peer) keep() {
	defer p.host.wg.Done()
	wait := time.Duration(0)
	for {
		if wait > 0 {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-p.redial:
			case <-p.gone:
			case <-p.host.ctx.Done():
			}
			t.Stop()
		}
		select {
		case <-p.gone:
			return
		case <-p.host.ctx.Done():
			return
		default:
		}
		worked, err := p.connect()
		if worked {
			wait = 0
			continue
		}
		wait = min(max(2*wait, redialMin), redialMax)
		if errors.Is(err, eggs.WrongCluster) || errors.Is(err, eggs.Version) {
			p.host.log.Warn("a node does not accept us", "node", p.id, "err", err)
			wait = redialMax
		}
	}
}

// connect dials once and, if that works, serves the connection to its end.
func (p *peer) connect() (worked bool, err error) {
	conn, r, welcome, err := p.host.dial(p.id, false)
	if err != nil {
		refused := errors.Is(err, syscall.ECONNREFUSED)
		p.mu.Lock()
		news := refused && !p.refused
		p.refused = refused
		p.mu.Unlock()
		if news {
			p.host.watch.nudge()
		}
		return false, err
	}
	l := &link{peer: p, out: newOutbox(conn, &p.host.counters), calls: map[uint64]*call{}}
	p.host.wg.Add(1)
	go func() {
		defer p.host.wg.Done()
		l.out.run()
	}()
	stop := context.AfterFunc(p.host.ctx, l.out.close)
	defer stop()
	p.attach(l, welcome.incarnation)
	err = l.read(r)
	p.detach(l)
	if errors.Is(err, errMalformed) {
		p.host.log.Warn("closing a raft connection", "node", p.id, "err", err)
	}
	return true, err
}

// dial connects to a node and exchanges greetings.
func (h *Host) dial(
	node eggs.NodeID, snapshot bool,
) (net.Conn, *bufio.Reader, greeting, error) {
	const op = "raftgroup.dial"
	fail := func(err error) (net.Conn, *bufio.Reader, greeting, error) {
		return nil, nil, greeting{}, &eggs.Error{Op: op, Name: node.String(), Err: err}
	}
	ctx, cancel := context.WithTimeout(h.ctx, dialTime)
	defer cancel()
	conn, err := h.cfg.Dial(ctx, node)
	if err != nil {
		return fail(err)
	}
	_ = conn.SetDeadline(time.Now().Add(dialTime))
	stop := context.AfterFunc(h.ctx, func() { _ = conn.Close() })
	defer stop()
	hello := greeting{
		version: greetingVersion, snapshot: snapshot, cluster: h.cfg.Cluster,
		from: h.cfg.Node, to: node, incarnation: h.incarnation,
	}
	if _, err := conn.Write(appendFrame(nil, frameHello, 0, 0, hello.append)); err != nil {
		_ = conn.Close()
		return fail(err)
	}
	r := bufio.NewReaderSize(conn, 64<<10)
	welcome, err := h.readGreeting(r, frameWelcome)
	if err == nil && welcome.from != node {
		err = &eggs.Error{
			Kind: eggs.WrongCluster,
			Err:  fmt.Errorf("node %s answers there", welcome.from),
		}
	}
	if err != nil {
		_ = conn.Close()
		return fail(err)
	}
	_ = conn.SetDeadline(time.Time{})
	return conn, r, welcome, nil
}

// readGreeting reads the first frame and refuses what was not meant for us.
func (h *Host) readGreeting(r *bufio.Reader, kind byte) (greeting, error) {
	f, err := readFrame(r, maxHello)
	if err != nil {
		return greeting{}, err
	}
	if f.kind != kind {
		return greeting{}, fmt.Errorf("%w: kind %d comes first", errMalformed, f.kind)
	}
	g, err := parseGreeting(f.body)
	if err != nil {
		return g, err
	}
	refuse := func(k eggs.Kind, format string, args ...any) (greeting, error) {
		return g, &eggs.Error{Kind: k, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case g.refusal != "":
		return refuse(eggs.WrongCluster, "refused: %s", g.refusal)
	case g.version != greetingVersion:
		return refuse(eggs.Version, "it speaks version %d of this protocol, we %d",
			g.version, greetingVersion)
	case g.cluster != h.cfg.Cluster:
		return refuse(eggs.WrongCluster, "it is of cluster %s, we of %s", g.cluster, h.cfg.Cluster)
	case g.to != h.cfg.Node:
		return refuse(eggs.WrongCluster, "meant for node %s, we are %s", g.to, h.cfg.Node)
	case g.from == h.cfg.Node || g.from == 0:
		return refuse(eggs.WrongCluster, "node %s dials node %s", g.from, g.to)
	}
	return g, nil
}

// attach makes l the connection to the peer and sends our table over it.
func (p *peer) attach(l *link, incarnation uint64) {
	p.touch(true)
	p.mu.Lock()
	p.link, p.refused, p.met = l, false, false
	reborn := p.incarnation != incarnation
	p.incarnation = incarnation
	if reborn {
		p.downs = nil
	}
	p.mu.Unlock()
	if reborn {
		p.host.leaders.reborn(p.id)
	}
	p.host.sendTable(l.out)
}

// meet is called when the peer's table came: from now on it is in contact.
func (p *peer) meet(l *link) {
	p.mu.Lock()
	fresh := p.link == l && !p.met
	if fresh {
		p.met, p.since = true, p.host.now()
		close(p.up)
	}
	p.mu.Unlock()
	if fresh {
		p.host.log.Debug("met", "node", p.id)
		p.host.watch.nudge()
	}
}

// detach fails every call on l.
func (p *peer) detach(l *link) {
	l.out.close()
	p.mu.Lock()
	p.link = nil
	if p.met {
		p.met = false
		p.up = make(chan struct{})
	}
	p.beats = nil
	p.mu.Unlock()
	l.mu.Lock()
	l.lost = true
	calls := l.calls
	l.calls = nil
	l.mu.Unlock()
	for _, c := range calls {
		c.done(nil, errLinkLost)
	}
	p.host.watch.nudge()
}

// touch notes a sign of life.
func (p *peer) touch(ours bool) {
	now := p.host.now()
	p.heard.Store(now)
	if ours {
		p.acked.Store(now)
	}
}

// contact reports whether p is connected, and hears us.
func (p *peer) contact() bool {
	p.mu.Lock()
	met := p.met
	p.mu.Unlock()
	return met && p.host.now()-p.acked.Load() < int64(p.host.cfg.Timers.Silent)
}

// current returns the connection, or nil.
func (p *peer) current() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link
}

// read takes answers until the connection ends.
func (l *link) read(r *bufio.Reader) error {
	p := l.peer
	for {
		f, err := readFrame(r, maxFrame)
		if err != nil {
			return err
		}
		p.touch(true)
		switch f.kind {
		case frameDone:
			l.finish(f.id, f.body, nil)
		case frameFailed:
			l.finish(f.id, nil, errors.New(string(f.body[:min(len(f.body), maxHello)])))
		case frameTable:
			if err := p.host.takeTable(p, f.body); err != nil {
				return err
			}
			p.meet(l)
		default:
			return fmt.Errorf("%w: kind %d as an answer", errMalformed, f.kind)
		}
	}
}

// take removes a call, so that exactly one ends it.
func (l *link) take(id uint64) *call {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[id]
	delete(l.calls, id)
	return c
}

func (l *link) finish(id uint64, body []byte, err error) {
	if c := l.take(id); c != nil {
		c.done(body, err)
	}
}

// register notes a call that is about to be sent.
func (l *link) register(ttl time.Duration, done func([]byte, error)) (uint64, error) {
	c := &call{deadline: l.peer.host.now() + int64(ttl), done: done}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return 0, errLinkLost
	}
	l.next++
	l.calls[l.next] = c
	return l.next, nil
}

// call sends a request. done is called if and only if the error is nil. wait
// says whether to wait for room in the queue.
func (l *link) call(
	kind byte, group eggs.GroupID, ttl time.Duration, wait bool,
	fill func([]byte) []byte, done func([]byte, error),
) error {
	id, err := l.register(ttl, done)
	if err != nil {
		return err
	}
	if err := l.out.put(kind, group, id, wait, fill); err != nil {
		if l.take(id) != nil {
			return err
		}
	}
	return nil
}

// expire fails the calls that are past their deadline.
func (l *link) expire(now int64) {
	var late []*call
	l.mu.Lock()
	for id, c := range l.calls {
		if c.deadline < now {
			late = append(late, c)
			delete(l.calls, id)
		}
	}
	l.mu.Unlock()
	for _, c := range late {
		c.done(nil, errNoAnswer)
	}
}

var (
	errNoAnswer = errors.New("no answer in time")
	errAway     = errors.New("not connected")
)

// reply is the end of a call that a goroutine waits for.
type reply struct {
	body []byte
	err  error
}

// ask sends a request and waits for the answer. It ends at the latest when the
// connection does or ttl is over.
func (p *peer) ask(
	kind byte, group eggs.GroupID, ttl time.Duration, fill func([]byte) []byte,
) ([]byte, error) {
	l := p.current()
	if l == nil {
		return nil, errAway
	}
	ch := make(chan reply, 1)
	err := l.call(kind, group, ttl, true, fill, func(b []byte, err error) { ch <- reply{b, err} })
	if err != nil {
		return nil, err
	}
	r := <-ch
	return r.body, r.err
}

// knock makes the peer be dialled now, whatever the back-off.
func (p *peer) knock() {
	select {
	case p.redial <- struct{}{}:
	default:
	}
}
