package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

const (
	millionLimit = 10 * time.Minute // to make the files; what is there then counts
	enoughFiles  = 300_000          // with fewer, what a server takes once hides what a file takes
)

// million is `make bench-large`: the create rate in an empty cluster and in a full one, and what a file costs in
// the servers' memory.
func (e *env) million(ctx context.Context) {
	const part = "Many files"
	files := pick(e, 1_000_000, 50_000)
	if n, err := strconv.Atoi(os.Getenv("BENCH_FILES")); err == nil && n > 0 {
		files = n
	}
	c, err := e.cluster(3)
	if err != nil {
		e.rep.fail(part, "start of the cluster", "", err)
		return
	}
	defer c.close()
	s := c.viaLibrary()
	some := func(key, say string) {
		row := Row{Key: key, Part: part, What: say, Unit: "/s"}
		for range e.trials {
			e.folders++
			f, err := e.work(ctx, s, "--only", "create", "--keep", "t"+strconv.Itoa(e.folders), "--size", "0",
				"--callers", "256", "--count", strconv.Itoa(10_000))
			if err != nil {
				e.rep.fail(part, say, key, err)
				return
			}
			row.Values = append(row.Values, f[0].Rate)
			row.Note = "CPU " + quantity(f[0].CPU, "ms") + " each in the last trial"
		}
		e.rep.add(row)
	}
	e.talk("10,000 files in an empty cluster, %d times", e.trials)
	some("large.before", "creates of 10,000 empty files, 256 callers, in an empty cluster")
	before := memory(c.pids(), "VmRSS")
	e.talk("%d files", files)
	limit := millionLimit.String()
	f, err := e.workFor(ctx, millionLimit+time.Minute, s, "--only", "create", "--keep", "million", "--size", "0",
		"--callers", "256", "--count", strconv.Itoa(files), "--limit", limit)
	if err != nil {
		e.rep.fail(part, thousands(int64(files))+" files", "large.fill", err)
		return
	}
	note := ""
	if f[0].Count < files {
		note = "asked for " + thousands(int64(files)) + ", but the time of " + limit + " was up"
	}
	e.rep.add(Row{
		Key: "large.fill", Part: part, What: "creates up to " + thousands(int64(f[0].Count)) + " files", Unit: "/s",
		Values: []float64{f[0].Rate}, Note: note,
	})
	after := memory(c.pids(), "VmRSS")
	some("large.after", "creates of 10,000 more, in the full cluster")
	e.rep.add(Row{
		Part: part, What: "memory of all three servers, before and after", Unit: "MiB", Values: []float64{after},
		Note: "before " + quantity(before, "MiB"),
	})
	const more = "memory of all three servers, more per million files"
	if f[0].Count < enoughFiles {
		e.rep.fail(part, more, "large.memory", fmt.Errorf("%d files are too few to tell", f[0].Count))
		return
	}
	e.rep.add(Row{
		Key: "large.memory", Part: part, What: more, Unit: "MiB",
		Values: []float64{max(0, after-before) * 1e6 / float64(f[0].Count)},
	})
}
