package harness

import (
	"fmt"
	"time"

	"eggsfs/jepsen/check"
	"eggsfs/jepsen/history"
	"eggsfs/jepsen/nemesis"
	"eggsfs/jepsen/report"
)

// judge has the checkers look at the history, and asks whether the run was worth it.
func (r *run) judge() {
	begin := r.rec.Now()
	r.say("check")
	events := r.rec.Events()
	for _, w := range r.loads {
		some := history.Of(events, w.Name())
		for _, v := range w.Check(some, r.o.Out) {
			r.verdict(v)
		}
		r.rep.Loads = append(r.rep.Loads, report.Count(w.Name(), some))
	}
	r.meet(events)
	for _, v := range worth(r.o.Time, r.rep.Loads, r.rep.Faults, len(r.o.Nemeses) > 0) {
		r.verdict(v)
	}
	r.phase("check", begin)
	r.rep.Passed = check.Passed(r.rep.Verdicts)
}

// meet counts, for each fault that does not count for itself, the operations that
// were under way in its time. A fault that only packets or calls count must have been
// met by those.
func (r *run) meet(events []history.Event) {
	for i := range r.rep.Faults {
		f := &r.rep.Faults[i]
		if f.Met > 0 || counts(f.Kind) {
			continue
		}
		for _, e := range events {
			if e.Op != "init" && e.Op != "final" && e.Begin < f.End && e.End > f.Begin {
				f.Met++
			}
		}
	}
}

// counts tells of kinds that count packets or calls.
func counts(kind string) bool {
	for _, k := range nemesis.Kinds() {
		if k.Name == kind {
			return k.Counts()
		}
	}
	return false
}

// worth says whether a run has shown anything: with few faults, or few
// acknowledged operations, passing means nothing.
func worth(total time.Duration, loads []report.Load, faults []nemesis.Injected, wanted bool) []check.Verdict {
	var all []check.Verdict
	done := 0
	for _, f := range faults {
		switch {
		case f.Err != "":
			all = append(all, check.Verdict{Check: "fault", Text: fmt.Sprintf("%s (%s): %s", f.Kind, f.What, f.Err)})
		case f.Met == 0:
			text := fmt.Sprintf("%s (%s): nothing met it", f.Kind, f.What)
			all = append(all, check.Verdict{Check: "fault", Text: text})
		default:
			done++
		}
	}
	if total >= time.Minute {
		if wanted && done < leastFaults {
			all = append(all, check.Verdict{
				Check: "worth", Text: fmt.Sprintf("%d faults, a run needs %d to show anything", done, leastFaults),
			})
		}
		for _, l := range loads {
			if l.OK < leastAcked {
				all = append(all, check.Verdict{
					Check: "worth", Text: fmt.Sprintf("%s: %d acknowledged operations, a run needs %d to show anything",
						l.Name, l.OK, leastAcked),
				})
			}
		}
	}
	if len(all) == 0 {
		all = append(all, check.Verdict{Check: "faults", OK: true, Text: fmt.Sprintf("%d faults, each was met", done)})
	}
	return all
}
