package raftgroup

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// session is a connection that a peer dialled: its requests come in, our
// answers go out. Its goroutine reads and hands out, and never waits: not for
// a disk, not for a group, not for room to answer.
type session struct {
	host  *Host
	peer  *peer
	out   *outbox
	boxes [eggs.Groups]*inbox // by group, made when first needed
	bytes atomic.Int64        // of requests not yet answered
}

// Serve answers a peer until the connection ends. peer is who TLS says it is,
// 0 if nobody says. It closes conn.
func (h *Host) Serve(conn net.Conn, peer eggs.NodeID) {
	defer func() { _ = conn.Close() }()
	if !h.enter() {
		return
	}
	defer h.wg.Done()
	stop := context.AfterFunc(h.ctx, func() { _ = conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(dialTime))
	r := bufio.NewReaderSize(conn, 64<<10)
	hello, err := h.readGreeting(r, frameHello)
	if err == nil && peer != 0 && hello.from != peer {
		err = &eggs.Error{
			Kind: eggs.WrongCluster,
			Err:  fmt.Errorf("node %s says that it is %s", peer, hello.from),
		}
	}
	welcome := greeting{
		version: greetingVersion, cluster: h.cfg.Cluster,
		from: h.cfg.Node, to: hello.from, incarnation: h.incarnation,
	}
	if err != nil {
		h.counters.refused.Add(1)
		h.log.Warn("refusing a raft connection", "node", peer, "err", err)
		if eggs.KindOf(err) == eggs.Other { // not even a greeting: nothing to answer
			return
		}
		welcome.refusal = err.Error()
	}
	if _, werr := conn.Write(appendFrame(nil, frameWelcome, 0, 0, welcome.append)); werr != nil ||
		err != nil {
		return
	}
	_ = conn.SetDeadline(time.Time{})
	p := h.peer(hello.from)
	if p == nil {
		return
	}
	if hello.snapshot {
		h.receiveSnapshot(conn, r, p)
		return
	}
	h.serveMux(conn, r, p)
}

func (h *Host) serveMux(conn net.Conn, r *bufio.Reader, p *peer) {
	s := &session{host: h, peer: p, out: newOutbox(conn, &h.counters)}
	p.mu.Lock()
	old := p.session
	p.session = s
	p.mu.Unlock()
	if old != nil { // its dialler has given that one up
		old.out.close()
	}
	h.wg.Add(1)
	go func() {
		defer h.wg.Done()
		s.out.run()
	}()
	h.sendTable(s.out)
	p.knock()
	err := s.read(r)
	s.out.close()
	p.mu.Lock()
	if p.session == s {
		p.session = nil
	}
	p.mu.Unlock()
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		h.log.Warn("closing a raft connection", "node", p.id, "err", err)
	}
}

func (s *session) read(r *bufio.Reader) error {
	for {
		f, err := readFrame(r, maxFrame)
		if err != nil {
			return err
		}
		s.peer.touch(false)
		if err := s.take(&f); err != nil {
			return err
		}
	}
}

// take handles one frame.
func (s *session) take(f *frame) error {
	switch f.kind {
	case framePing:
		want, err := s.host.takeNews(s.peer, f.body)
		if err != nil {
			return err
		}
		if want {
			s.host.sendTable(s.out)
		}
		return s.answer(f, frameDone, func(b []byte) []byte { return s.host.appendNews(b, false) })
	case frameTable:
		return s.host.takeTable(s.peer, f.body)
	case frameAsk:
		return s.ask(f)
	case frameBeats:
		return s.beats(f.body)
	case frameAppend, frameVote, framePreVote, frameTimeoutNow:
		cmd, err := parseCommand(f, &s.peer.speaker)
		if err != nil {
			return err
		}
		return s.deliver(f.group, request{f.id, cmd, len(f.body)})
	}
	return fmt.Errorf("%w: kind %d as a request", errMalformed, f.kind)
}

// answer never waits; a peer that asks and does not read is cut off.
func (s *session) answer(f *frame, kind byte, fill func([]byte) []byte) error {
	return s.out.put(kind, f.group, f.id, false, fill)
}

// beats takes heartbeats apart. Each goes through its group's own queue, in
// order with everything else: a heartbeat with a new term makes raft write
// that term to the disk, and must do so on raft's own goroutine.
func (s *session) beats(body []byte) error {
	r := cursor{b: body}
	for n := int(r.u16()); n > 0 && !r.bad; n-- {
		group, id, term := eggs.GroupID(r.u16()), r.u64(), r.u64()
		if r.bad || group >= eggs.Groups {
			return fmt.Errorf("%w: heartbeat of group %d", errMalformed, group)
		}
		h := &s.peer.speaker.header
		//lint:ignore SA1019 hashicorp/raft itself still reads the field for older peers
		cmd := &raft.AppendEntriesRequest{RPCHeader: *h, Leader: h.Addr, Term: term}
		if err := s.deliver(group, request{id: id, cmd: cmd}); err != nil {
			return err
		}
	}
	return r.err("heartbeats")
}

// ask answers which groups are still in the term that the peer names.
func (s *session) ask(f *frame) error {
	r := cursor{b: f.body}
	n := int(r.u16())
	if n > eggs.Groups {
		return fmt.Errorf("%w: %d groups asked for", errMalformed, n)
	}
	same := make([]byte, n)
	for i := range same {
		group, term := eggs.GroupID(r.u16()), r.u64()
		if g := s.host.Group(group); g != nil && g.raft.CurrentTerm() == term {
			same[i] = 1
		}
	}
	if err := r.err("read round"); err != nil {
		return err
	}
	return s.answer(f, frameDone, func(b []byte) []byte { return append(b, same...) })
}

// inbox keeps the requests of one peer for one group in order. Raft answers in
// the order of requests, so answers need no names.
type inbox struct {
	s *session
	g *Group

	answers chan raft.RPCResponse // room for all that raft holds: it never waits here

	mu      sync.Mutex
	held    []request // with raft, oldest first; at most maxConsumer
	waiting []request // not yet with raft; at most maxInbox
	running bool      // collect runs
}

type request struct {
	id   uint64
	cmd  any
	size int // bytes
}

var (
	errNotHere   = errors.New("this node holds no replica of the group")
	errNoVoter   = errors.New("not between two voters of the group")
	errInboxFull = errors.New("too many requests wait for the group")
)

// deliver hands a request to its group, or answers why not.
func (s *session) deliver(group eggs.GroupID, q request) error {
	g := s.host.Group(group)
	if g == nil {
		return s.refuse(group, q.id, errNotHere)
	}
	if _, ok := q.cmd.(*raft.TimeoutNowRequest); ok {
		m := g.members() // raft would stand, whoever we are and whoever says so
		if !m.votes || !slices.Contains(m.voters, s.peer.id) {
			return s.refuse(group, q.id, errNoVoter)
		}
	}
	box := s.boxes[group]
	if box == nil || box.g != g {
		box = &inbox{s: s, g: g, answers: make(chan raft.RPCResponse, maxConsumer)}
		s.boxes[group] = box
	}
	if s.bytes.Add(int64(q.size)) > maxSession {
		s.bytes.Add(-int64(q.size))
		return s.refuse(group, q.id, errInboxFull)
	}
	return box.add(q)
}

func (s *session) refuse(group eggs.GroupID, id uint64, err error) error {
	return s.out.put(frameFailed, group, id, false, func(b []byte) []byte {
		return append(b, err.Error()...)
	})
}

func (x *inbox) add(q request) error {
	x.mu.Lock()
	if len(x.waiting) >= maxInbox {
		x.mu.Unlock()
		x.s.bytes.Add(-int64(q.size))
		return x.s.refuse(x.g.id, q.id, errInboxFull)
	}
	if len(x.waiting) > 0 || len(x.held) >= maxConsumer || !x.push(q) {
		x.waiting = append(x.waiting, q)
	}
	start := !x.running
	x.running = true
	x.mu.Unlock()
	if start {
		go x.collect()
	}
	return nil
}

// push gives q to raft if it has room. mu is held.
func (x *inbox) push(q request) bool {
	select {
	case x.g.trans.consumer <- raft.RPC{Command: q.cmd, RespChan: x.answers}:
		x.held = append(x.held, q)
		return true
	default:
		return false
	}
}

// collect sends raft's answers back and feeds it what waits, until there is
// nothing left of either.
func (x *inbox) collect() {
	for {
		x.mu.Lock()
		if len(x.held) == 0 && len(x.waiting) == 0 {
			x.running = false
			x.mu.Unlock()
			return
		}
		var consumer chan<- raft.RPC
		var rpc raft.RPC
		if len(x.waiting) > 0 && len(x.held) < maxConsumer {
			consumer = x.g.trans.consumer
			rpc = raft.RPC{Command: x.waiting[0].cmd, RespChan: x.answers}
		}
		x.mu.Unlock()
		select {
		case consumer <- rpc:
			x.mu.Lock()
			x.held = append(x.held, x.waiting[0])
			x.waiting = x.waiting[1:]
			x.mu.Unlock()
		case a := <-x.answers:
			x.mu.Lock()
			q := x.held[0]
			x.held = x.held[1:]
			x.mu.Unlock()
			x.send(q, a)
		case <-x.g.done:
			x.abandon()
			return
		}
	}
}

// abandon answers everything when the group has left this node.
func (x *inbox) abandon() {
	x.mu.Lock()
	left := append(x.held, x.waiting...)
	x.held, x.waiting, x.running = nil, nil, false
	x.mu.Unlock()
	for _, q := range left {
		x.s.bytes.Add(-int64(q.size))
		_ = x.s.out.put(frameFailed, x.g.id, q.id, true, func(b []byte) []byte {
			return append(b, errNotHere.Error()...)
		})
	}
}

// send answers one request; it may wait for room, not being the reader.
func (x *inbox) send(q request, a raft.RPCResponse) {
	x.s.bytes.Add(-int64(q.size))
	if a.Error != nil || a.Response == nil {
		text := "no answer"
		if a.Error != nil {
			text = a.Error.Error()
		}
		_ = x.s.out.put(frameFailed, x.g.id, q.id, true, func(b []byte) []byte {
			return append(b, text...)
		})
		return
	}
	_ = x.s.out.put(frameDone, x.g.id, q.id, true, func(b []byte) []byte {
		return appendAnswer(b, a.Response)
	})
	x.g.answered(q.cmd, a.Response)
}

// Bits of the first byte of a ping and its answer.
const (
	pingDraining  = 1 // give me no more leaderships
	pingWantTable = 2 // answer with your whole table first
)

// appendNews writes what a ping and its answer tell: u8 bits, u16 count, and the
// nodes that we report down.
func (h *Host) appendNews(b []byte, want bool) []byte {
	downs := h.watch.reports()
	bits := byte(0)
	if h.draining.Load() {
		bits |= pingDraining
	}
	if want {
		bits |= pingWantTable
	}
	b = binary.LittleEndian.AppendUint16(append(b, bits), uint16(len(downs)))
	for _, n := range downs {
		b = appendU64(b, uint64(n))
	}
	return b
}

// takeNews reads the same and returns whether our table is wanted.
func (h *Host) takeNews(p *peer, body []byte) (bool, error) {
	r := cursor{b: body}
	bits, n := r.u8(), int(r.u16())
	if n > maxPeers {
		return false, fmt.Errorf("%w: %d nodes reported down", errMalformed, n)
	}
	downs := make([]eggs.NodeID, 0, n)
	for range n {
		downs = append(downs, eggs.NodeID(r.u64()))
	}
	if err := r.err("ping"); err != nil {
		return false, err
	}
	draining := bits&pingDraining != 0
	p.mu.Lock()
	news := !slices.Equal(downs, p.downs) || draining != p.draining
	p.downs, p.downsAt, p.draining = downs, h.now(), draining
	p.mu.Unlock()
	if news {
		h.watch.nudge()
	}
	return bits&pingWantTable != 0, nil
}
