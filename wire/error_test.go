package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"eggsfs/eggs"
)

// overTheWire is what the other side makes of an error.
func overTheWire(t *testing.T, err error) error {
	t.Helper()
	w := ErrorOf(err)
	if w == nil {
		return (*Error)(nil).AsError()
	}
	b := make([]byte, w.SizeVT())
	if _, err := w.MarshalToSizedBufferVT(b); err != nil {
		t.Fatal(err)
	}
	got := &Error{}
	if err := got.UnmarshalVT(b); err != nil {
		t.Fatal(err)
	}
	return got.AsError()
}

// Callers decide by Kind, people by the words: both must survive the wire.
func TestErrorsSurviveTheWire(t *testing.T) {
	inner := &eggs.Error{Op: "disk.Read", Name: "00", Kind: eggs.Corrupt, Err: errors.New("page 3")}
	rows := []struct {
		name  string
		err   error
		kind  eggs.Kind
		print string // "" = as it was
	}{
		{"a whole error", &eggs.Error{
			Op: "a.B", Inode: eggs.Root, Name: "n", Kind: eggs.Exist,
			Err: errors.New("text"), Node: 7, Disks: []eggs.DiskID{1, 2},
		}, eggs.Exist, ""},
		{"a kind alone", eggs.NotExist, eggs.NotExist, ""},
		{"a kind as the cause", &eggs.Error{Op: "a.B", Err: eggs.Locked}, eggs.Locked, ""},
		{
			"an error around an error of some kind", &eggs.Error{Op: "client.Read", Inode: 5, Err: inner},
			eggs.Corrupt, "client.Read: disk.Read: 0000000000000005 \"00\": corrupt: page 3",
		},
		{"a kind of its own above another", &eggs.Error{Op: "a.B", Kind: eggs.IO, Err: inner}, eggs.IO, ""},
		{"a foreign error", io.ErrUnexpectedEOF, eggs.Other, ""},
		{
			"a foreign error around a kind", fmt.Errorf("while here: %w", inner), eggs.Corrupt,
			"corrupt: while here: disk.Read: \"00\": corrupt: page 3",
		},
		{
			"a context's end", fmt.Errorf("x: %w", context.DeadlineExceeded), eggs.Indeterminate,
			"outcome unknown: x: context deadline exceeded",
		},
		{"an error without words", &eggs.Error{}, eggs.Other, ""},
	}
	for _, row := range rows {
		got := overTheWire(t, row.err)
		if row.print == "" {
			row.print = row.err.Error()
		}
		if eggs.KindOf(got) != row.kind || got.Error() != row.print {
			t.Errorf("%s: kind %q, prints %q\nwant kind %q, %q", row.name,
				eggs.KindOf(got), got, row.kind, row.print)
		}
	}
	if overTheWire(t, nil) != nil {
		t.Error("no error became one")
	}
}

// Each kind keeps its number: an old client must understand a new server.
func TestEveryKindSurvivesTheWire(t *testing.T) {
	for k := eggs.Kind(1); k < eggs.Kinds; k++ {
		if got := overTheWire(t, eggs.E("x.Y", k, "z")); !errors.Is(got, k) {
			t.Errorf("kind %d became %v", k, got)
		}
	}
	future := &Error{Kind: 4711, Text: "from a newer peer"}
	if got := eggs.KindOf(future.AsError()); got != 4711 {
		t.Errorf("an unknown kind became %v", got)
	}
}

// Who leads and which disks failed are found wherever in the chain they are,
// and an error is cut to what a person reads.
func TestErrorHintsAndLimits(t *testing.T) {
	disks := make([]eggs.DiskID, 500)
	deep := fmt.Errorf("x: %w", &eggs.Error{Kind: eggs.NotLeader, Node: 9, Disks: disks})
	w := ErrorOf(&eggs.Error{Op: "a.B", Name: strings.Repeat("n", 10000), Err: deep})
	if w.Node != 9 || len(w.Disks) != maxErrorDisks {
		t.Errorf("node %d, %d disks", w.Node, len(w.Disks))
	}
	w = ErrorOf(errors.New(strings.Repeat("t", 1<<20)))
	if w.SizeVT() > 4<<10 {
		t.Errorf("an error of %d bytes", w.SizeVT())
	}
}

// Spans and policies must come back as they went.
func TestConversions(t *testing.T) {
	span := eggs.Span{Offset: 5, Size: 9, CRC: 7, Locations: []eggs.Location{{
		Parity: eggs.Parity{D: 4, P: 2}, Stripes: 3, CellSize: 4096, StripeCRCs: []uint32{1, 2, 3},
		Blocks: []eggs.BlockRef{{Disk: 1, ID: 2, CRC: 3}, {Disk: 4, ID: 5, CRC: 6}},
	}}}
	if got := SpanToEggs(SpanOf(&span, SpanState_CLEAN)); !reflect.DeepEqual(got, span) {
		t.Errorf("got %+v", got)
	}
	inline := eggs.Span{Size: 3, Inline: []byte("abc")}
	if got := SpanToEggs(SpanOf(&inline, SpanState_DIRTY)); !reflect.DeepEqual(got, inline) {
		t.Errorf("got %+v", got)
	}
	if got := LocationToEggs(&Location{D: 256, Stripes: 1 << 20}); got.Parity.D != 255 || got.Stripes != 255 {
		t.Errorf("numbers too large for their field became small: %+v", got)
	}
	p := eggs.DefaultPolicies(14, 20)
	if got := PoliciesOf(p).Over(eggs.Policies{}); !reflect.DeepEqual(got, p) {
		t.Errorf("got %+v", got)
	}
	over := (&Policies{Snapshot: &SnapshotPolicy{KeepForNs: int64(time.Hour)}}).Over(p)
	if over.Snapshot.KeepFor != time.Hour || !reflect.DeepEqual(over.Span, p.Span) {
		t.Errorf("got %+v", over)
	}
}

// A block header that is cut, too long or garbage is an error and not a
// byte more is read than belongs to it.
func TestBlockFrames(t *testing.T) {
	var b bytes.Buffer
	req := &BlockRequest{Op: &BlockRequest_Get{Get: &GetBlock{Offset: 4096, Length: 77}}}
	if err := WriteBlockFrame(&b, req); err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(b.Bytes())
	b.WriteString("raw bytes")
	got := &BlockRequest{}
	if err := ReadBlockFrame(&b, got); err != nil || got.GetGet().GetLength() != 77 || b.String() != "raw bytes" {
		t.Errorf("%v, %v, left %q", err, got, &b)
	}
	for n := range whole {
		err := ReadBlockFrame(bytes.NewReader(whole[:n]), &BlockRequest{})
		if n == 0 && err != io.EOF || n > 0 && err != io.ErrUnexpectedEOF {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	err := ReadBlockFrame(strings.NewReader("GET / HTTP/1.1\r\n"), &BlockRequest{})
	wantKind(t, "text", err, eggs.TooLarge)
	err = ReadBlockFrame(strings.NewReader("\x02\x00\x00\x00\xff\xff"), &BlockRequest{})
	wantKind(t, "garbage", err, eggs.Invalid)
	err = WriteBlockFrame(&b, &Event{Text: strings.Repeat("x", MaxBlockFrame)})
	wantKind(t, "too long", err, eggs.TooLarge)
}
