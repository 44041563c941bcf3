package raftgroup

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"eggsfs/eggs"
)

// The parts of a snapshot stream; "Formats" in the package comment shows them.
const (
	streamMagic   = "EGGSSNP1"
	streamHead    = 8 + 2 + 8 + 8 + 8 + 4 // and the configuration
	streamPair    = 4 + 4                 // and key and value
	streamTail    = 4 + 8 + 4
	streamEnd     = 0xFFFFFFFF // in place of a key's length
	streamChunk   = 64 << 10   // bytes made at a time
	streamConf    = 64 << 10   // bytes: a configuration of some hundred members
	streamKey     = 64 << 10   // bytes: machines' keys hold names of 255
	streamValue   = 64 << 20   // bytes: an entry of the log is smaller
	streamReading = 256 << 10  // bytes of read-ahead
)

func streamHeader(id eggs.GroupID, m *stateMeta) []byte {
	b := make([]byte, 0, streamHead+len(m.conf))
	b = append(b, streamMagic...)
	b = binary.BigEndian.AppendUint16(b, uint16(id))
	b = binary.BigEndian.AppendUint64(b, m.index)
	b = binary.BigEndian.AppendUint64(b, m.term)
	b = binary.BigEndian.AppendUint64(b, m.confIndex)
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.conf)))
	return append(b, m.conf...)
}

// snapshotStream is a reader of a group's keys at one instant.
type snapshotStream struct {
	v     *stateView
	iter  *pebble.Iterator
	size  int64
	pairs uint64
	sum   uint32
	made  []byte // not yet read
	buf   []byte // the memory of made
	ended bool
}

// newSnapshotStream owns v if it succeeds. It walks over the keys once to know the size.
func newSnapshotStream(v *stateView, id eggs.GroupID, m *stateMeta) (*snapshotStream, error) {
	lower, upper := v.prefix.bounds(nil, nil, nil, nil)
	iter, err := v.src.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, v.s.fault("raftgroup.GroupState.Open", err)
	}
	r := &snapshotStream{v: v, iter: iter, buf: streamHeader(id, m)}
	r.made = r.buf
	r.sum = crc32.Update(0, castagnoli, r.made)
	r.size = int64(len(r.made)) + streamTail
	for ok := iter.First(); ok; ok = iter.Next() {
		val := iter.LazyValue()
		r.size += int64(streamPair + len(iter.Key()) - len(v.prefix) + val.Len())
	}
	if err := iter.Error(); err != nil {
		iter.Close()
		return nil, v.s.fault("raftgroup.GroupState.Open", err)
	}
	iter.First()
	return r, nil
}

func (r *snapshotStream) Read(p []byte) (int, error) {
	if len(r.made) == 0 {
		if r.ended {
			return 0, io.EOF
		}
		if err := r.make(); err != nil {
			return 0, r.v.s.fault("raftgroup.GroupState.Read", err)
		}
	}
	n := copy(p, r.made)
	r.made = r.made[n:]
	return n, nil
}

// make makes the next chunk.
func (r *snapshotStream) make() error {
	b := r.buf[:0]
	for len(b) < streamChunk && r.iter.Valid() {
		k := r.iter.Key()[len(r.v.prefix):]
		v, err := r.iter.ValueAndErr()
		if err != nil {
			return err
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(k)))
		b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
		b = append(append(b, k...), v...)
		r.pairs++
		r.iter.Next()
	}
	if err := r.iter.Error(); err != nil {
		return err
	}
	r.ended = !r.iter.Valid()
	if r.ended {
		b = binary.BigEndian.AppendUint32(b, streamEnd)
		b = binary.BigEndian.AppendUint64(b, r.pairs)
	}
	r.sum = crc32.Update(r.sum, castagnoli, b)
	if r.ended {
		b = binary.BigEndian.AppendUint32(b, r.sum)
	}
	r.buf, r.made = b, b
	return nil
}

func (r *snapshotStream) Close() error {
	if r.iter == nil {
		return nil
	}
	err := r.iter.Close()
	r.iter = nil
	r.v.Close()
	return err
}

// streamReader parses a snapshot stream.
type streamReader struct {
	r     *bufio.Reader
	group eggs.GroupID
	meta  stateMeta
	pairs uint64
	sum   uint32
	pair  []byte // the key and the value that were read last
}

// openStream reads the header.
func openStream(r io.Reader) (*streamReader, error) {
	s := &streamReader{r: bufio.NewReaderSize(r, streamReading)}
	head := make([]byte, streamHead)
	if err := s.read(head); err != nil {
		return nil, err
	}
	conf := binary.BigEndian.Uint32(head[34:])
	if string(head[:8]) != streamMagic || conf > streamConf {
		return nil, fmt.Errorf("%w: no snapshot stream: %x", eggs.Corrupt, head)
	}
	s.group = eggs.GroupID(binary.BigEndian.Uint16(head[8:]))
	s.meta = stateMeta{
		index:     binary.BigEndian.Uint64(head[10:]),
		term:      binary.BigEndian.Uint64(head[18:]),
		confIndex: binary.BigEndian.Uint64(head[26:]),
		conf:      make([]byte, conf),
	}
	return s, s.read(s.meta.conf)
}

func (s *streamReader) read(b []byte) error {
	if _, err := io.ReadFull(s.r, b); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return fmt.Errorf("%w: the snapshot ends after %d pairs", eggs.Corrupt, s.pairs)
		}
		return err
	}
	s.sum = crc32.Update(s.sum, castagnoli, b)
	return nil
}

// next returns the next pair, valid until the call after it, or io.EOF behind a good end.
func (s *streamReader) next() (k, v []byte, err error) {
	var lens [8]byte
	if err := s.read(lens[:4]); err != nil {
		return nil, nil, err
	}
	klen := binary.BigEndian.Uint32(lens[:])
	if klen == streamEnd {
		return nil, nil, s.end()
	}
	if err := s.read(lens[4:]); err != nil {
		return nil, nil, err
	}
	vlen := binary.BigEndian.Uint32(lens[4:])
	if klen > streamKey || vlen > streamValue {
		return nil, nil, fmt.Errorf("%w: pair %d of the snapshot has %d and %d bytes", eggs.Corrupt,
			s.pairs, klen, vlen)
	}
	n := int(klen) + int(vlen)
	if cap(s.pair) < n {
		s.pair = make([]byte, n)
	}
	s.pair = s.pair[:n]
	if err := s.read(s.pair); err != nil {
		return nil, nil, err
	}
	s.pairs++
	return s.pair[:klen], s.pair[klen:], nil
}

func (s *streamReader) end() error {
	var b [8]byte
	if err := s.read(b[:]); err != nil {
		return err
	}
	computed, pairs := s.sum, binary.BigEndian.Uint64(b[:])
	if err := s.read(b[:4]); err != nil {
		return err
	}
	if found := binary.BigEndian.Uint32(b[:]); found != computed || pairs != s.pairs {
		return fmt.Errorf("%w: snapshot of %d pairs with checksum %08x; counted %d, computed %08x",
			eggs.Corrupt, pairs, found, s.pairs, computed)
	}
	if _, err := s.r.ReadByte(); err != io.EOF {
		return fmt.Errorf("%w: bytes after the snapshot's end", eggs.Corrupt)
	}
	return io.EOF
}
