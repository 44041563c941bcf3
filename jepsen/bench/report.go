package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Row is one thing measured.
type Row struct {
	Key    string    `json:"key,omitempty"` // what targets and ratios name it by
	Part   string    `json:"part"`
	What   string    `json:"what"`
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"` // one a trial
	Worst  bool      `json:"-"`      // the worst value counts, not the median
	Note   string    `json:"note,omitempty"`
	Failed string    `json:"failed,omitempty"` // why there are no values

	Value   float64 `json:"value"` // the median, or the worst
	Target  string  `json:"target,omitempty"`
	Verdict string  `json:"verdict,omitempty"` // met, missed, or empty
}

// Target is what a row's value must be: below or above a limit, or a multiple of another row's value, or of the
// lower of two.
type Target struct {
	Key   string
	Op    string  // "<", "≤" or "≥"
	Limit float64 // in the row's unit; or Times the value of the row Of
	Times float64
	Of    string
	Or    string
	Say   string // what Of is called
}

// Report is a whole run.
type Report struct {
	Machine []string `json:"machine"` // lines
	Rows    []*Row   `json:"rows"`
}

// add appends a row and returns it.
func (r *Report) add(row Row) *Row {
	r.Rows = append(r.Rows, &row)
	return &row
}

// fail appends a row that says why something was not measured.
func (r *Report) fail(part, what, key string, err error) {
	r.add(Row{Part: part, What: what, Key: key, Failed: strings.Join(strings.Fields(err.Error()), " ")})
}

func (r *Report) find(key string) *Row {
	i := slices.IndexFunc(r.Rows, func(row *Row) bool { return row.Key == key })
	if key == "" || i < 0 {
		return nil
	}
	return r.Rows[i]
}

// judge fills in each row's value, targets and verdict.
func (r *Report) judge(targets []Target) {
	for _, row := range r.Rows {
		if row.Value = median(row.Values); row.Worst && len(row.Values) > 0 {
			row.Value = slices.Max(row.Values)
		}
	}
	for _, row := range r.Rows {
		var say, verdict []string
		for _, t := range targets {
			if t.Key != row.Key {
				continue
			}
			limit, text := t.Limit, fmt.Sprintf("%s %s", t.Op, quantity(t.Limit, row.Unit))
			if t.Of != "" {
				of := r.find(t.Of)
				if of == nil {
					continue // that was not part of this run
				}
				if of.Failed != "" {
					say = append(say, fmt.Sprintf("%s %g × %s, which failed", t.Op, t.Times, t.Say))
					continue
				}
				limit = t.Times * of.Value
				if or := r.find(t.Or); or != nil && or.Failed == "" {
					limit = min(limit, t.Times*or.Value)
				}
				text = fmt.Sprintf("%s %g × %s = %s", t.Op, t.Times, t.Say, quantity(limit, row.Unit))
			}
			say = append(say, text)
			if row.Failed == "" {
				verdict = append(verdict, meets(row.Value, t.Op, limit))
			}
		}
		row.Target, row.Verdict = strings.Join(say, "; "), strings.Join(verdict, "; ")
	}
}

// meets says "met", or by how much it was missed.
func meets(v float64, op string, limit float64) string {
	switch {
	case op == "<" && v < limit, op == "≤" && v <= limit, op == "≥" && v >= limit:
		return "met"
	case limit == 0:
		return "**missed**"
	}
	return fmt.Sprintf("**missed**: %.2g ×", v/limit)
}

// markdown prints the tables, one a part.
func (r *Report) markdown(w io.Writer) {
	for _, line := range r.Machine {
		fmt.Fprintln(w, line)
	}
	part := ""
	for _, row := range r.Rows {
		if row.Part != part {
			part = row.Part
			fmt.Fprintf(w, "\n## %s\n\n| | measured | with | target | |\n|---|---|---|---|---|\n", part)
		}
		measured := quantity(row.Value, row.Unit)
		if row.Failed != "" {
			measured = "failed: " + strings.ReplaceAll(row.Failed, "|", "/")
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", row.What, measured, row.Note, row.Target, row.Verdict)
	}
	met, missed, failed := r.count()
	fmt.Fprintf(w, "\n%d targets met, %d missed; %d measurements failed.\n", met, missed, failed)
}

func (r *Report) count() (met, missed, failed int) {
	for _, row := range r.Rows {
		m := strings.Count(row.Verdict, "missed")
		missed += m
		if row.Verdict != "" {
			met += strings.Count(row.Verdict, "met")
		}
		if row.Failed != "" {
			failed++
		}
	}
	return met, missed, failed
}

func (r *Report) json(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// quantity prints a value with its unit, with three figures or all before the point.
func quantity(v float64, unit string) string {
	text := ""
	switch {
	case v >= 999.5:
		text = thousands(int64(v + 0.5))
	case v >= 100:
		text = fmt.Sprintf("%.0f", v)
	case v >= 10:
		text = strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	case v >= 1 || v == 0:
		text = fmt.Sprintf("%.3g", v)
	default:
		text = fmt.Sprintf("%.2g", v)
	}
	if strings.HasPrefix(unit, "/") {
		return text + unit
	}
	return text + " " + unit
}

func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// median is the middle of the values, 0 without any; of an even number the mean of the two in the middle.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
