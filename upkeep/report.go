package upkeep

import (
	"fmt"
	"strings"
	"sync"

	"eggsfs/eggs"
)

// Report says what was collected, and what had to be left.
type Report struct {
	Versions    int `json:"versions"`    // past versions and deletion markers of names
	Directories int `json:"directories"` // removed directories
	Files       int `json:"files"`       // files without a name
	Spans       int `json:"spans"`       // spans of blocks
	Blocks      int `json:"blocks"`      // blocks erased

	Left    int      `json:"left"`    // files whose blocks could not be erased now
	Failed  int      `json:"failed"`  // steps that failed for another reason
	Reasons []string `json:"reasons"` // of both, in words, without repetition
}

// maxReasons bounds a report: a person reads it.
const maxReasons = 20

// Any reports whether anything was collected.
func (r Report) Any() bool { return r.Versions+r.Directories+r.Files+r.Spans > 0 }

// String is the report in words.
func (r Report) String() string {
	s := fmt.Sprintf("collected %d past versions, %d directories, %d files and %d blocks",
		r.Versions, r.Directories, r.Files, r.Blocks)
	if r.Left > 0 {
		s += fmt.Sprintf("; left %d files for later", r.Left)
	}
	if r.Failed > 0 {
		s += fmt.Sprintf("; %d steps failed", r.Failed)
	}
	if len(r.Reasons) > 0 {
		s += ": " + strings.Join(r.Reasons, "; ")
	}
	return s
}

// Add sums two reports.
func (r *Report) Add(o Report) {
	r.Versions += o.Versions
	r.Directories += o.Directories
	r.Files += o.Files
	r.Spans += o.Spans
	r.Blocks += o.Blocks
	r.Left += o.Left
	r.Failed += o.Failed
	for _, why := range o.Reasons {
		r.reason(why)
	}
}

func (r *Report) reason(why string) {
	for _, known := range r.Reasons {
		if known == why {
			return
		}
	}
	if len(r.Reasons) < maxReasons {
		r.Reasons = append(r.Reasons, why)
	}
}

// tally is a Report that many add to.
type tally struct {
	mu sync.Mutex
	r  Report
}

func (t *tally) add(f func(r *Report)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.r)
}

func (t *tally) report() Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.r
}

// failed notes a step that did not work. What somebody else has done meanwhile is no failure.
func (t *tally) failed(err error) {
	switch eggs.KindOf(err) {
	case eggs.NotExist, eggs.Conflict, eggs.Canceled, eggs.NotEmpty:
		return
	}
	t.add(func(r *Report) {
		r.Failed++
		r.reason(err.Error())
	})
}
