package report

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"eggsfs/jepsen/check"
	"eggsfs/jepsen/history"
	"eggsfs/jepsen/nemesis"
)

// TestReport: a stranger who only has the page must find what failed, where, and how
// to run it again.
func TestReport(t *testing.T) {
	var events []history.Event
	for i := range int64(200) {
		e := history.Event{
			Workload: "names", Op: "lookup", Begin: i * 1e8, End: i*1e8 + 2e6 + i*1e4, Outcome: history.OK,
		}
		if i%10 == 0 {
			e.Outcome = history.Unknown
		}
		if i < 100 || i > 140 { // a gap of 4 s
			events = append(events, e)
		}
	}
	r := &Report{
		Seed: 77, Nodes: 3, Time: 20 * time.Second, Command: "eggsjepsen run --seed 77", Nemeses: []string{"kill-one"},
		Phases: []Phase{{"torment", 0, 20e9}}, Loads: []Load{Count("names", events)},
		Faults: []nemesis.Injected{{Kind: "kill-one", What: "n<2>", Begin: 10e9, End: 14e9, Met: 3}},
		Verdicts: []check.Verdict{
			{Check: "names", Text: "not linearizable", Excerpt: []string{"lookup a"}}, {Check: "bank", OK: true, Text: "fine"},
		},
	}
	l := r.Loads[0]
	if l.OK != 144 || l.Unknown != 15 || l.P50 < 2*time.Millisecond || l.Worst < l.P99 || l.Gap < 4*time.Second {
		t.Fatalf("%+v", l)
	}
	dir := t.TempDir()
	if err := r.Write(dir, events); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	html := string(b)
	for _, want := range []string{
		"failed</span>: 1 of 2", "not linearizable", "lookup a", "eggsjepsen run --seed 77", "n&lt;2&gt;", "<svg", "20 s</text>",
	} {
		if !strings.Contains(html, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Count(html, `fill="#888"`) != 1 || strings.Count(html, `fill="#4caf6a"`) < 25 {
		t.Error("the page lacks the fault or the rates")
	}
	b, err = os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var again Report
	if err := json.Unmarshal(b, &again); err != nil || again.Seed != 77 || len(again.Failures()) != 1 {
		t.Fatal(err, again)
	}
}
