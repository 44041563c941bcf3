package raftgroup

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/hashicorp/raft"
)

const (
	frameMagic  = 0x4A4E4C46 // "JNLF"
	frameHead   = 48
	frameSeal   = math.MaxUint32 // in the place of the number of records
	frameRecord = 29             // bytes before a record's extensions and data

	segmentMagic      = "EGGSJNL1"
	segmentHeaderSize = 8 + 4 + 8 + 8 + 8
)

// journalFrame is one write to the journal.
type journalFrame struct {
	number uint64
	first  uint64      // sequence number of the first record; of a seal: the next segment's number
	floor  uint64      // sequence number from which records count
	recs   []*raft.Log // sealed
	seal   bool        // the last of its segment
	bytes  int64       // what it takes in the journal
}

// next is the sequence number after those of the frame.
func (f *journalFrame) next() uint64 { return f.first + uint64(len(f.recs)) }

func (f *journalFrame) encodedSize() int64 {
	n := int64(frameHead)
	for _, r := range f.recs {
		n += int64(frameRecord + len(r.Extensions) + len(r.Data))
	}
	return (n + journalPage - 1) / journalPage * journalPage
}

// encode appends the frame, padded, to b, which is empty.
func (f *journalFrame) encode(b []byte, id uint64) []byte {
	count := uint32(len(f.recs))
	if f.seal {
		count = frameSeal
	}
	b = binary.BigEndian.AppendUint32(b, frameMagic)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // checksum and length
	b = binary.BigEndian.AppendUint32(b, count)
	b = binary.BigEndian.AppendUint64(b, id)
	b = binary.BigEndian.AppendUint64(b, f.number)
	b = binary.BigEndian.AppendUint64(b, f.first)
	b = binary.BigEndian.AppendUint64(b, f.floor)
	for _, r := range f.recs {
		b = binary.BigEndian.AppendUint32(b, uint32(len(r.Extensions)))
		b = binary.BigEndian.AppendUint32(b, uint32(len(r.Data)))
		b = append(b, byte(r.Type))
		b = binary.BigEndian.AppendUint64(b, r.Term)
		b = binary.BigEndian.AppendUint64(b, uint64(r.AppendedAt.Unix()))
		b = binary.BigEndian.AppendUint32(b, uint32(r.AppendedAt.Nanosecond()))
		b = append(append(b, r.Extensions...), r.Data...)
	}
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-frameHead))
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return append(b, make([]byte, -len(b)&(journalPage-1))...)
}

// isFrame reports whether b begins with a whole frame of the journal.
func isFrame(b []byte, id uint64) bool {
	if len(b) < frameHead || binary.BigEndian.Uint32(b) != frameMagic ||
		binary.BigEndian.Uint64(b[16:]) != id {
		return false
	}
	end := frameHead + uint64(binary.BigEndian.Uint32(b[8:]))
	return end <= uint64(len(b)) && crc32.Checksum(b[8:end], castagnoli) == binary.BigEndian.Uint32(b[4:])
}

func frameNumber(b []byte) uint64 { return binary.BigEndian.Uint64(b[24:]) }

// decodeFrame makes a frame of what isFrame approved, with memory of its own.
func decodeFrame(b []byte) (*journalFrame, error) {
	f := &journalFrame{
		number: frameNumber(b), first: binary.BigEndian.Uint64(b[32:]), floor: binary.BigEndian.Uint64(b[40:]),
	}
	count := binary.BigEndian.Uint32(b[12:])
	length := int(binary.BigEndian.Uint32(b[8:]))
	f.bytes = int64(frameHead+length+journalPage-1) / journalPage * journalPage
	if f.seal = count == frameSeal; f.seal {
		return f, nil
	}
	body := append([]byte(nil), b[frameHead:frameHead+length]...)
	for range count {
		if len(body) < frameRecord {
			return nil, fmt.Errorf("%w: frame %d has fewer records than it says", errJournal, f.number)
		}
		x, n := binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:])
		r := &raft.Log{
			Index: f.next(), Type: raft.LogType(body[8]), Term: binary.BigEndian.Uint64(body[9:]),
			AppendedAt: time.Unix(int64(binary.BigEndian.Uint64(body[17:])),
				int64(binary.BigEndian.Uint32(body[25:]))).UTC(),
		}
		body = body[frameRecord:]
		if uint64(x)+uint64(n) > uint64(len(body)) {
			return nil, fmt.Errorf("%w: frame %d has a record of %d and %d bytes", errJournal, f.number, x, n)
		}
		r.Extensions, r.Data = body[:x:x], body[x:x+n:x+n]
		body = body[x+n:]
		f.recs = append(f.recs, r)
	}
	return f, nil
}

// segmentHeader makes the first page of a segment.
func segmentHeader(id uint64, s *segment) []byte {
	b := make([]byte, 0, journalPage)
	b = append(b, segmentMagic...)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, id)
	b = binary.BigEndian.AppendUint64(b, s.number)
	b = binary.BigEndian.AppendUint64(b, s.start)
	binary.BigEndian.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b[:journalPage]
}

// parseHeader reads a segment's header. A segment without one, or of another journal, has number 0:
// it is a spare.
func (s *segment) parseHeader(id uint64, b []byte) {
	s.number, s.start = 0, 0
	if len(b) < segmentHeaderSize || string(b[:8]) != segmentMagic ||
		binary.BigEndian.Uint32(b[8:]) != crc32.Checksum(b[12:segmentHeaderSize], castagnoli) ||
		binary.BigEndian.Uint64(b[12:]) != id {
		return
	}
	s.number, s.start = binary.BigEndian.Uint64(b[20:]), binary.BigEndian.Uint64(b[28:])
}
