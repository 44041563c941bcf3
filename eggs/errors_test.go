package eggs

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// Callers decide by errors.Is and KindOf, however deep the kind is.
func TestKindOfChains(t *testing.T) {
	deep := &Error{Op: "b.C", Kind: NotExist, Err: io.EOF}
	rows := []struct {
		name string
		err  error
		want Kind
	}{
		{"nothing", nil, Other},
		{"a foreign error", io.EOF, Other},
		{"a kind alone", Locked, Locked},
		{"an error", deep, NotExist},
		{"around an error", &Error{Op: "a.B", Err: deep}, NotExist},
		{"the outermost kind counts", &Error{Op: "a.B", Kind: Corrupt, Err: deep}, Corrupt},
		{"through fmt", fmt.Errorf("x: %w", deep), NotExist},
		{"through a join", errors.Join(io.EOF, deep), NotExist},
		{"no kind at all", &Error{Op: "a.B", Err: io.EOF}, Other},
	}
	for _, row := range rows {
		if got := KindOf(row.err); got != row.want {
			t.Errorf("%s: kind %q, want %q", row.name, got, row.want)
		}
		if row.want != Other && !errors.Is(row.err, row.want) {
			t.Errorf("%s: errors.Is does not find %q", row.name, row.want)
		}
	}
	if errors.Is(deep, Exist) || errors.Is(&Error{}, Other) {
		t.Error("errors.Is finds a kind that is not there")
	}
	if !errors.Is(&Error{Op: "a.B", Kind: Corrupt, Err: deep}, io.EOF) {
		t.Error("the cause is lost")
	}
}

// People read op, thing, kind and cause, in that order, each once.
func TestErrorPrints(t *testing.T) {
	rows := []struct {
		err  *Error
		want string
	}{
		{&Error{}, "error"},
		{E("a.B", NotExist, ""), "a.B: does not exist"},
		{E("a.B", Invalid, "no good"), "a.B: invalid: no good"},
		{&Error{Op: "a.B", Inode: Root, Name: "x", Kind: Exist}, `a.B: 2000000000000001 "x": exists already`},
		{&Error{Op: "a.B", Name: "x", Kind: Locked, Err: Locked}, `a.B: "x": locked by a transaction`},
		{
			&Error{Op: "a.B", Kind: BadDisk, Disks: []DiskID{1, 0xff}},
			"a.B: disk failed: disk 0000000000000001: disk 00000000000000ff",
		},
		{&Error{Op: "a.B", Err: E("c.D", IO, "broken")}, "a.B: c.D: input/output error: broken"},
		{&Error{Err: io.EOF}, "EOF"},
	}
	for _, row := range rows {
		if got := row.err.Error(); got != row.want {
			t.Errorf("got  %s\nwant %s", got, row.want)
		}
	}
}

// Names are refused before they reach a shard, and a refusal never prints more than a line.
func TestCheckName(t *testing.T) {
	for _, good := range []string{"a", "...", ".x", "\xff", strings.Repeat("n", MaxName), " ", "a\nb"} {
		if err := CheckName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for bad, kind := range map[string]Kind{
		"": Invalid, ".": Invalid, "..": Invalid, "a/b": Invalid, "a\x00": Invalid,
		strings.Repeat("n", MaxName+1): NameTooLong,
	} {
		if err := CheckName(bad); !errors.Is(err, kind) || len(err.Error()) > 200 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Whatever cluster there is, its default policy must be one that its disks can hold.
func TestDefaultPoliciesFit(t *testing.T) {
	for domains := range 20 {
		for disks := range 30 {
			p := DefaultPolicies(domains, disks)
			for i, c := range p.Span {
				if disks > 0 && c.Parity.Blocks() > max(disks, 1) && domains < 14 {
					t.Errorf("%d domains, %d disks: %v", domains, disks, c.Parity)
				}
				if i > 0 && c.MaxSize <= p.Span[i-1].MaxSize || c.MaxSize > MaxSpan || c.Parity.D == 0 {
					t.Errorf("%d domains, %d disks: %+v", domains, disks, p.Span)
				}
			}
			if p.Inline.MaxSize > MaxInline || p.Stripe.CellSize%CellAlign != 0 {
				t.Errorf("%+v", p)
			}
		}
	}
}
