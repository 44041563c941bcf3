package check

import (
	"cmp"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"eggsfs/jepsen/history"
)

// Names are all the names that the workload uses in a directory; the model's state
// is what each of them leads to.
var Names = []string{"a", "b", "c", "d"}

// state is a directory: by name, the token of what it leads to, 0 for nothing.
type state [4]uint64

func index(name string) int { return slices.Index(Names, name) }

// The events of the names workload:
//
//	create   Value is its token; ok: Flag when it replaced something, which was Other if that is known
//	excl     as create, but the name was free; a refusal says nothing, as reservations are not seen
//	symlink  Value; the name was free; Exist: it was not. mkdir likewise
//	unlink   NotExist: nothing was there. rmdir likewise
//	rename   to To; NotExist: nothing was there; Flag: must not replace, Exist: something was there
//	lookup   ok: Value was there, or nothing was when Value is 0
//	list     ok: List is all
//
// An event of Outcome Fail has Kind; a kind that says nothing of the state is not
// to be recorded as more than a failure.
func step(s state, e history.Event) (bool, state) {
	n, to := index(e.Name), index(e.To)
	if e.Outcome == history.Unknown {
		return true, perhaps(s, e, n, to)
	}
	if e.Outcome == history.Fail {
		return refused(s, e, n, to), s
	}
	switch e.Op {
	case "create":
		legal := e.Flag == (s[n] != 0) && (e.Other == 0 || e.Other == s[n])
		s[n] = e.Value
		return legal, s
	case "excl", "symlink", "mkdir":
		legal := s[n] == 0
		s[n] = e.Value
		return legal, s
	case "unlink", "rmdir":
		legal := s[n] != 0
		s[n] = 0
		return legal, s
	case "rename":
		legal := s[n] != 0 && (!e.Flag || s[to] == 0)
		s[to], s[n] = s[n], 0
		return legal, s
	case "lookup":
		return s[n] == e.Value, s
	case "list":
		for i, name := range Names {
			if s[i] != e.List[name] {
				return false, s
			}
		}
		return true, s
	}
	return false, s
}

// perhaps is the state after an operation of unknown outcome, where it happens. It
// may happen after everything else, which is as good as never.
func perhaps(s state, e history.Event, n, to int) state {
	switch e.Op {
	case "create":
		s[n] = e.Value
	case "excl", "symlink", "mkdir":
		if s[n] == 0 {
			s[n] = e.Value
		}
	case "unlink", "rmdir":
		s[n] = 0
	case "rename":
		if s[n] != 0 && (!e.Flag || s[to] == 0) {
			s[to], s[n] = s[n], 0
		}
	}
	return s
}

// refused reports whether a refusal is right in this state.
func refused(s state, e history.Event, n, to int) bool {
	switch {
	case e.Kind == "does not exist" && e.Op != "create":
		return s[n] == 0
	case e.Kind == "exists already" && (e.Op == "symlink" || e.Op == "mkdir"):
		return s[n] != 0
	case e.Kind == "exists already" && e.Op == "rename":
		return s[to] != 0
	}
	return true
}

var model = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(s, _, output any) (bool, any) {
		legal, next := step(s.(state), output.(history.Event))
		return legal, next
	},
	Equal:             func(a, b any) bool { return a.(state) == b.(state) },
	DescribeOperation: func(_, output any) string { return describe(output.(history.Event)) },
	DescribeState:     func(s any) string { return fmt.Sprint(s.(state)) },
}

func describe(e history.Event) string {
	s := e.Op + " " + e.Name
	if e.To != "" {
		s += " " + e.To
	}
	return fmt.Sprintf("%s %d %v: %s %s", s, e.Value, e.List, e.Outcome, e.Kind)
}

// Linearizable checks each directory, which is an event's Key, for itself. budget is
// for one directory; a check that takes longer has not passed. A picture of the
// first fault goes into folder dir, unless that is empty.
func Linearizable(check string, events []history.Event, budget time.Duration, dir string) []Verdict {
	parts := map[string][]history.Event{}
	for _, e := range events {
		if e.Op != "final" && (e.Outcome != history.Unknown || e.Op != "lookup" && e.Op != "list") {
			parts[e.Key] = append(parts[e.Key], e)
		}
	}
	var faults []Verdict
	for _, key := range sortedKeys(parts) {
		part := parts[key]
		switch porcupine.CheckOperationsTimeout(model, operations(part, math.MaxInt64), budget) {
		case porcupine.Illegal:
			faults = append(faults, illegal(check, key, part, budget, dir))
		case porcupine.Unknown:
			faults = append(faults, bad(check, nil, "directory %s: not decided within %s: %d operations, %d of "+
				"unknown outcome", key, budget, len(part), len(part)-known(part)))
		}
		if len(faults) == 3 { // one is enough to fail, a few help to understand
			break
		}
	}
	if len(faults) > 0 {
		return faults
	}
	return []Verdict{good(check, "%d operations in %d directories are linearizable, %d of unknown outcome",
		len(events), len(parts), len(events)-known(events))}
}

func known(events []history.Event) int {
	n := 0
	for _, e := range events {
		if e.Outcome != history.Unknown {
			n++
		}
	}
	return n
}

// operations is the history as it was known at a time: what had not ended is unknown.
func operations(events []history.Event, until int64) []porcupine.Operation {
	var ops []porcupine.Operation
	for _, e := range events {
		if e.Begin > until {
			continue
		}
		if e.Outcome == history.Fail && refusalSaysNothing(e) {
			continue
		}
		if e.End > until {
			if e.Op == "lookup" || e.Op == "list" {
				continue
			}
			e.Outcome = history.Unknown
		}
		op := porcupine.Operation{ClientId: e.Process, Input: e.Op, Output: e, Call: e.Begin, Return: e.End}
		if e.Outcome == history.Unknown {
			op.Return = math.MaxInt64
		}
		ops = append(ops, op)
	}
	return ops
}

func refusalSaysNothing(e history.Event) bool {
	return e.Kind != "does not exist" && e.Kind != "exists already"
}

// illegal finds the shortest beginning of the history that is not linearizable.
func illegal(check, key string, events []history.Event, budget time.Duration, dir string) Verdict {
	events = slices.Clone(events)
	slices.SortFunc(events, func(a, b history.Event) int { return cmp.Compare(a.End, b.End) })
	low, high := 0, len(events)-1
	for low < high {
		mid := (low + high) / 2
		if porcupine.CheckOperationsTimeout(model, operations(events, events[mid].End), budget) == porcupine.Illegal {
			high = mid
		} else {
			low = mid + 1
		}
	}
	part := operations(events, events[high].End)
	var excerpt []history.Event
	for _, op := range part {
		excerpt = append(excerpt, op.Output.(history.Event))
	}
	v := bad(check, excerpt, "directory %s is not linearizable: no order of the first %d operations explains the "+
		"last answer", key, len(part))
	if dir != "" {
		v.Visual = "not-linearizable-" + filepath.Base(key) + ".html"
		_, info := porcupine.CheckOperationsVerbose(model, part, budget)
		if err := porcupine.VisualizePath(model, info, filepath.Join(dir, v.Visual)); err != nil {
			v.Visual = ""
		}
	}
	return v
}

func sortedKeys[T any](m map[string]T) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
