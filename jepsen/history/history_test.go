package history

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReadWhatWasWritten: a history is judged again from its file, so nothing may
// get lost on the way, with many clients at once.
func TestReadWhatWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	r, err := NewRecorder(path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for p := range 8 {
		wg.Go(func() {
			for i := range 100 {
				begin := r.Begin("names")
				r.End(Event{
					Workload: "names", Process: p, Op: "list", Key: "d", Begin: begin, Outcome: OK, Value: uint64(i),
					List: map[string]uint64{"a": 1},
				})
			}
		})
	}
	wg.Wait()
	r.Begin("names")
	if r.Under() != 1 {
		t.Fatalf("%d under way", r.Under())
	}
	r.Add(Event{Workload: "bank", Op: "final", Outcome: Unknown, Err: "no answer"})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	events, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r.Events(), events); d != "" {
		t.Fatal(d)
	}
	if len(Of(events, "bank")) != 1 || Acknowledged(events) != 800 {
		t.Fatalf("%d events of bank, %d acknowledged", len(Of(events, "bank")), Acknowledged(events))
	}
	for _, e := range events {
		if e.End < e.Begin {
			t.Fatalf("%+v ends before it begins", e)
		}
	}
}
