package eggs

import (
	"fmt"
	"time"
)

// Time is nanoseconds since 1970, UTC. In what a group stores it is the
// group's time, which only moves forward; see model "Time".
type Time int64

// TimeOf converts from the standard library's time.
func TimeOf(t time.Time) Time { return Time(t.UnixNano()) }

// Std converts to the standard library's time.
func (t Time) Std() time.Time { return time.Unix(0, int64(t)) }

// String prints RFC 3339 with nanoseconds, in UTC.
func (t Time) String() string { return t.Std().UTC().Format(time.RFC3339Nano) }

// Parity is how a span is cut: D data blocks and P parity blocks, any D of
// which give the span. (1,P) is P+1 copies. (0,0) means the bytes are inline.
type Parity struct{ D, P uint8 }

// Blocks returns D+P.
func (p Parity) Blocks() int { return int(p.D) + int(p.P) }

// Inline reports whether the bytes live in the shard.
func (p Parity) Inline() bool { return p.D == 0 }

// String prints "4+2" or "inline".
func (p Parity) String() string {
	if p.Inline() {
		return "inline"
	}
	return fmt.Sprintf("%d+%d", p.D, p.P)
}

// Limits of spans. A span's blocks are held in memory by the writer.
const (
	MaxParity    = 16        // D and P each: the bound of what one write waits for
	MaxSpan      = 128 << 20 // bytes of one span: twice this is a writer's buffer
	MaxInline    = 64 << 10  // bytes of one inline span: it travels in the Raft log
	MaxStripes   = 64        // stripes of one span
	CellAlign    = 4096      // bytes; a cell is a multiple of a page
	PageSize     = 4096      // bytes covered by one page checksum of a block
	MaxBlock     = MaxSpan   // bytes of one block, as D may be 1
	MaxSpanBatch = 1024      // spans of one answer
)

// BlockRef says where one block is.
type BlockRef struct {
	Disk DiskID
	ID   BlockID
	CRC  uint32 // CRC32C of the whole block, padding included
}

// Location is one copy of a span's bytes. A span keeps a list of them, so that
// a second region can be added without a change of format.
type Location struct {
	Parity     Parity
	Stripes    uint8
	CellSize   uint32     // bytes of one block in one stripe, a multiple of CellAlign
	Blocks     []BlockRef // D data blocks, then P parity blocks
	StripeCRCs []uint32   // CRC32C of each stripe's data cells, padding included
}

// BlockSize returns the bytes of each block: Stripes × CellSize.
func (l *Location) BlockSize() uint32 { return uint32(l.Stripes) * l.CellSize }

// Span is a piece of a file that is written and certified as a whole.
type Span struct {
	Offset    int64
	Size      int64
	CRC       uint32     // CRC32C of the Size bytes
	Inline    []byte     // the bytes, or nil when Locations has them
	Locations []Location // empty when inline
}

// Storage classes of disks. A policy asks for one; Any takes what there is.
const (
	ClassAny   uint8 = 0
	ClassHDD   uint8 = 1
	ClassFlash uint8 = 2
)

// SnapshotPolicy says how long deleted and replaced content is kept. Content
// goes when it is older than KeepFor and at least KeepVersions newer versions
// of the name exist; a zero field does not hold anything back.
type SnapshotPolicy struct {
	KeepFor      time.Duration
	KeepVersions uint32
}

// SpanClass is one step of a SpanPolicy.
type SpanClass struct {
	MaxSize int64 // spans of up to this many bytes
	Parity  Parity
	Class   uint8 // storage class
}

// SpanPolicy gives sizes and parity by size, in increasing MaxSize. The last
// one's MaxSize is the greatest span.
type SpanPolicy []SpanClass

// StripePolicy says how a span is cut so that its first bytes come early.
type StripePolicy struct{ CellSize uint32 }

// InlinePolicy: files of up to this many bytes live in the shard.
type InlinePolicy struct{ MaxSize uint32 }

// Policies is the set in force for a directory, each tag taken from the
// nearest ancestor that has it.
type Policies struct {
	Snapshot SnapshotPolicy
	Span     SpanPolicy
	Stripe   StripePolicy
	Inline   InlinePolicy
}

// DefaultPolicies is what a cluster uses whose root says nothing, by the number
// of its failure domains and disks: distinct disks on one node; with three
// domains or more the loss of one costs nothing; with 14, (10,4).
func DefaultPolicies(domains, disks int) Policies {
	p := Policies{
		Snapshot: SnapshotPolicy{KeepFor: 24 * time.Hour},
		Stripe:   StripePolicy{CellSize: 1 << 20},
		Inline:   InlinePolicy{MaxSize: 16 << 10},
	}
	small, large := Parity{1, 2}, Parity{4, 2}
	switch {
	case domains >= 14:
		large = Parity{10, 4}
	case disks >= 6:
	case disks >= 3:
		large = Parity{2, 1}
		small = Parity{1, 1}
	case disks == 2:
		small, large = Parity{1, 1}, Parity{1, 1}
	default:
		small, large = Parity{1, 0}, Parity{1, 0}
	}
	p.Span = SpanPolicy{{MaxSize: 128 << 10, Parity: small}, {MaxSize: 32 << 20, Parity: large}}
	return p
}
