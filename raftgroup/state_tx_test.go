package raftgroup

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"eggsfs/eggs"
)

// scriptMachine applies a list of operations that the test put aside, so that Apply can be
// driven step by step through the real path.
type scriptMachine struct {
	script   func(tx Tx, e Entry) any
	restored int
}

func (m *scriptMachine) Apply(tx Tx, e Entry) any { return m.script(tx, e) }
func (m *scriptMachine) Restored(Reader)          { m.restored++ }

func scanAll(r Reader, lo, hi []byte, reverse bool) []string {
	var got []string
	r.Scan(lo, hi, reverse, func(k, v []byte) bool {
		got = append(got, string(k)+"="+string(v))
		return true
	})
	return got
}

func modelScan(m map[string]string, lo, hi string, bounded, reverse bool) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k >= lo && (!bounded || k < hi) {
			out = append(out, k+"="+m[k])
		}
	}
	if reverse {
		slices.Reverse(out)
	}
	return out
}

// Why: a machine's every decision goes through Tx, and a scan that merges three layers wrongly
// shows up as replicas that differ. So random entries run against a map.
func TestTxAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &scriptMachine{}
		ms := NewMemoryState(7, m)
		defer ms.Close()
		model := map[string]string{}
		key := rapid.Custom(func(t *rapid.T) string {
			return fmt.Sprintf("%0*d", rapid.IntRange(0, 2).Draw(t, "w"), rapid.IntRange(0, 30).Draw(t, "n"))
		})
		check := func(r Reader, want map[string]string) {
			k := key.Draw(t, "get")
			v, ok := r.Get([]byte(k))
			w, wok := want[k]
			if ok != wok || string(v) != w {
				t.Fatalf("get %q: %q %v, want %q %v", k, v, ok, w, wok)
			}
			lo, hi := key.Draw(t, "lo"), key.Draw(t, "hi")
			bounded, reverse := rapid.Bool().Draw(t, "bounded"), rapid.Bool().Draw(t, "reverse")
			var hiKey []byte
			if bounded {
				hiKey = []byte(hi)
			}
			got, exp := scanAll(r, []byte(lo), hiKey, reverse), modelScan(want, lo, hi, bounded, reverse)
			if !slices.Equal(got, exp) {
				t.Fatalf("scan %q %q %v: %q, want %q", lo, hiKey, reverse, got, exp)
			}
		}
		m.script = func(tx Tx, e Entry) any {
			mine := maps.Clone(model)
			for range rapid.IntRange(0, 12).Draw(t, "ops") {
				k := key.Draw(t, "key")
				switch rapid.IntRange(0, 9).Draw(t, "op") {
				case 0, 1, 2, 3:
					v := rapid.StringN(0, 3, -1).Draw(t, "v")
					tx.Set([]byte(k), []byte(v))
					mine[k] = v
				case 4, 5:
					tx.Delete([]byte(k))
					delete(mine, k)
				case 6:
					tx.Rollback()
					mine = maps.Clone(model)
				default:
					check(tx, mine)
				}
			}
			model = mine
			return e.Index
		}
		for range rapid.IntRange(1, 6).Draw(t, "batches") {
			batch := make([][]byte, rapid.IntRange(1, 4).Draw(t, "entries"))
			for i, a := range ms.ApplyBatch(batch...) {
				if want := ms.Index() - uint64(len(batch)-1-i); a != want {
					t.Fatalf("answer %v, want %d", a, want)
				}
			}
			v := ms.View()
			check(v, model)
			if got := scanAll(v, nil, nil, false); !slices.Equal(got, modelScan(model, "", "", false, false)) {
				t.Fatalf("after the batch: %q, want %q", got, model)
			}
			v.Close()
		}
	})
}

// Why: collection of a big directory writes tens of thousands of keys in one entry, and the
// overlay's table and order must grow with it.
func TestTxManyKeys(t *testing.T) {
	m := &scriptMachine{}
	ms := NewMemoryState(eggs.CDCGroup, m)
	defer ms.Close()
	const n = 20000
	m.script = func(tx Tx, e Entry) any {
		for i := range n {
			tx.Set(fmt.Appendf(nil, "%08d", i*7919%n), []byte("x"))
			if i%1000 == 0 {
				tx.Scan(nil, nil, true, func(k, v []byte) bool { return false })
			}
		}
		tx.Set([]byte("00000003"), nil)
		tx.Delete([]byte("00000004"))
		return len(scanAll(tx, []byte("00000002"), []byte("00000006"), false))
	}
	if got := ms.Apply(nil); got != 3 {
		t.Fatalf("scan saw %v keys, want 3", got)
	}
	v := ms.View()
	defer v.Close()
	if got := scanAll(v, []byte("00000002"), []byte("00000006"), true); !slices.Equal(got,
		[]string{"00000005=x", "00000003=", "00000002=x"}) {
		t.Fatal(got)
	}
	if got := len(scanAll(v, nil, nil, false)); got != n-1 {
		t.Fatalf("%d keys, want %d", got, n-1)
	}
}

// Why: a callback of a scan may look things up, and scan again, in the same transaction.
func TestTxNestedScan(t *testing.T) {
	m := &scriptMachine{script: func(tx Tx, e Entry) any {
		tx.Set([]byte("c"), []byte{1})
		var got []string
		tx.Scan(nil, nil, false, func(k, _ []byte) bool {
			got = append(got, string(k))
			tx.Scan(k, nil, true, func(k, _ []byte) bool {
				got = append(got, string(k))
				return false
			})
			return true
		})
		return fmt.Sprint(got)
	}}
	ms := NewMemoryState(1, m)
	defer ms.Close()
	inner := m.script
	m.script = func(tx Tx, e Entry) any {
		tx.Set([]byte("a"), nil)
		tx.Set([]byte("b"), nil)
		return nil
	}
	ms.Apply(nil)
	m.script = inner
	if got := ms.Apply(nil); got != "[a c b c c c]" {
		t.Fatal(got)
	}
}
