// Package report writes what a run was and what came of it: report.json for
// programs, report.html for people.
package report

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"time"

	"eggsfs/jepsen/check"
	"eggsfs/jepsen/history"
	"eggsfs/jepsen/nemesis"
)

// Report is one run.
type Report struct {
	Passed   bool               `json:"passed"`
	Seed     uint64             `json:"seed"`
	Nodes    int                `json:"nodes"`
	Time     time.Duration      `json:"time_ns"`
	Started  time.Time          `json:"started"`
	Version  string             `json:"version"`
	Command  string             `json:"command"`
	Nemeses  []string           `json:"nemeses"`
	Schedule []nemesis.Step     `json:"schedule"`
	Phases   []Phase            `json:"phases"`
	Loads    []Load             `json:"workloads"`
	Faults   []nemesis.Injected `json:"faults"`
	Verdicts []check.Verdict    `json:"verdicts"`
}

// Phase is a part of the run, in ns of its clock.
type Phase struct {
	Name  string `json:"name"`
	Begin int64  `json:"begin"`
	End   int64  `json:"end"`
}

// Load sums up a workload. Times are those of acknowledged operations.
type Load struct {
	Name    string        `json:"name"`
	OK      int           `json:"acknowledged"`
	Fail    int           `json:"failed"`
	Unknown int           `json:"unknown"`
	P50     time.Duration `json:"p50_ns"`
	P99     time.Duration `json:"p99_ns"`
	Worst   time.Duration `json:"worst_ns"`
	Gap     time.Duration `json:"longest_gap_ns"` // between two acknowledgements
}

// Count sums up the events of a workload.
func Count(name string, events []history.Event) Load {
	l := Load{Name: name}
	var took []int64
	var ends []int64
	for _, e := range events {
		if e.Op == "init" || e.Op == "final" {
			continue
		}
		switch e.Outcome {
		case history.OK:
			l.OK++
			took = append(took, e.End-e.Begin)
			ends = append(ends, e.End)
		case history.Fail:
			l.Fail++
		default:
			l.Unknown++
		}
	}
	slices.Sort(took)
	slices.Sort(ends)
	if n := len(took); n > 0 {
		l.P50, l.P99, l.Worst = time.Duration(took[n/2]), time.Duration(took[n*99/100]), time.Duration(took[n-1])
	}
	for i := 1; i < len(ends); i++ {
		l.Gap = max(l.Gap, time.Duration(ends[i]-ends[i-1]))
	}
	return l
}

// Failures are the verdicts that are not good.
func (r *Report) Failures() []check.Verdict {
	var some []check.Verdict
	for _, v := range r.Verdicts {
		if !v.OK {
			some = append(some, v)
		}
	}
	return some
}

// Write writes both files into folder dir.
func (r *Report) Write(dir string, events []history.Event) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "report.html"))
	if err != nil {
		return err
	}
	err = r.html(f, events)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
