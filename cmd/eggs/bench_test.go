package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// runBench runs the verb as a user would and returns its figures by action.
func runBench(t *testing.T, args ...string) (map[string]benchResult, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out := os.Stdout
	os.Stdout = w
	cmd := newRoot()
	cmd.SetArgs(append([]string{"bench", "-o", "json"}, args...))
	err = cmd.Execute()
	os.Stdout = out
	w.Close()
	text, rerr := io.ReadAll(r)
	if rerr != nil {
		t.Fatal(rerr)
	}
	if err != nil {
		return nil, err
	}
	var all []benchResult
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	got := map[string]benchResult{}
	for _, b := range all {
		got[b.Action] = b
	}
	return got, nil
}

// TestBenchFolder: every action does as much as it says, and the folder of the run is gone afterwards.
func TestBenchFolder(t *testing.T) {
	dir := t.TempDir()
	got, err := runBench(t, "--dir", dir, "--callers", "4", "--count", "50", "--stream", "2", "--streams", "2",
		"--random", "30", "--fsync", "--dirs", "3")
	if err != nil {
		t.Fatal(err)
	}
	for action, count := range map[string]int{
		"create": 50, "stat": 50, "mkdir": 50, "names": 100, "list": 100, "write": 4, "read": 4, "reread": 4,
		"random": 30, "unlink": 50, "rmdir": 50,
	} {
		if r := got[action]; r.Count != count || r.Rate <= 0 {
			t.Errorf("%s: %+v, want %d", action, r, count)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestBenchReuse: what --keep left can be measured again, through another mount, and a limit of time ends
// an action without breaking those that build on it.
func TestBenchReuse(t *testing.T) {
	dir := t.TempDir()
	got, err := runBench(t, "--dir", dir, "--keep", "x", "--only", "create,write", "--count", "20", "--stream", "1")
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	got, err = runBench(t, "--dir", dir, "--reuse", "x", "--only", "stat,list,read", "--count", "20", "--stream", "1")
	if err != nil || len(got) != 3 || got["stat"].Count != 20 || got["list"].Count != 20 || got["read"].Count != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	got, err = runBench(t, "--dir", dir, "--only", "create,unlink", "--count", "10000000", "--limit", "20ms")
	if err != nil || got["create"].Count < 1 || got["create"].Count != got["unlink"].Count && got["unlink"].Count < 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := os.Truncate(filepath.Join(dir, "x", "large0"), 5); err != nil {
		t.Fatal(err)
	}
	if _, err = runBench(t, "--dir", dir, "--reuse", "x", "--only", "read", "--stream", "1"); err == nil {
		t.Error("a large file that is not whole was read without complaint")
	}
}

// TestBenchUsage: what makes no sense is told, before anything is made.
func TestBenchUsage(t *testing.T) {
	for _, c := range []struct{ args, say string }{
		{"--callers 0", "must be positive"},
		{"--size -1", "must not be negative"},
		{"--only create,fly", "fly"},
		{"--reuse x", "--reuse needs --only"},
		{"--pids 1,x", "is not a process id"},
	} {
		_, err := runBench(t, append(strings.Fields(c.args), "--dir", t.TempDir())...)
		var usage usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("bench %s: %v, want usage with %q", c.args, err, c.say)
		}
	}
}
