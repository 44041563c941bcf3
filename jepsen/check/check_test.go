package check

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"eggsfs/jepsen/history"
)

// ev is an event of a names history, from its words: "begin end op name [to] outcome".
func ev(begin, end int64, op, name string, value uint64, more ...func(*history.Event)) history.Event {
	e := history.Event{
		Op: op, Key: "d", Name: name, Value: value, Begin: begin, End: end, Outcome: history.OK,
	}
	for _, f := range more {
		f(&e)
	}
	return e
}

func unknown(e *history.Event)  { e.Outcome = history.Unknown }
func replaces(e *history.Event) { e.Flag = true }
func to(name string) func(*history.Event) {
	return func(e *history.Event) { e.To = name }
}

func fails(kind string) func(*history.Event) {
	return func(e *history.Event) { e.Outcome, e.Kind = history.Fail, kind }
}

func lists(l map[string]uint64) func(*history.Event) {
	return func(e *history.Event) { e.List = l }
}

// TestLinearizable: the checker must accept every history that some order explains,
// and no other. Each case is one of the ways in which a file system goes wrong.
func TestLinearizable(t *testing.T) {
	for _, c := range []struct {
		name   string
		ok     bool
		events []history.Event
	}{
		{"in order", true, []history.Event{
			ev(1, 2, "create", "a", 1), ev(3, 4, "lookup", "a", 1), ev(5, 6, "rename", "a", 0, to("b")),
			ev(7, 8, "lookup", "a", 0), ev(9, 10, "list", "", 0, lists(map[string]uint64{"b": 1})),
			ev(11, 12, "create", "b", 2, replaces), ev(13, 14, "unlink", "b", 0), ev(15, 16, "unlink", "b", 0,
				fails("does not exist")),
		}},
		{"stale read", false, []history.Event{
			ev(1, 2, "create", "a", 1), ev(3, 4, "create", "a", 2, replaces), ev(5, 6, "lookup", "a", 1),
		}},
		{"read of what is being written", true, []history.Event{
			ev(1, 9, "create", "a", 1), ev(2, 3, "lookup", "a", 0), ev(4, 5, "lookup", "a", 1),
		}},
		{"new, then old", false, []history.Event{
			ev(1, 9, "create", "a", 1), ev(2, 3, "lookup", "a", 1), ev(4, 5, "lookup", "a", 0),
		}},
		{"lost", false, []history.Event{
			ev(1, 2, "create", "a", 1), ev(3, 4, "list", "", 0, lists(map[string]uint64{})),
		}},
		{"unknown happens late", true, []history.Event{
			ev(1, 2, "create", "a", 1, unknown), ev(3, 4, "lookup", "a", 0), ev(5, 6, "lookup", "a", 1),
		}},
		{"unknown never happens", true, []history.Event{
			ev(1, 2, "unlink", "a", 0, unknown), ev(3, 4, "create", "a", 1), ev(5, 6, "lookup", "a", 1),
		}},
		{"unknown does not happen twice", false, []history.Event{
			ev(1, 2, "create", "a", 1, unknown), ev(3, 4, "lookup", "a", 1), ev(5, 6, "unlink", "a", 0),
			ev(7, 8, "lookup", "a", 0), ev(9, 10, "lookup", "a", 1),
		}},
		{"two make one name", false, []history.Event{
			ev(1, 5, "symlink", "a", 1), ev(2, 6, "symlink", "a", 2),
		}},
		{"one of two is refused", true, []history.Event{
			ev(1, 5, "symlink", "a", 1), ev(2, 6, "symlink", "a", 2, fails("exists already")),
		}},
		{"refused for no reason", false, []history.Event{
			ev(1, 2, "mkdir", "a", 1, fails("exists already")),
		}},
		{"a refusal that says nothing", true, []history.Event{
			ev(1, 2, "mkdir", "a", 1, fails("locked by a transaction")),
			ev(1, 2, "excl", "a", 1, fails("exists already")),
		}},
		{"half a rename", false, []history.Event{
			ev(1, 2, "create", "a", 1), ev(3, 4, "rename", "a", 0, to("b")),
			ev(5, 6, "list", "", 0, lists(map[string]uint64{"a": 1, "b": 1})),
		}},
		{"a refused replacement", true, []history.Event{
			ev(1, 2, "create", "a", 1), ev(3, 4, "create", "b", 2),
			ev(5, 6, "rename", "a", 0, to("b"), replaces, fails("exists already")), ev(7, 8, "lookup", "b", 2),
		}},
		{"replaced unseen", false, []history.Event{
			ev(1, 2, "create", "a", 1), ev(3, 4, "create", "a", 2),
		}},
	} {
		v := Linearizable("names", c.events, 5*time.Second, "")
		if Passed(v) != c.ok {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}

// TestLinearizableAtSize makes long concurrent histories by running a true directory,
// with lost answers: the checker must decide them within its time, and must see one
// wrong answer among them.
func TestLinearizableAtSize(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for round := range 4 {
		events := simulate(rng, 400, 6)
		if v := Linearizable("names", events, 10*time.Second, ""); !Passed(v) {
			t.Fatalf("round %d: a true history: %+v", round, v)
		}
		for i := range slices.Backward(events) {
			if e := &events[i]; e.Op == "lookup" && e.Value != 0 && e.Outcome == history.OK {
				e.Value = 999_999
				break
			}
		}
		dir := t.TempDir()
		v := Linearizable("names", events, 10*time.Second, dir)
		if Passed(v) || len(v[0].Excerpt) == 0 || v[0].Visual == "" {
			t.Fatalf("round %d: a false history: %+v", round, v)
		}
		if last := v[0].Excerpt[len(v[0].Excerpt)-1]; !strings.Contains(strings.Join(v[0].Excerpt, "\n"), "999999") {
			t.Fatalf("the excerpt does not show the wrong answer: %s", last)
		}
	}
}

// simulate runs clients on one directory that does everything right at one moment of
// each operation, and loses some answers.
func simulate(rng *rand.Rand, ops, clients int) []history.Event {
	var s state
	var events []history.Event
	free := make([]int64, clients) // when each client's last operation ended
	now := int64(0)
	for i := range ops {
		p := rng.IntN(clients)
		now = max(now+1, free[p]+1)
		e := history.Event{Process: p, Key: "d", Name: Names[rng.IntN(4)], Begin: now - rng.Int64N(3)}
		e.Begin = max(e.Begin, free[p])
		e.End = now + rng.Int64N(20)
		free[p] = e.End + 1
		e.Outcome, e.Value = history.OK, uint64(i+1)
		n := index(e.Name)
		switch rng.IntN(5) {
		case 0, 1:
			e.Op, e.Value = "lookup", s[n]
		case 2:
			e.Op, e.Flag, e.Other = "create", s[n] != 0, s[n]
			s[n] = e.Value
		case 3:
			if e.Op, e.Value = "unlink", 0; s[n] == 0 {
				e.Outcome, e.Kind = history.Fail, "does not exist"
			}
			s[n] = 0
		case 4:
			e.Op, e.Value, e.List = "list", 0, map[string]uint64{}
			for k, v := range s {
				if v != 0 {
					e.List[Names[k]] = v
				}
			}
		}
		if rng.IntN(50) == 0 {
			e.Outcome = history.Unknown
		}
		events = append(events, e)
	}
	return events
}

// TestSets goes through the faults that the other checkers are for, and through a
// history without any.
func TestSets(t *testing.T) {
	type E = history.Event
	ok, fail, unk := history.OK, history.Fail, history.Unknown
	w := E{Op: "write", Name: "f", Sum: 7, Size: 3, Begin: 10, End: 20, Outcome: ok}
	with := func(e E, f func(*E)) E { f(&e); return e }
	read := E{Op: "read", Name: "f", Sum: 7, Size: 3, Begin: 30, End: 40, Outcome: ok}
	gone := E{Op: "read", Name: "f", Begin: 30, End: 40, Outcome: fail, Kind: "does not exist"}
	final := with(read, func(e *E) { e.Op = "final" })
	files := func(e ...E) []Verdict { return Files("files", e) }
	moved := E{Op: "move", Name: "x", Outcome: unk}
	start := E{Op: "init", Name: "x", Value: 5, Outcome: ok}
	in := func(dir string, list map[string]uint64) E { return E{Op: "final", Key: dir, List: list, Outcome: ok} }
	conserved := func(e ...E) []Verdict { return Conserved("bank", append([]E{start, moved}, e...)) }
	hash := func(node string, index, value uint64) E {
		return E{Op: "hash", Key: "3", Name: node, Other: index, Value: value, Outcome: ok}
	}
	for i, c := range []struct {
		ok bool
		v  []Verdict
	}{
		{true, files(w, read, final)},
		{true, files(w, with(gone, func(e *E) { e.Begin = 15 }), final)},
		{false, files(w, gone, final)},
		{false, files(w, read)},
		{false, files(w, final, with(read, func(e *E) { e.Sum = 8 }))},
		{false, files(w, final, with(read, func(e *E) { e.End, e.Begin = 5, 4 }))},
		{false, files(read)},
		{false, files(with(w, func(e *E) { e.Outcome = fail }), read)},
		{true, files(with(w, func(e *E) { e.Outcome = unk }), read)},
		{true, files(with(w, func(e *E) { e.Outcome = unk }), gone)},
		{false, files(w, with(final, func(e *E) { e.Outcome, e.Kind = fail, "corrupt" }))},
		{true, conserved(in("a", map[string]uint64{"x": 5}), in("b", nil))},
		{false, conserved(in("a", nil), in("b", nil))},
		{false, conserved(in("a", map[string]uint64{"x": 5}), in("b", map[string]uint64{"x": 5}))},
		{false, conserved(in("a", map[string]uint64{"x": 6}))},
		{false, conserved(in("a", map[string]uint64{"x": 5, "y": 1}))},
		{false, conserved()},
		{true, Chase("tree", []E{{Op: "chase", Other: 3, Value: 4, Outcome: ok}, {Op: "chase", Flag: true, Outcome: ok}})},
		{false, Chase("tree", []E{{Op: "chase", Other: 3, Value: 3, Outcome: ok}})},
		{true, Tree("tree", []E{{Op: "final", Key: "/", Value: 1, List: map[string]uint64{"d": 2}, Outcome: ok}})},
		{false, Tree("tree", []E{{Op: "final", Key: "/", Value: 1, Sum: 1, Other: 2, Outcome: ok}})},
		{false, Tree("tree", []E{{Op: "final", Key: "/", List: map[string]uint64{"d": 2, "e": 2}, Outcome: ok}})},
		{false, Tree("tree", nil)},
		{false, Tree("tree", []E{{Op: "mkdir", Value: 3, Outcome: ok}, in("/", map[string]uint64{"d": 2})})},
		{true, Tree("tree", []E{
			{Op: "mkdir", Value: 3, Outcome: ok}, {Op: "rmdir", Value: 3, Outcome: unk}, in("/", nil),
		})},
		{true, Replicas("replicas", []E{hash("n1", 5, 1), hash("n2", 5, 1), hash("n2", 6, 2)})},
		{false, Replicas("replicas", []E{hash("n1", 5, 1), hash("n2", 5, 2)})},
		{false, Replicas("replicas", []E{hash("n1", 5, 1), hash("n2", 6, 2)})},
	} {
		if Passed(c.v) != c.ok {
			t.Errorf("case %d: %s", i, fmt.Sprintf("%+v", c.v))
		}
	}
	if Passed(nil) {
		t.Error("no verdict is a pass")
	}
}
