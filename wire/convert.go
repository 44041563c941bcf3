package wire

import (
	"time"

	"eggsfs/eggs"
)

// SpanOf puts a span on the wire.
func SpanOf(s *eggs.Span, state SpanState) *Span {
	w := &Span{
		Offset: uint64(s.Offset), Size: uint64(s.Size), Crc: s.CRC, Inline: s.Inline, State: state,
	}
	for i := range s.Locations {
		w.Locations = append(w.Locations, LocationOf(&s.Locations[i]))
	}
	return w
}

// LocationOf puts a location on the wire.
func LocationOf(l *eggs.Location) *Location {
	w := &Location{
		D: uint32(l.Parity.D), P: uint32(l.Parity.P),
		Stripes: uint32(l.Stripes), CellSize: l.CellSize,
		StripeCrcs: l.StripeCRCs, Blocks: make([]*Block, len(l.Blocks)),
	}
	blocks := make([]Block, len(l.Blocks))
	for i, b := range l.Blocks {
		blocks[i].Disk, blocks[i].Id, blocks[i].Crc = uint64(b.Disk), uint64(b.ID), b.CRC
		w.Blocks[i] = &blocks[i]
	}
	return w
}

// SpanToEggs takes a span from the wire. Slices are shared with w. Numbers that
// do not fit their field become 255, over every limit; nil gives the zero Span.
func SpanToEggs(w *Span) eggs.Span {
	s := eggs.Span{
		Offset: int64(w.GetOffset()), Size: int64(w.GetSize()),
		CRC: w.GetCrc(), Inline: w.GetInline(),
	}
	for _, l := range w.GetLocations() {
		s.Locations = append(s.Locations, LocationToEggs(l))
	}
	return s
}

// LocationToEggs takes a location from the wire. StripeCRCs are shared with w.
func LocationToEggs(w *Location) eggs.Location {
	l := eggs.Location{
		Parity:  eggs.Parity{D: narrow(w.GetD()), P: narrow(w.GetP())},
		Stripes: narrow(w.GetStripes()), CellSize: w.GetCellSize(),
		StripeCRCs: w.GetStripeCrcs(), Blocks: make([]eggs.BlockRef, len(w.GetBlocks())),
	}
	for i, b := range w.GetBlocks() {
		l.Blocks[i] = eggs.BlockRef{
			Disk: eggs.DiskID(b.GetDisk()), ID: eggs.BlockID(b.GetId()), CRC: b.GetCrc(),
		}
	}
	return l
}

// narrow cuts a number to a byte; one that does not fit becomes 255, which is
// over every limit of what is a byte here.
func narrow(v uint32) uint8 { return uint8(min(v, 255)) }

// PoliciesOf puts a whole set of policies on the wire, as tags of a directory.
func PoliciesOf(p eggs.Policies) *Policies {
	w := &Policies{
		Snapshot: &SnapshotPolicy{
			KeepForNs: int64(p.Snapshot.KeepFor), KeepVersions: p.Snapshot.KeepVersions,
		},
		Span:   &SpanPolicy{},
		Stripe: &StripePolicy{CellSize: p.Stripe.CellSize},
		Inline: &InlinePolicy{MaxSize: p.Inline.MaxSize},
	}
	for _, c := range p.Span {
		w.Span.Classes = append(w.Span.Classes, &SpanClass{
			MaxSize: uint64(c.MaxSize), D: uint32(c.Parity.D), P: uint32(c.Parity.P),
			Class: uint32(c.Class),
		})
	}
	return w
}

// Over returns base with the tags that p has in place of base's.
func (x *Policies) Over(base eggs.Policies) eggs.Policies {
	if s := x.GetSnapshot(); s != nil {
		base.Snapshot = eggs.SnapshotPolicy{
			KeepFor: time.Duration(s.KeepForNs), KeepVersions: s.KeepVersions,
		}
	}
	if s := x.GetSpan(); s != nil {
		base.Span = nil
		for _, c := range s.Classes {
			base.Span = append(base.Span, eggs.SpanClass{
				MaxSize: int64(c.MaxSize),
				Parity:  eggs.Parity{D: narrow(c.D), P: narrow(c.P)}, Class: narrow(c.Class),
			})
		}
	}
	if s := x.GetStripe(); s != nil {
		base.Stripe = eggs.StripePolicy{CellSize: s.CellSize}
	}
	if s := x.GetInline(); s != nil {
		base.Inline = eggs.InlinePolicy{MaxSize: s.MaxSize}
	}
	return base
}
