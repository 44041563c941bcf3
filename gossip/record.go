package gossip

import (
	"errors"

	"eggsfs/eggs"

	"google.golang.org/protobuf/encoding/protowire"
)

// Limits of what a peer may say.
const (
	maxMeta    = 512   // bytes: memberlist's
	maxDisks   = 4096  // of one node: forty times what one machine holds
	maxChunks  = 1024  // of one record: a disk a packet would still do
	maxRecords = 16384 // of one push/pull
	chunkBytes = 1000  // of disks in one broadcast, so that it fits a packet of 1400
)

var errForm = errors.New("not of the form that this program knows")

// meta is what each announcement of a node carries.
type meta struct {
	cluster eggs.ClusterID
	info    NodeInfo // without disks and clock
	leaving bool
}

func appendUint(b []byte, n protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

func appendFixed(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, n, protowire.Fixed64Type), v)
}

func appendText[T string | []byte](b []byte, n protowire.Number, v T) []byte {
	if len(v) == 0 {
		return b
	}
	b = protowire.AppendTag(b, n, protowire.BytesType)
	return append(protowire.AppendVarint(b, uint64(len(v))), v...)
}

func boolInt(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

// fields calls f for each field of b: number is set for varint and fixed64,
// bytes for the rest. Fields of other types are skipped, for programs to come.
func fields(b []byte, f func(n protowire.Number, number uint64, bytes []byte) error) error {
	for len(b) > 0 {
		n, t, l := protowire.ConsumeTag(b)
		if l < 0 {
			return errForm
		}
		b = b[l:]
		var v uint64
		var p []byte
		switch t {
		case protowire.VarintType:
			v, l = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			v, l = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			p, l = protowire.ConsumeBytes(b)
		default:
			l = protowire.ConsumeFieldValue(n, t, b)
		}
		if l < 0 {
			return errForm
		}
		b = b[l:]
		if err := f(n, v, p); err != nil {
			return err
		}
	}
	return nil
}

func (m *meta) encode() []byte {
	b := appendFixed(nil, 1, uint64(m.cluster))
	b = appendFixed(b, 2, uint64(m.info.ID))
	b = appendText(b, 3, m.info.Addr)
	b = appendText(b, 4, m.info.HTTP)
	b = appendText(b, 5, m.info.Domain)
	b = appendUint(b, 6, uint64(m.info.Roles))
	b = appendText(b, 7, m.info.Version)
	return appendUint(b, 8, boolInt(m.leaving))
}

func decodeMeta(b []byte) (meta, error) {
	var m meta
	err := fields(b, func(n protowire.Number, v uint64, p []byte) error {
		switch n {
		case 1:
			m.cluster = eggs.ClusterID(v)
		case 2:
			m.info.ID = eggs.NodeID(v)
		case 3:
			m.info.Addr = string(p)
		case 4:
			m.info.HTTP = string(p)
		case 5:
			m.info.Domain = string(p)
		case 6:
			m.info.Roles = uint32(v)
		case 7:
			m.info.Version = string(p)
		case 8:
			m.leaving = v != 0
		}
		return nil
	})
	if err == nil && (m.info.ID == 0 || m.info.Addr == "") {
		err = errForm
	}
	return m, err
}

// record is a node's word about its disks, or a chunk of it.
type record struct {
	node          eggs.NodeID
	version       uint64
	clock         eggs.Time
	disks         []DiskInfo
	chunk, chunks uint32
}

func appendDisk(b []byte, d *DiskInfo) []byte {
	b = appendFixed(b, 1, uint64(d.ID))
	b = appendUint(b, 2, uint64(d.Class))
	b = appendUint(b, 3, d.Capacity)
	b = appendUint(b, 4, d.Free)
	b = appendUint(b, 5, boolInt(d.Writable))
	return appendUint(b, 6, uint64(d.Load))
}

func decodeDisk(b []byte) (DiskInfo, error) {
	var d DiskInfo
	err := fields(b, func(n protowire.Number, v uint64, _ []byte) error {
		switch n {
		case 1:
			d.ID = eggs.DiskID(v)
		case 2:
			d.Class = uint8(v)
		case 3:
			d.Capacity = v
		case 4:
			d.Free = v
		case 5:
			d.Writable = v != 0
		case 6:
			d.Load = uint32(v)
		}
		return nil
	})
	if err == nil && d.ID == 0 {
		err = errForm
	}
	return d, err
}

func (r *record) encode() []byte {
	b := appendFixed(nil, 1, uint64(r.node))
	b = appendUint(b, 2, r.version)
	b = appendUint(b, 3, uint64(r.clock))
	var scratch []byte
	for i := range r.disks {
		scratch = appendDisk(scratch[:0], &r.disks[i])
		b = appendText(b, 4, scratch)
	}
	b = appendUint(b, 5, uint64(r.chunk))
	return appendUint(b, 6, uint64(r.chunks))
}

// split encodes the record in chunks that fit a packet each.
func (r *record) split() [][]byte {
	var parts [][]DiskInfo
	size, from := 0, 0
	for i := range r.disks {
		n := len(appendDisk(nil, &r.disks[i])) + 2
		if size+n > chunkBytes {
			parts = append(parts, r.disks[from:i])
			size, from = 0, i
		}
		size += n
	}
	parts = append(parts, r.disks[from:])
	var out [][]byte
	for i, p := range parts {
		c := *r
		c.disks, c.chunk, c.chunks = p, uint32(i), uint32(len(parts))
		out = append(out, c.encode())
	}
	return out
}

func decodeRecord(b []byte) (record, error) {
	var r record
	err := fields(b, func(n protowire.Number, v uint64, p []byte) error {
		switch n {
		case 1:
			r.node = eggs.NodeID(v)
		case 2:
			r.version = v
		case 3:
			r.clock = eggs.Time(v)
		case 4:
			if len(r.disks) == maxDisks {
				return errForm
			}
			d, err := decodeDisk(p)
			if err != nil {
				return err
			}
			r.disks = append(r.disks, d)
		case 5:
			r.chunk = uint32(min(v, maxChunks))
		case 6:
			r.chunks = uint32(min(v, maxChunks+1))
		}
		return nil
	})
	if err == nil && (r.node == 0 || r.chunks == 0 || r.chunks > maxChunks || r.chunk >= r.chunks) {
		err = errForm
	}
	return r, err
}

// decodeState cuts a push/pull's state into records. Those that can't be read are left out.
func decodeState(b []byte) ([]record, error) {
	var records []record
	err := fields(b, func(n protowire.Number, _ uint64, p []byte) error {
		if n != 1 {
			return nil
		}
		if len(records) == maxRecords {
			return errForm
		}
		if r, err := decodeRecord(p); err == nil {
			records = append(records, r)
		}
		return nil
	})
	return records, err
}
