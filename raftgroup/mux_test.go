package raftgroup

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// What comes from the network is never believed: whatever bytes arrive, on a
// fresh connection or after a proper greeting, cost a connection and no more.
func TestGarbageClosesTheConnectionAndNothingElse(t *testing.T) {
	c := newTestCluster(t, 3, 3, nil)
	c.startAll()
	c.begin()
	c.writable(30 * time.Second)
	target := c.nodes[0]
	good := greeting{version: greetingVersion, cluster: testClusterID, from: 77, to: target.id}
	hello := func(change func(*greeting)) []byte {
		g := good
		change(&g)
		return appendFrame(nil, frameHello, 0, 0, g.append)
	}
	greeted := hello(func(*greeting) {})
	frameOf := func(kind byte, group eggs.GroupID, body []byte) []byte {
		return append(bytes.Clone(greeted), appendFrame(nil, kind, group, 1,
			func(b []byte) []byte { return append(b, body...) })...)
	}
	huge := binary.LittleEndian.AppendUint32(bytes.Clone(greeted), 1<<31)
	badEntry := appendAppend(nil, &raft.AppendEntriesRequest{Term: 9, Entries: []*raft.Log{
		{Index: 1, Term: 9, Type: raft.LogConfiguration, Data: []byte("not a configuration")},
	}})
	flipped := frameOf(frameVote, 1, make([]byte, 25))
	flipped[len(flipped)-1] ^= 1
	table := map[string][]byte{
		"nothing":                               nil,
		"an HTTP request":                       []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"zeros":                                 make([]byte, 4096),
		"another cluster":                       hello(func(g *greeting) { g.cluster = 5 }),
		"meant for another node":                hello(func(g *greeting) { g.to = 2 }),
		"another version":                       hello(func(g *greeting) { g.version = 9 }),
		"a node that says it is us":             hello(func(g *greeting) { g.from = target.id }),
		"a body cut short":                      frameOf(frameAppend, 1, []byte{1, 2, 3}),
		"a length beyond all bounds":            huge,
		"a group that does not exist":           frameOf(frameVote, 999, make([]byte, 25)),
		"a kind that does not exist":            frameOf(99, 1, nil),
		"an answer as a request":                frameOf(frameDone, 1, nil),
		"a wrong checksum":                      flipped,
		"a configuration that would panic":      frameOf(frameAppend, 1, badEntry),
		"heartbeats of no group":                frameOf(frameBeats, 0, []byte{1, 0, 255, 255}),
		"a table too long":                      frameOf(frameTable, 0, []byte{1, 255, 255}),
		"a ping that reports the whole world":   frameOf(framePing, 0, []byte{0, 255, 255}),
		"a read round of too many groups":       frameOf(frameAsk, 0, []byte{255, 255}),
		"a snapshot of impossible size":         frameOf(frameSnapshot, 0, bytes.Repeat([]byte{255}, 60)),
		"a command of a type unknown to raft":   frameOf(frameAppend, 1, unknownType()),
		"an entry of a later term than its own": frameOf(frameAppend, 1, laterTerm()),
	}
	for name, bytes := range table {
		conn, err := net.Dial("tcp", target.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(bytes)
		_ = conn.(*net.TCPConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: the connection stays open", name)
		}
		conn.Close()
	}
	for i := range 200 {
		r := rand.New(rand.NewPCG(1, uint64(i)))
		conn, err := net.Dial("tcp", target.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		out := bytes.Clone(greeted)
		for range r.IntN(20) {
			body := make([]byte, r.IntN(200))
			for j := range body {
				body[j] = byte(r.Uint32())
			}
			out = appendFrame(out, byte(r.IntN(16)), eggs.GroupID(r.IntN(4)), uint64(i),
				func(b []byte) []byte { return append(b, body...) })
		}
		_, _ = conn.Write(out)
		conn.Close()
	}
	if took := c.writable(30 * time.Second); took > 3*time.Second {
		t.Errorf("writable only after %v", took)
	}
}

func unknownType() []byte {
	return appendAppend(nil, &raft.AppendEntriesRequest{Term: 9, Entries: []*raft.Log{
		{Index: 1, Term: 9, Type: 42},
	}})
}

func laterTerm() []byte {
	return appendAppend(nil, &raft.AppendEntriesRequest{Term: 9, Entries: []*raft.Log{
		{Index: 1, Term: 10, Type: raft.LogCommand},
	}})
}

// A peer is whom TLS says it is, not whom its greeting says.
func TestGreetingMustAgreeWithTLS(t *testing.T) {
	c := newTestCluster(t, 1, 1, nil)
	c.startAll()
	a, b := net.Pipe()
	go c.nodes[0].host.Serve(b, 5)
	g := greeting{version: greetingVersion, cluster: testClusterID, from: 6, to: 1}
	go func() { _, _ = a.Write(appendFrame(nil, frameHello, 0, 0, g.append)) }()
	_ = a.SetDeadline(time.Now().Add(30 * time.Second))
	f, err := readFrame(bufio.NewReader(a), maxHello)
	if err != nil {
		t.Fatal(err)
	}
	w, err := parseGreeting(f.body)
	if err != nil || !strings.Contains(w.refusal, "says that it is") {
		t.Errorf("welcome %+v, %v", w, err)
	}
}

// An append too large for one frame is sent in several, and only the whole counts.
func TestLargeAppendsTravelInPieces(t *testing.T) {
	c := newTestCluster(t, 3, 1, nil)
	c.startAll()
	c.begin()
	c.writable(30 * time.Second)
	l := c.leader(0).host.Group(0)
	big := bytes.Repeat([]byte("x"), MaxEntry-10)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	errs := make(chan error, 12)
	for i := range 12 {
		go func() {
			_, err := l.Propose(ctx, append([]byte{'a' + byte(i), '='}, big...))
			errs <- err
		}()
	}
	for range 12 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if _, err := l.Propose(ctx, make([]byte, MaxEntry+1)); !errors.Is(err, eggs.TooLarge) {
		t.Errorf("an entry over the limit: %v", err)
	}
	c.sameState()
}

// The bytes of a frame are a contract with nodes of another version.
func TestFrameBytes(t *testing.T) {
	b := appendFrame(nil, frameVote, 256, 0x0102, func(b []byte) []byte {
		return appendVote(b, 7, 8, 6, true)
	})
	want := []byte{
		41, 0, 0, 0, 0, 0, 0, 0, frameVote, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0, 0,
		7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 1,
	}
	binary.LittleEndian.PutUint32(want[4:], crc32.Checksum(want[8:], castagnoli))
	if !bytes.Equal(b, want) {
		t.Errorf("got  %v\nwant %v", b, want)
	}
	f, err := readFrame(bufio.NewReader(bytes.NewReader(b)), maxFrame)
	if err != nil || f.group != 256 || f.id != 0x0102 {
		t.Errorf("%+v, %v", f, err)
	}
}

// No bytes make a parser panic.
func FuzzCommand(f *testing.F) {
	f.Add(frameAppend, unknownType())
	f.Add(frameVote, make([]byte, 25))
	f.Add(frameAppend, appendAppend(nil, &raft.AppendEntriesRequest{
		Term: 3, PrevLogEntry: 4,
		PrevLogTerm: 2, Entries: []*raft.Log{{Term: 3, Type: raft.LogCommand, Data: []byte("x")}},
	}))
	sp := newSpeaker(3)
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		_, _ = parseCommand(&frame{kind: kind, body: body}, &sp)
		_, _ = parseInstall(body, &sp)
		_, _ = parseGreeting(body)
		_ = parseAppended(body, &sp, &raft.AppendEntriesResponse{})
	})
}
