// Package history records what clients asked and were answered, for checkers that
// know nothing else. One line of JSON is one operation; times are of one clock.
package history

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Outcome is what a client knows of its operation.
type Outcome string

// The outcomes. Fail is: surely without effect.
const (
	OK      Outcome = "ok"
	Fail    Outcome = "fail"
	Unknown Outcome = "unknown"
)

// Event is one operation. Which fields it has is its workload's matter.
type Event struct {
	Workload string            `json:"w"`
	Process  int               `json:"p"`
	Op       string            `json:"op"`
	Key      string            `json:"key,omitempty"`  // what the checker partitions by, such as a directory
	Name     string            `json:"name,omitempty"` // a file
	To       string            `json:"to,omitempty"`   // a rename's target
	Value    uint64            `json:"value,omitempty"`
	Other    uint64            `json:"other,omitempty"`
	Sum      uint64            `json:"sum,omitempty"`  // of content
	Size     int64             `json:"size,omitempty"` // of content, bytes
	Flag     bool              `json:"flag,omitempty"`
	List     map[string]uint64 `json:"list,omitempty"`
	Begin    int64             `json:"begin"` // ns since the run began
	End      int64             `json:"end"`
	Outcome  Outcome           `json:"outcome"`
	Err      string            `json:"err,omitempty"`  // in words
	Kind     string            `json:"kind,omitempty"` // of the error
}

// String is the event in a line for people.
func (e Event) String() string {
	s := fmt.Sprintf("%9.3fs +%-9s p%-3d %s %s", float64(e.Begin)/1e9,
		time.Duration(e.End-e.Begin).Round(10*time.Microsecond), e.Process, e.Op, e.Key)
	if e.Name != "" {
		s += " " + e.Name
	}
	if e.To != "" {
		s += " to " + e.To
	}
	if e.Value != 0 || e.Other != 0 {
		s += fmt.Sprintf(" value=%d other=%d", e.Value, e.Other)
	}
	if e.Size != 0 || e.Sum != 0 {
		s += fmt.Sprintf(" size=%d sum=%x", e.Size, e.Sum)
	}
	if e.List != nil {
		s += fmt.Sprint(" ", e.List)
	}
	s += ": " + string(e.Outcome)
	if e.Kind != "" {
		s += " (" + e.Kind + ")"
	}
	return s
}

// Recorder keeps events in memory and in a file. It is safe for concurrent use.
type Recorder struct {
	start time.Time

	mu     sync.Mutex
	events []Event
	open   map[string]int // operations under way, by workload
	file   *os.File
	out    *bufio.Writer
	err    error
}

// NewRecorder makes the file at path and starts the run's clock.
func NewRecorder(path string) (*Recorder, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &Recorder{start: time.Now(), file: f, out: bufio.NewWriterSize(f, 1<<20), open: map[string]int{}}, nil
}

// Now is the run's clock, in ns.
func (r *Recorder) Now() int64 { return int64(time.Since(r.start)) }

// Begin tells that an operation starts, and returns when.
func (r *Recorder) Begin(workload string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[workload]++
	return r.Now()
}

// End records an operation that Begin began.
func (r *Recorder) End(e Event) {
	e.End = r.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[e.Workload]--
	r.add(e)
}

// Add records something that is not an operation on the cluster, such as a final state.
func (r *Recorder) Add(e Event) {
	if e.End == 0 {
		e.End = r.Now()
	}
	if e.Begin == 0 {
		e.Begin = e.End
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(e)
}

func (r *Recorder) add(e Event) {
	r.events = append(r.events, e)
	b, err := json.Marshal(e)
	if err == nil {
		_, err = r.out.Write(append(b, '\n'))
	}
	if err != nil && r.err == nil {
		r.err = err
	}
}

// Events is a copy of what was recorded so far, in the order of the ends.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Event(nil), r.events...)
}

// Under is how many operations are under way now.
func (r *Recorder) Under() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, k := range r.open {
		n += k
	}
	return n
}

// Close writes the file out.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.err
	if ferr := r.out.Flush(); err == nil {
		err = ferr
	}
	if cerr := r.file.Close(); err == nil {
		err = cerr
	}
	return err
}

// Read reads what a Recorder wrote.
func Read(in io.Reader) ([]Event, error) {
	var events []Event
	for d := json.NewDecoder(in); ; {
		var e Event
		switch err := d.Decode(&e); err {
		case nil:
			events = append(events, e)
		case io.EOF:
			return events, nil
		default:
			return events, fmt.Errorf("history: line %d: %w", len(events)+1, err)
		}
	}
}

// Of picks the events of a workload.
func Of(events []Event, workload string) []Event {
	var some []Event
	for _, e := range events {
		if e.Workload == workload {
			some = append(some, e)
		}
	}
	return some
}

// Acknowledged counts what was acknowledged.
func Acknowledged(events []Event) int {
	n := 0
	for _, e := range events {
		if e.Outcome == OK {
			n++
		}
	}
	return n
}
