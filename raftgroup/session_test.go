package raftgroup_test

import (
	"bytes"
	"sort"
	"testing"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
)

// sessionTx is a Tx over a map, without rollback.
type sessionTx map[string][]byte

func (t sessionTx) Get(k []byte) ([]byte, bool) { v, ok := t[string(k)]; return v, ok }
func (t sessionTx) Set(k, v []byte)             { t[string(k)] = bytes.Clone(v) }
func (t sessionTx) Delete(k []byte)             { delete(t, string(k)) }
func (t sessionTx) Rollback()                   {}
func (t sessionTx) Scan(lo, hi []byte, _ bool, f func(k, v []byte) bool) {
	var keys []string
	for k := range t {
		if k >= string(lo) && (hi == nil || k < string(hi)) {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	for _, k := range keys {
		if !f([]byte(k), t[k]) {
			return
		}
	}
}

const sessionT0 = eggs.Time(1_700_000_000_000_000_000)

var table = raftgroup.Sessions{Prefix: 'S'}

func wantState(t *testing.T, tx raftgroup.Tx, s, seq, low uint64, now eggs.Time,
	want raftgroup.SessionState, answer string,
) {
	t.Helper()
	a, got := table.Begin(tx, s, seq, low, now)
	if got != want || string(a) != answer {
		t.Fatalf("Begin(%d, lowest %d) = %q, %d; want %q, %d", seq, low, a, got, answer, want)
	}
}

// TestSessionExactlyOnce exists because a retry whose first try was executed
// must get that answer, whatever was asked in between.
func TestSessionExactlyOnce(t *testing.T) {
	tx := sessionTx{}
	s := table.Open(tx, sessionT0, 7)
	if s == 0 || s == table.Open(tx, sessionT0, 7) {
		t.Fatal("two sessions of one client are one")
	}
	for seq := uint64(1); seq <= 3; seq++ {
		wantState(t, tx, s, seq, 1, sessionT0, raftgroup.SessionNew, "")
		table.Answer(tx, s, seq, []byte{'0' + byte(seq)})
	}
	wantState(t, tx, s, 1, 1, sessionT0, raftgroup.SessionAnswered, "1")
	wantState(t, tx, s, 3, 3, sessionT0, raftgroup.SessionAnswered, "3")
	wantState(t, tx, s, 2, 1, sessionT0, raftgroup.SessionForgotten, "")
	wantState(t, tx, s, 9, 100, sessionT0, raftgroup.SessionNew, "") // a lowest above itself is cut
	if _, ok := table.Look(tx, s, 2); ok {
		t.Fatal("an answer below lowest is still there")
	}
	wantState(t, tx, s, 9+raftgroup.SessionWindow, 1, sessionT0, raftgroup.SessionFull, "")
	wantState(t, tx, s+1, 1, 1, sessionT0, raftgroup.SessionUnknown, "")
}

// TestSessionExpire exists because what a dead client holds must come free, and
// what a live one holds must not, though the due keys are moved only now and then.
func TestSessionExpire(t *testing.T) {
	tx := sessionTx{}
	live := table.Open(tx, sessionT0, 1)
	dead := table.Open(tx, sessionT0, 2)
	wantState(t, tx, dead, 1, 1, sessionT0, raftgroup.SessionNew, "")
	table.Answer(tx, dead, 1, []byte("x"))
	mid := sessionT0 + raftgroup.SessionLife/2
	wantState(t, tx, live, 1, 1, mid, raftgroup.SessionNew, "")

	end := sessionT0 + raftgroup.SessionLife
	if due, ok := table.Due(tx); !ok || due != end {
		t.Fatalf("due %v %v, want %v", due, ok, end)
	}
	if got := table.Expire(tx, end-1, 10); got != nil {
		t.Fatalf("ended %v early", got)
	}
	wantState(t, tx, dead, 1, 1, end, raftgroup.SessionUnknown, "")
	if got := table.Expire(tx, end, 10); len(got) != 1 || got[0] != dead {
		t.Fatalf("ended %v, want %v", got, dead)
	}
	if !table.Live(tx, live, end) || table.Live(tx, dead, end) || table.Count(tx) != 1 {
		t.Fatal("the wrong one lives")
	}
	if _, ok := table.Look(tx, dead, 1); ok {
		t.Fatal("the answers of an ended session are still there")
	}
	if got := table.Expire(tx, mid+raftgroup.SessionLife, 10); len(got) != 1 || got[0] != live {
		t.Fatalf("ended %v, want %v", got, live)
	}
	if len(tx) != 1 {
		t.Fatalf("%d keys left, want the counter only", len(tx))
	}
}

// TestSessionExpireLimit exists because an entry must not pay for a thousand dead clients.
func TestSessionExpireLimit(t *testing.T) {
	tx := sessionTx{}
	for i := uint64(0); i < 10; i++ {
		table.Open(tx, sessionT0, i)
	}
	late := sessionT0 + 2*raftgroup.SessionLife
	if n := len(table.Expire(tx, late, 4)); n != 4 {
		t.Fatalf("%d ended, want 4", n)
	}
	if n := len(table.Expire(tx, late, 40)); n != 6 {
		t.Fatalf("%d ended, want 6", n)
	}
}
