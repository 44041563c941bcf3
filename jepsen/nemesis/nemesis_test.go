package nemesis

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSchedule: a seed is all that it takes to do the same again; every kind has
// its turn, nothing begins when there is no time left to meet it.
func TestSchedule(t *testing.T) {
	var kinds []string
	for _, k := range Kinds() {
		kinds = append(kinds, k.Name)
		if k.About == "" || k.class == "" || k.start == nil {
			t.Errorf("%s is not whole", k.Name)
		}
	}
	if slices.Sort(kinds); len(slices.Compact(slices.Clone(kinds))) != len(kinds) {
		t.Fatal("two kinds have one name")
	}
	for seed := range uint64(200) {
		total := 60 * time.Second
		steps, err := Schedule(kinds[:5], total, seed)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := Schedule(kinds[:5], total, seed)
		if d := cmp.Diff(steps, again); d != "" {
			t.Fatal(d)
		}
		if len(steps) < 3 {
			t.Fatalf("seed %d: %d faults in a minute", seed, len(steps))
		}
		seen := map[string]bool{}
		for i, s := range steps {
			if seen[s.Kind] && i < 5 {
				t.Fatalf("seed %d: %s twice before all others", seed, s.Kind)
			}
			seen[s.Kind] = true
			if s.For < Shortest || s.At+s.For > total-Shortest+time.Millisecond || i > 0 && s.At <= steps[i-1].At {
				t.Fatalf("seed %d: step %+v", seed, s)
			}
		}
	}
	if _, err := Schedule([]string{"kill-none"}, time.Minute, 1); err == nil {
		t.Fatal("an unknown kind is scheduled")
	}
	if steps, _ := Schedule(kinds, 5*time.Second, 1); len(steps) != 0 {
		t.Fatalf("%d faults when there is no time to meet them", len(steps))
	}
}

// TestBlocks: rot and the count of what is left must find blocks and nothing else.
func TestBlocks(t *testing.T) {
	data := t.TempDir()
	if p, err := Blocks(data, nil); err != nil || len(p) != 0 {
		t.Fatal(p, err)
	}
	for _, name := range []string{"blocks/00/ab/0123456789abcdef", "blocks/00/disk.json", "blocks/00/tmp/7"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(data, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(data, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p, err := Blocks(data, nil)
	if err != nil || len(p) != 1 || filepath.Base(p[0]) != "0123456789abcdef" {
		t.Fatal(p, err)
	}
}
