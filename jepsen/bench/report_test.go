package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden file")

// sample is a report with each kind of row and of target.
func sample() *Report {
	r := &Report{Machine: []string{"- a machine"}}
	r.add(Row{Key: "idle.cpu", Part: "Idle", What: "CPU", Unit: "% of a core", Values: []float64{10.5}})
	r.add(Row{
		Key: "mount.create", Part: "Mount", What: "mount: create", Unit: "/s", Values: []float64{1200, 900, 1000},
		Note: "p50 1.1 ms",
	})
	r.add(Row{Key: "loopback.create", Part: "Mount", What: "loopback: create", Unit: "/s", Values: []float64{1900, 2100}})
	r.add(Row{Key: "slow.create", Part: "Mount", What: "slow: create", Unit: "/s", Values: []float64{800}})
	r.fail("Mount", "JuiceFS", "juicefs.create", errors.New("403 Forbidden |\n not there"))
	r.add(Row{Key: "kill", Part: "Failover", What: "the worst", Unit: "s", Values: []float64{0.25, 0.6, 0.2}, Worst: true})
	return r
}

var sampleTargets = []Target{
	{Key: "idle.cpu", Op: "≤", Limit: 10},
	{Key: "mount.create", Op: "≥", Limit: 1000},
	{Key: "mount.create", Op: "≥", Times: 0.8, Of: "loopback.create", Say: "loopback"},
	{Key: "mount.create", Op: "≥", Times: 1, Of: "loopback.create", Or: "slow.create", Say: "the slower"},
	{Key: "mount.create", Op: "≥", Times: 2.5, Of: "juicefs.create", Say: "JuiceFS"},
	{Key: "mount.create", Op: "≥", Times: 6, Of: "seaweedfs.create", Say: "SeaweedFS"},
	{Key: "kill", Op: "<", Limit: 0.5},
}

// TestReport: people paste the table and scripts read the JSON, so both stay as
// they are; medians, the worst, ratios within a run, and failures must be told rightly.
func TestReport(t *testing.T) {
	r := sample()
	r.judge(sampleTargets)
	var table, text bytes.Buffer
	r.markdown(&table)
	if err := r.json(&text); err != nil {
		t.Fatal(err)
	}
	table.WriteString("\n")
	table.Write(text.Bytes())
	const golden = "testdata/report.golden"
	if *update {
		if err := os.WriteFile(golden, table.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(table.Bytes(), want) {
		t.Errorf("the report is\n%s\nwant\n%s", table.Bytes(), want)
	}
	var back Report
	if err := json.Unmarshal(text.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if row := back.find("mount.create"); row == nil || row.Value != 1000 || row.Verdict == "" {
		t.Errorf("from JSON: %+v", row)
	}
}

// TestMedian: of an even number of trials it is the mean of the middle, of none 0.
func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}} {
		before := slices.Clone(c.values)
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %g, want %g", c.values, got, c.want)
		}
		if !slices.Equal(before, c.values) {
			t.Errorf("median changed its argument: %v", c.values)
		}
	}
}

// TestQuantity: a figure shows no more digits than it has, and never loses those before the point.
func TestQuantity(t *testing.T) {
	for _, c := range []struct {
		v    float64
		unit string
		want string
	}{
		{0, "s", "0 s"},
		{0.2345, "s", "0.23 s"},
		{1.236, "ms", "1.24 ms"},
		{99.44, "ms", "99.4 ms"},
		{234.6, "/s", "235/s"},
		{1234567.5, "/s", "1,234,568/s"},
		{999.7, "MiB", "1,000 MiB"},
		{10.04, "s", "10 s"},
		{10.06, "s", "10.1 s"},
	} {
		if got := quantity(c.v, c.unit); got != c.want {
			t.Errorf("quantity(%g) = %q, want %q", c.v, got, c.want)
		}
	}
}

// TestMeets: a target at its edge is met only where it says "or equal", and a miss says by how much.
func TestMeets(t *testing.T) {
	for _, c := range []struct {
		v     float64
		op    string
		limit float64
		want  string
	}{
		{1, "<", 1, "**missed**: 1 ×"},
		{1, "≤", 1, "met"},
		{1, "≥", 1, "met"},
		{0.5, "≥", 1, "**missed**: 0.5 ×"},
		{1, "<", 0, "**missed**"},
		{0.9, "<", 1, "met"},
	} {
		if got := meets(c.v, c.op, c.limit); got != c.want {
			t.Errorf("meets(%g %s %g) = %q, want %q", c.v, c.op, c.limit, got, c.want)
		}
	}
}

// TestRows: a worker's figures become rows in the units that targets are in, and a part of a job that was not
// measured becomes a row that says so.
func TestRows(t *testing.T) {
	e := &env{rep: &Report{}}
	s := system{name: "mount", say: "mount:"}
	j := job{part: "p", variant: "large.1", say: "1 stream"}
	e.row(s, j, "write", []figure{{Rate: 100, CPU: 4}, {Rate: 300, CPU: 4}, {Rate: 200, CPU: 4}}, nil)
	e.row(s, j, "read", nil, errors.New("no room"))
	e.row(s, job{part: "p", variant: "1k.16", say: "16 threads"}, "create", []figure{{Rate: 5, P50: 1, P99: 2, CPU: 3}}, nil)
	e.rep.judge(targets)
	if r := e.rep.find("mount.large.1.write"); r == nil || r.Unit != "MB/s" || int(r.Value) != 209 {
		t.Errorf("200 MiB/s are %+v", r)
	}
	if r := e.rep.find("mount.large.1.write:cpu"); r == nil || int(r.Value*100) != 381 || r.Verdict != "met" {
		t.Errorf("4 ms a MiB are %+v", r)
	}
	if r := e.rep.find("mount.large.1.read"); r == nil || !strings.Contains(r.Failed, "no room") || r.Verdict != "" {
		t.Errorf("what failed is %+v", r)
	}
	if r := e.rep.find("mount.1k.16.create:cpu"); r == nil || !strings.Contains(r.Verdict, "missed") {
		t.Errorf("3 ms of CPU are %+v", r)
	}
	if r := e.rep.find("mount.1k.16.create"); r == nil || !strings.Contains(r.Note, "p99 2 ms") {
		t.Errorf("a create is %+v", r)
	}
}

// TestTargetsHaveRows: a target whose key no row can have would never be judged, so keys are made of known parts.
func TestTargetsHaveRows(t *testing.T) {
	systems := []string{"start", "idle", "library", "mount", "loopback", "plain", "juicefs", "seaweedfs", "failover", "large"}
	for _, target := range targets {
		for _, key := range []string{target.Key, target.Of, target.Or} {
			name, _, _ := strings.Cut(key, ".")
			if key != "" && !slices.Contains(systems, name) {
				t.Errorf("target %q: there is no %q", key, name)
			}
		}
		if (target.Of == "") == (target.Limit == 0) || (target.Of == "") != (target.Times == 0) {
			t.Errorf("target %+v: must have a limit, or a row to compare with", target)
		}
	}
}

// TestFailedWorker: a worker that cannot run gives failed rows, not an end of the run.
func TestFailedWorker(t *testing.T) {
	e := &env{rep: &Report{}, bin: t.TempDir(), begin: time.Now()}
	s := system{name: "mount", say: "mount:", pids: func() []int { return []int{1, 2} }}
	e.run(t.Context(), s, job{part: "p", variant: "1k.1", say: "x", only: []string{"create", "stat"}})
	e.rep.judge(targets)
	if met, missed, failed := e.rep.count(); failed != 2 || met != 0 || missed != 0 {
		t.Errorf("%d met, %d missed, %d failed: %+v", met, missed, failed, e.rep.Rows)
	}
}

// TestProc: CPU and memory come from /proc; a process that is gone counts nothing.
func TestProc(t *testing.T) {
	self := []int{os.Getpid()}
	if m := memory(self, "VmRSS"); m < 1 || m > memory(self, "VmHWM") {
		t.Errorf("memory of this process: %g MiB, at most %g", m, memory(self, "VmHWM"))
	}
	before := ticks(self)
	for x := 0; ticks(self) == before; x++ {
		if x > 10_000_000 {
			t.Fatal("CPU does not count up")
		}
	}
	if gone := ticks([]int{1 << 30}); gone != 0 {
		t.Errorf("a process that is not there used %g s", gone)
	}
}
