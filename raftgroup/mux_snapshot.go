package raftgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// A snapshot travels on a connection of its own, so that it delays nothing:
// greetings, one frame that describes it, exactly so many bytes, one answer.

const snapshotBuffer = 256 << 10 // bytes moved before the stall clock starts again

// sendSnapshot streams data, which must give exactly a.Size bytes.
func (h *Host) sendSnapshot(
	g *Group, p *peer,
	a *raft.InstallSnapshotRequest, x *raft.InstallSnapshotResponse, data io.Reader,
) error {
	select {
	case h.sending <- struct{}{}:
		defer func() { <-h.sending }()
	case <-g.done:
		return errNotHere
	}
	conn, r, _, err := h.dial(p.id, true)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stopHost := context.AfterFunc(h.ctx, func() { _ = conn.Close() })
	defer stopHost()
	stopGroup := context.AfterFunc(g.ctx, func() { _ = conn.Close() })
	defer stopGroup()

	_ = conn.SetDeadline(time.Now().Add(stallTime))
	head := appendFrame(nil, frameSnapshot, g.id, 0, func(b []byte) []byte {
		return appendInstall(b, a)
	})
	if _, err := conn.Write(head); err != nil {
		return err
	}
	n, err := io.CopyBuffer(&steadyWriter{conn}, // neither end has a short cut of its own
		struct{ io.Reader }{io.LimitReader(data, a.Size)}, make([]byte, snapshotBuffer))
	if err != nil {
		return err
	}
	if n != a.Size {
		return fmt.Errorf("snapshot of group %s ends after %d of %d bytes", g.id, n, a.Size)
	}
	h.counters.snapshotsOut.Add(1)
	_ = conn.SetDeadline(time.Now().Add(installTime))
	f, err := readFrame(r, maxHello)
	if err != nil {
		return err
	}
	if f.kind != frameDone {
		return errors.New(string(f.body))
	}
	x.RPCHeader = p.speaker.header
	x.Term, x.Success, err = parseGranted(f.body, "answer to a snapshot")
	return err
}

// steadyWriter gives every write stallTime of its own.
type steadyWriter struct{ conn net.Conn }

func (s *steadyWriter) Write(b []byte) (int, error) {
	_ = s.conn.SetDeadline(time.Now().Add(stallTime))
	return s.conn.Write(b)
}

// steadyReader is the receiving end: what bufio holds first, then the
// connection.
type steadyReader struct {
	conn net.Conn
	r    io.Reader
}

func (s *steadyReader) Read(b []byte) (int, error) {
	_ = s.conn.SetDeadline(time.Now().Add(stallTime))
	return s.r.Read(b)
}

// receiveSnapshot serves a connection whose greeting announced a snapshot.
func (h *Host) receiveSnapshot(conn net.Conn, r *bufio.Reader, p *peer) {
	answer := func(kind byte, fill func([]byte) []byte) {
		_ = conn.SetDeadline(time.Now().Add(stallTime))
		_, _ = conn.Write(appendFrame(nil, kind, 0, 0, fill))
	}
	got, err := h.installSnapshot(conn, r, p)
	if err != nil {
		h.log.Warn("a snapshot was not installed", "node", p.id, "err", err)
		answer(frameFailed, func(b []byte) []byte { return append(b, err.Error()...) })
		return
	}
	answer(frameDone, func(b []byte) []byte { return appendAnswer(b, got) })
}

func (h *Host) installSnapshot(
	conn net.Conn, r *bufio.Reader, p *peer,
) (*raft.InstallSnapshotResponse, error) {
	_ = conn.SetDeadline(time.Now().Add(stallTime))
	f, err := readFrame(r, maxFrame)
	if err != nil {
		return nil, err
	}
	if f.kind != frameSnapshot {
		return nil, fmt.Errorf("%w: kind %d on a snapshot's connection", errMalformed, f.kind)
	}
	a, err := parseInstall(f.body, &p.speaker)
	if err != nil {
		return nil, err
	}
	g := h.Group(f.group)
	if g == nil {
		return nil, errNotHere
	}
	select {
	case h.receiving <- struct{}{}:
		defer func() { <-h.receiving }()
	case <-time.After(stallTime / 2): // the sender's clock is running
		return nil, errors.New("too many snapshots arrive")
	}
	stop := context.AfterFunc(g.ctx, func() { _ = conn.Close() })
	defer stop()
	ch := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{
		Command: a, RespChan: ch,
		Reader: &steadyReader{conn, io.LimitReader(r, a.Size)},
	}
	timer := time.NewTimer(stallTime)
	defer timer.Stop()
	select {
	case g.trans.consumer <- rpc:
	case <-g.done:
		return nil, errNotHere
	case <-timer.C:
		return nil, errInboxFull
	}
	h.counters.snapshotsIn.Add(1)
	select {
	case got := <-ch:
		if got.Error != nil {
			return nil, got.Error
		}
		x, ok := got.Response.(*raft.InstallSnapshotResponse)
		if !ok {
			return nil, errNoAnswer
		}
		return x, nil
	case <-g.done:
		return nil, errNotHere
	}
}
