package main

import "testing"

// TestSurvivesDomains: what explain promises holds whichever domains are lost, so the
// fullest ones count first.
func TestSurvivesDomains(t *testing.T) {
	for _, c := range []struct {
		say    string
		blocks map[string]int
		spare  int
		want   int
	}{
		{"4+2 on three nodes", map[string]int{"a": 2, "b": 2, "c": 2}, 2, 1},
		{"4+2 on six nodes", map[string]int{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1}, 2, 2},
		{"4+2 on two nodes", map[string]int{"a": 3, "b": 3}, 2, 0},
		{"4+2 with a block lost", map[string]int{"a": 2, "b": 2, "c": 1}, 1, 0},
		{"4+2 with all spare blocks lost", map[string]int{"a": 2, "b": 2}, 0, 0},
		{"4+2 with too many lost", map[string]int{"a": 2, "b": 1}, -1, 0},
		{"three copies", map[string]int{"a": 1, "b": 1, "c": 1}, 2, 2},
	} {
		if got := survivesDomains(c.blocks, c.spare); got != c.want {
			t.Errorf("%s: %d domains, want %d", c.say, got, c.want)
		}
	}
}

// TestWorst: the exit code is that of the worst file.
func TestWorst(t *testing.T) {
	whole, less, gone := &explained{Full: true, Readable: true}, &explained{Readable: true}, &explained{}
	for want, all := range [][]*explained{{whole, whole}, {whole, less, whole}, {less, gone, whole}} {
		code := 0
		if err := worst(all); err != nil {
			code = report(err)
		}
		if code != want {
			t.Errorf("%d, want %d", code, want)
		}
	}
}
