package raftgroup

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"eggsfs/eggs"
)

// The kinds of frame. doc.go has their bodies.
const (
	frameHello      byte = 1 // first from who dialled
	frameWelcome    byte = 2 // first from who accepted
	frameTable      byte = 3 // who leads what; no answer
	framePing       byte = 4
	frameBeats      byte = 5 // heartbeats of many groups; each is answered by its own id
	frameAppend     byte = 6
	frameVote       byte = 7
	framePreVote    byte = 8
	frameTimeoutNow byte = 9
	frameAsk        byte = 10 // are your terms of these groups still these?
	frameSnapshot   byte = 11 // on a connection of its own; the snapshot's bytes follow
	frameDone       byte = 12 // the answer to the request with this id
	frameFailed     byte = 13 // its failure, in words
)

// frameHeader is what precedes the body of every frame:
//
//	u32 length of all that follows   u32 CRC32C of all that follows the CRC
//	u8 kind   u8 zero   u16 group   u64 id
//
// all little end first.
const (
	frameHeader = 20
	frameFixed  = 16 // of it, counted by the length
)

type frame struct {
	kind  byte
	group eggs.GroupID
	id    uint64
	body  []byte
}

var errMalformed = errors.New("malformed frame")

// appendFrame appends a whole frame to b; fill appends the body and may be nil.
func appendFrame(
	b []byte, kind byte, group eggs.GroupID, id uint64, fill func([]byte) []byte,
) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, kind, 0, byte(group), byte(group>>8))
	b = binary.LittleEndian.AppendUint64(b, id)
	if fill != nil {
		b = fill(b)
	}
	rest := b[at+8:]
	binary.LittleEndian.PutUint32(b[at:], uint32(len(rest)+4))
	binary.LittleEndian.PutUint32(b[at+4:], crc32.Checksum(rest, castagnoli))
	return b
}

// readFrame reads one frame of at most limit bytes of body. The body is the
// frame's own. An error that is errMalformed says what is wrong with it.
func readFrame(r *bufio.Reader, limit int) (frame, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return frame{}, err
	}
	n := binary.LittleEndian.Uint32(h[:])
	if n < frameFixed || n > uint32(limit+frameFixed) {
		return frame{}, fmt.Errorf("%w: length %d", errMalformed, n)
	}
	f := frame{
		kind:  h[8],
		group: eggs.GroupID(binary.LittleEndian.Uint16(h[10:])),
		id:    binary.LittleEndian.Uint64(h[12:]),
	}
	f.body = make([]byte, n-frameFixed)
	if _, err := io.ReadFull(r, f.body); err != nil {
		return frame{}, err
	}
	sum := crc32.Update(crc32.Checksum(h[8:], castagnoli), castagnoli, f.body)
	if want := binary.LittleEndian.Uint32(h[4:]); sum != want {
		return frame{}, fmt.Errorf("%w: checksum %08x, wanted %08x", errMalformed, sum, want)
	}
	if h[9] != 0 || f.group >= eggs.Groups {
		return frame{}, fmt.Errorf("%w: group %d", errMalformed, f.group)
	}
	return f, nil
}

// cursor takes a body apart. The first read past the end makes bad stick, and
// everything read after it zero.
type cursor struct {
	b   []byte
	bad bool
}

func (r *cursor) bytes(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *cursor) u8() byte {
	if v := r.bytes(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *cursor) u16() uint16 {
	if v := r.bytes(2); v != nil {
		return binary.LittleEndian.Uint16(v)
	}
	return 0
}

func (r *cursor) u32() uint32 {
	if v := r.bytes(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

func (r *cursor) u64() uint64 {
	if v := r.bytes(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

// sized reads a u32 and that many bytes; nil when there are none.
func (r *cursor) sized() []byte {
	n := r.u32()
	if n == 0 || r.bad {
		return nil
	}
	if uint64(n) > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	return r.bytes(int(n))
}

// err reports a body that was too short, or longer than what was read of it.
func (r *cursor) err(what string) error {
	if r.bad {
		return fmt.Errorf("%w: %s is cut short", errMalformed, what)
	}
	if len(r.b) != 0 {
		return fmt.Errorf("%w: %s has %d bytes too many", errMalformed, what, len(r.b))
	}
	return nil
}

func appendU64(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func appendSized(b, v []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(v)))
	return append(b, v...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// greeting is the body of hello and welcome.
type greeting struct {
	version     uint16
	snapshot    bool // this connection carries one snapshot
	cluster     eggs.ClusterID
	from, to    eggs.NodeID
	incarnation uint64 // random, new with each start of a process
	refusal     string // of a welcome: why not
}

const greetingVersion = 1

func (g *greeting) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, g.version)
	b = appendBool(b, g.snapshot)
	b = appendU64(b, uint64(g.cluster), uint64(g.from), uint64(g.to), g.incarnation)
	return appendSized(b, []byte(g.refusal))
}

func parseGreeting(b []byte) (greeting, error) {
	r := cursor{b: b}
	var g greeting
	g.version = r.u16()
	g.snapshot = r.u8() == 1
	g.cluster = eggs.ClusterID(r.u64())
	g.from = eggs.NodeID(r.u64())
	g.to = eggs.NodeID(r.u64())
	g.incarnation = r.u64()
	g.refusal = string(r.sized())
	return g, r.err("greeting")
}
