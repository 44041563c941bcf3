// Package check judges histories. A checker is a function of recorded events: it
// asks nobody, so that a recorded run can be judged again. Each returns verdicts
// with the smallest excerpt that shows the fault.
package check

import (
	"fmt"

	"eggsfs/jepsen/history"
)

// maxExcerpt is how many events of an excerpt a report shows.
const maxExcerpt = 14

// Verdict is a checker's word on one thing.
type Verdict struct {
	Check   string   `json:"check"`
	OK      bool     `json:"ok"`
	Text    string   `json:"text"`
	Excerpt []string `json:"excerpt,omitempty"`
	Visual  string   `json:"visual,omitempty"` // file of a picture, beside the report
}

func good(check, format string, a ...any) Verdict {
	return Verdict{Check: check, OK: true, Text: fmt.Sprintf(format, a...)}
}

func bad(check string, excerpt []history.Event, format string, a ...any) Verdict {
	v := Verdict{Check: check, Text: fmt.Sprintf(format, a...)}
	if len(excerpt) > maxExcerpt {
		v.Excerpt = append(v.Excerpt, fmt.Sprintf("… %d more before", len(excerpt)-maxExcerpt))
		excerpt = excerpt[len(excerpt)-maxExcerpt:]
	}
	for _, e := range excerpt {
		v.Excerpt = append(v.Excerpt, e.String())
	}
	return v
}

// Passed reports whether all verdicts are good. None at all is not.
func Passed(all []Verdict) bool {
	for _, v := range all {
		if !v.OK {
			return false
		}
	}
	return len(all) > 0
}
