package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"eggsfs/jepsen/history"
)

//go:embed report.tmpl
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"seconds": func(ns int64) string { return fmt.Sprintf("%.2f s", float64(ns)/1e9) },
	"took":    func(d time.Duration) string { return d.Round(10 * time.Microsecond).String() },
	"join":    func(s []string) string { return strings.Join(s, ", ") },
}).Parse(page))

// Size of a picture, in units of its own.
const (
	width  = 1000.0
	height = 90.0
)

// picture is one workload over time.
type picture struct {
	Name      string
	Width     float64
	Height    float64
	Bands     []band   // faults
	OK        []bar    // acknowledged operations a second
	Bad       []bar    // refused or of unknown outcome
	Latency   []circle // the slowest of each bin
	MostRate  int
	MostTook  string
	Seconds   []tick
	BinLength string
}

type (
	band struct {
		X, W  float64
		Title string
	}
	bar struct {
		X, Y, W, H float64
		Title      string
	}
	circle struct {
		X, Y  float64
		Title string
	}
	tick struct {
		X    float64
		Text string
	}
)

func (r *Report) html(w io.Writer, events []history.Event) error {
	var end int64
	for _, p := range r.Phases {
		end = max(end, p.End)
	}
	end = max(end, 1)
	var pictures []picture
	for _, l := range r.Loads {
		pictures = append(pictures, r.draw(l.Name, history.Of(events, l.Name), end))
	}
	return pageTemplate.Execute(w, struct {
		*Report
		Pictures []picture
		Bad      int
	}{r, pictures, len(r.Failures())})
}

// draw puts a workload's events into bins of time.
func (r *Report) draw(name string, events []history.Event, end int64) picture {
	bin := max(int64(time.Second/2), end/400)
	bins := int(end/bin) + 1
	ok, bad, worst := make([]int, bins), make([]int, bins), make([]int64, bins)
	mostRate, mostTook := 1, int64(1)
	for _, e := range events {
		i := int(min(e.End, end) / bin)
		if e.Outcome == history.OK {
			ok[i]++
		} else {
			bad[i]++
		}
		worst[i] = max(worst[i], e.End-e.Begin)
		mostRate, mostTook = max(mostRate, ok[i]+bad[i]), max(mostTook, worst[i])
	}
	p := picture{
		Name: name, Width: width, Height: height, MostTook: time.Duration(mostTook).Round(time.Millisecond).String(),
		MostRate: int(float64(mostRate) / (float64(bin) / 1e9)), BinLength: time.Duration(bin).String(),
	}
	at := func(ns int64) float64 { return width * float64(ns) / float64(end) }
	for _, f := range r.Faults {
		p.Bands = append(p.Bands, band{at(f.Begin), max(1, at(f.End-f.Begin)), f.Kind + ": " + f.What})
	}
	w := at(bin)
	for i := range bins {
		x := at(int64(i) * bin)
		h := height * float64(ok[i]) / float64(mostRate)
		title := fmt.Sprintf("%.1f s: %d acknowledged, %d not", float64(int64(i)*bin)/1e9, ok[i], bad[i])
		if ok[i] > 0 {
			p.OK = append(p.OK, bar{x, height - h, w, h, title})
		}
		if bad[i] > 0 {
			hb := height * float64(bad[i]) / float64(mostRate)
			p.Bad = append(p.Bad, bar{x, height - h - hb, w, hb, title})
		}
		if worst[i] > 0 { // on a logarithmic scale from 0.1 ms
			y := math.Log(math.Max(1, float64(worst[i])/1e5)) / math.Log(math.Max(2, float64(mostTook)/1e5))
			p.Latency = append(p.Latency, circle{
				x + w/2, height * (1 - y), "slowest: " + time.Duration(worst[i]).Round(100*time.Microsecond).String(),
			})
		}
	}
	step := niceStep(end)
	for s := int64(0); s <= end; s += step {
		p.Seconds = append(p.Seconds, tick{at(s), fmt.Sprintf("%d s", s/int64(time.Second))})
	}
	return p
}

// niceStep is a round number of seconds that cuts the time into about ten.
func niceStep(end int64) int64 {
	steps := []int64{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600}
	i := slices.IndexFunc(steps, func(s int64) bool { return s*int64(time.Second)*12 >= end })
	if i < 0 {
		i = len(steps) - 1
	}
	return steps[i] * int64(time.Second)
}
