package node

import (
	"strings"
	"testing"
	"time"

	"eggsfs/eggs"
)

// Why: a wrong judgement stops a healthy node from leading, or lets one lead whose clock expires
// everything at once.
func TestJudgeClocks(t *testing.T) {
	const h = time.Hour
	for _, c := range []struct {
		what  string
		ahead []time.Duration
		was   bool
		want  clockVerdict
	}{
		{"alone", nil, false, clockVerdict{}},
		{"one other that agrees", []time.Duration{time.Second}, false, clockVerdict{}},
		{"one other that does not", []time.Duration{h}, false, clockVerdict{unsure: true}},
		{"we are an hour behind two", []time.Duration{h, h}, false, clockVerdict{off: true, by: -h}},
		{"we are an hour ahead of two", []time.Duration{-h, -h}, false, clockVerdict{off: true, by: h}},
		{"another one is off", []time.Duration{h, 0}, false, clockVerdict{others: 1}},
		{"all three differ and we are in the middle", []time.Duration{h, -h}, false, clockVerdict{others: 2}},
		{"all three differ and we are last", []time.Duration{h, 2 * h}, false, clockVerdict{
			off: true, by: -h, others: 1,
		}},
		{"two against two", []time.Duration{0, h, h}, false, clockVerdict{unsure: true}},
		{"two of five are off", []time.Duration{0, h, 0, -h}, false, clockVerdict{others: 2}},
		{"nine and a half seconds are right", []time.Duration{9500e6, 9500e6}, false, clockVerdict{}},
		{"but not enough to be trusted again", []time.Duration{9500e6, 9500e6}, true, clockVerdict{
			off: true, by: -9500e6,
		}},
		{"nearer than nine it is", []time.Duration{8500e6, 8500e6}, true, clockVerdict{}},
	} {
		if got := judgeClocks(c.ahead, c.was); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.what, got, c.want)
		}
	}
}

// Why: what is wrong must be said, and while any clock is wrong nothing may be taken for expired.
func TestClockProblems(t *testing.T) {
	n := &Node{id: eggs.NodeID(0x1234567890abcdef)}
	for _, c := range []struct {
		v      clockVerdict
		words  string
		pauses bool
	}{
		{clockVerdict{}, "", false},
		{clockVerdict{off: true, by: time.Hour}, "1h0m0s ahead", true},
		{clockVerdict{off: true, by: -time.Minute}, "1m0s behind", true},
		{clockVerdict{unsure: true}, "nobody can tell", true},
		{clockVerdict{others: 1}, "", true},
	} {
		p := n.clockProblem(c.v)
		if (p == nil) != (c.words == "") || p != nil && !strings.Contains(p.What, c.words) {
			t.Errorf("%+v: %v, want %q", c.v, p, c.words)
		}
		if c.v.pauses() != c.pauses {
			t.Errorf("%+v pauses: %v", c.v, c.v.pauses())
		}
	}
}
