package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const workerLimit = 5 * time.Minute // of one worker, however it goes

// system is something to measure.
type system struct {
	name string       // the first word of its rows' keys
	say  string       // what people call it
	args []string     // where the worker finds it
	pids func() []int // the processes whose CPU counts
}

// figure is one action's result, as `eggs bench -o json` prints it.
type figure struct {
	Action string  `json:"action"`
	Count  int     `json:"count"`
	Rate   float64 `json:"per_second"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	CPU    float64 `json:"cpu_ms_each"`
	Peak   float64 `json:"peak_mib"`
}

// work runs one worker on s and returns its figures.
func (e *env) work(ctx context.Context, s system, args ...string) ([]figure, error) {
	return e.workFor(ctx, workerLimit, s, args...)
}

// workFor is work for at most limit.
func (e *env) workFor(ctx context.Context, limit time.Duration, s system, args ...string) ([]figure, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	all := append([]string{"bench", "-o", "json", "--pids", words(s.pids())}, s.args...)
	cmd := exec.CommandContext(ctx, filepath.Join(e.bin, "eggs"), append(all, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("eggs bench %s: %w: %s", strings.Join(args, " "), err, last(talk.String(), 300))
	}
	var figures []figure
	if err := json.Unmarshal(out.Bytes(), &figures); err != nil {
		return nil, fmt.Errorf("eggs bench %s: %w", strings.Join(args, " "), err)
	}
	if len(figures) == 0 {
		return nil, fmt.Errorf("eggs bench %s: no figures", strings.Join(args, " "))
	}
	return figures, nil
}

// last is the end of s.
func last(s string, n int) string {
	s = strings.TrimSpace(s)
	return s[max(0, len(s)-n):]
}

func words(pids []int) string {
	var w []string
	for _, p := range pids {
		w = append(w, strconv.Itoa(p))
	}
	return strings.Join(w, " ")
}

// job is what is measured together by one worker, some times.
type job struct {
	part    string
	variant string // the middle of its rows' keys
	say     string // "1 KiB, 16 threads"
	only    []string
	args    []string
	hide    []string          // actions that only prepare
	names   map[string]string // what actions are called, with what they are done to; else action and say are
	trials  int
}

// run measures j on s and adds a row for each action. A failure is a row for each action as well.
func (e *env) run(ctx context.Context, s system, j job) map[string][]figure {
	if ctx.Err() == nil {
		e.talk("%s %s", s.say, j.say)
	}
	got := map[string][]figure{}
	var failed error
	for range max(j.trials, 1) {
		args := append([]string{"--only", strings.Join(j.only, ",")}, j.args...)
		if !slices.Contains(j.args, "--reuse") && !slices.Contains(j.args, "--keep") {
			e.folders++
			args = append(args, "--keep", "t"+strconv.Itoa(e.folders))
		}
		figures, err := e.work(ctx, s, args...)
		if err != nil {
			failed = err
			break
		}
		for _, f := range figures {
			got[f.Action] = append(got[f.Action], f)
		}
	}
	if ctx.Err() != nil {
		return got // interrupted: finish says so
	}
	for _, a := range j.only {
		if !slices.Contains(j.hide, a) {
			e.row(s, j, a, got[a], failed)
		}
	}
	return got
}

// row adds what one action gave: its rate, and its latency and CPU where a target asks for them.
func (e *env) row(s system, j job, action string, f []figure, failed error) {
	key := s.name + "." + j.variant + "." + action
	what := fmt.Sprintf("%s %s, %s", s.say, action, j.say)
	if name := j.names[action]; name != "" {
		what = s.say + " " + name
	}
	if len(f) == 0 {
		if failed == nil {
			failed = fmt.Errorf("the worker measured no %s", action)
		}
		e.rep.fail(j.part, what, key, failed)
		return
	}
	pick := func(g func(figure) float64) (v []float64) {
		for _, x := range f {
			v = append(v, g(x))
		}
		return v
	}
	cpu, p50 := pick(func(x figure) float64 { return x.CPU }), pick(func(x figure) float64 { return x.P50 })
	p99 := pick(func(x figure) float64 { return x.P99 })
	rate, cpuUnit := pick(func(x figure) float64 { return x.Rate }), "ms"
	row := Row{Key: key, Part: j.part, What: what, Unit: "/s", Values: rate}
	switch action {
	case "write", "read", "reread":
		row.Unit, cpuUnit = "MB/s", "s a GB"
		for i := range rate {
			rate[i] *= mibToMB
			cpu[i] *= gbInMiB / 1000
		}
		row.Note = "CPU " + quantity(median(cpu), cpuUnit)
	case "list", "names":
		row.Unit = "entries/s"
		for i := range cpu {
			cpu[i] *= 1000
		}
		cpuUnit = "µs"
		row.Note = "CPU " + quantity(median(cpu), cpuUnit) + " each"
	default:
		row.Note = fmt.Sprintf("p50 %s, p99 %s, CPU %s each", quantity(median(p50), "ms"),
			quantity(median(p99), "ms"), quantity(median(cpu), cpuUnit))
	}
	e.rep.add(row)
	for _, more := range []Row{
		{Key: key + ":p50", What: what + ": p50", Unit: "ms", Values: p50},
		{Key: key + ":p99", What: what + ": p99", Unit: "ms", Values: p99},
		{Key: key + ":cpu", What: what + ": CPU", Unit: cpuUnit, Values: cpu},
	} {
		if slices.ContainsFunc(targets, func(t Target) bool { return t.Key == more.Key }) {
			more.Part = j.part
			e.rep.add(more)
		}
	}
}

// ticks is the CPU that processes used so far, in seconds.
func ticks(pids []int) float64 {
	total := 0.0
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		if f := strings.Fields(rest); len(f) > 12 {
			user, _ := strconv.ParseFloat(f[11], 64)
			system, _ := strconv.ParseFloat(f[12], 64)
			total += (user + system) / 100
		}
	}
	return total
}

// memory is a line of /proc/PID/status, VmRSS or VmHWM, of all processes together, in MiB.
func memory(pids []int, line string) float64 {
	total := 0.0
	for _, pid := range pids {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, rest, _ := strings.Cut(string(text), line+":")
		if f := strings.Fields(rest); len(f) > 0 {
			kib, _ := strconv.ParseFloat(f[0], 64)
			total += kib / 1024
		}
	}
	return total
}
