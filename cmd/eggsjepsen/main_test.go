package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"eggsfs/internal/mutant"
	"eggsfs/jepsen/check"
	"eggsfs/jepsen/nemesis"
	"eggsfs/jepsen/report"
	"eggsfs/jepsen/workload"
)

func call(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := newRoot()
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

// TestList: what can be asked for is listed, all of it, and what mixed stands for exists.
func TestList(t *testing.T) {
	out, err := call("list")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range workload.All() {
		if !strings.Contains(out, "  "+w.Name()+" ") || workload.About[w.Name()] == "" {
			t.Errorf("%s is not explained", w.Name())
		}
	}
	for _, k := range nemesis.Kinds() {
		if !strings.Contains(out, k.About) {
			t.Errorf("%s is not explained", k.Name)
		}
	}
	if strings.Count(out, "* ") != len(mixed)+1 { // and the word of explanation
		t.Errorf("mixed has %d faults, listed are:\n%s", len(mixed), out)
	}
}

// TestRefusals: what cannot be run is refused before anything is started, as "could not
// run" and not as "failed".
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"run", "--nemesis", "kill-none", "--out", dir},
		{"run", "--nemesis", "none", "--bin", dir, "--out", dir},
		{"run", "--workload", "x", "--out", dir},
		{"run", "surplus"},
		{"judge", filepath.Join(dir, "none")},
	} {
		if out, err := call(args...); err == nil || errors.Is(err, errFailed) {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

// TestMountIO: a file goes through the process that does what mounts are for, piece by
// piece, and comes back the same; a missing one is told as such.
func TestMountIO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var in, out bytes.Buffer
	for _, op := range []string{"read", "begin", "rest", "close", "read"} {
		fmt.Fprintf(&in, `{"op":%q,"path":%q,"name":"n","size":1001,"dup":true}`+"\n", op, path)
	}
	cmd := newRoot()
	cmd.SetIn(&in)
	cmd.SetOut(&out)
	cmd.SetArgs([]string{mountIO})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 5 || !strings.Contains(lines[0], `"errno":2`) || !strings.Contains(lines[4], `"size":1001`) {
		t.Fatal(out.String())
	}
	for _, l := range lines[1:4] {
		if l != "{}" {
			t.Fatal(out.String())
		}
	}
}

// TestHunts: each planted bug is looked for, by workloads and faults that exist, and an
// ordinary build refuses to look.
func TestHunts(t *testing.T) {
	hunted := map[string]bool{}
	for _, h := range hunts {
		hunted[h.name] = true
		if _, err := nemesis.Schedule(h.nemeses, time.Minute, 1); err != nil {
			t.Error(err)
		}
		for _, w := range h.workloads {
			if workload.About[w] == "" {
				t.Errorf("%s: there is no workload %s", h.name, w)
			}
		}
	}
	for _, name := range mutant.All {
		if !hunted[name] {
			t.Errorf("nobody looks for %s", name)
		}
	}
	if _, err := call("mutants"); !mutant.Built && (err == nil || errors.Is(err, errFailed)) {
		t.Errorf("an ordinary build looks for planted bugs: %v", err)
	}
	r := &report.Report{Verdicts: []check.Verdict{{Check: "worth"}, {Check: "fault"}, {Check: "bank", OK: true}}}
	if by := finder(r); by != "" {
		t.Errorf("a run that is worth nothing finds a bug: %s", by)
	}
	r.Verdicts = append(r.Verdicts, check.Verdict{Check: "names", Text: "stale\nand more"})
	if by := finder(r); by != "names: stale" {
		t.Errorf("found by %q", by)
	}
}

// TestJudge: a recorded history is judged again, and its verdict is the exit code.
func TestJudge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	put := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(`{"w":"names","op":"create","key":"0-0","name":"a","value":1,"begin":1,"end":2,"outcome":"ok"}` + "\n")
	if out, err := call("judge", path); err != nil || !strings.HasSuffix(out, "1 passed, 0 failed\n") {
		t.Fatal(out, err)
	}
	put(`{"w":"names","op":"lookup","key":"0-0","name":"a","value":1,"begin":1,"end":2,"outcome":"ok"}` + "\n")
	if out, err := call("judge", path); !errors.Is(err, errFailed) || !strings.HasSuffix(out, "0 passed, 1 failed\n") {
		t.Fatal(out, err)
	}
	put("{")
	if _, err := call("judge", path); err == nil || errors.Is(err, errFailed) {
		t.Fatal("half a history is judged")
	}
}
