package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestHelp keeps help the manual: every verb says in a line what it does, and
// those that can fail in more than one way say their exit codes.
func TestHelp(t *testing.T) {
	var walk func(c *cobra.Command)
	seen := 0
	walk = func(c *cobra.Command) {
		seen++
		if c.Short == "" {
			t.Errorf("eggs %s does not say what it does", c.Name())
		}
		if strings.HasSuffix(c.Short, ".") {
			t.Errorf("eggs %s: the line ends with a full stop", c.Name())
		}
		for _, s := range c.Commands() {
			walk(s)
		}
	}
	root := newRoot()
	walk(root)
	if seen < 15 {
		t.Fatalf("%d verbs only", seen)
	}
	if !strings.Contains(root.Long, "Exit codes") {
		t.Error("eggs help does not list the exit codes")
	}
}

// TestExitCodes: scripts rely on them, so each kind keeps its own.
func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		say  string
		err  error
		want int
	}{
		{"a path that is not absolute is usage", func() error { _, err := cleanPath("x"); return err }(), exitUsage},
		{"a verb's own code is kept", codeError{2}, 2},
		{"no error is ok", nil, exitOK},
	} {
		if got := report(c.err); got != c.want {
			t.Errorf("%s: %d, want %d", c.say, got, c.want)
		}
	}
}

// TestParsePolicies: a wrong tag or value is told, never guessed.
func TestParsePolicies(t *testing.T) {
	p, clear, err := parsePolicies([]string{"snapshot=0", "inline=4KiB", "cell=inherit"})
	if err != nil || p.Snapshot.GetKeepForNs() != 0 || p.Snapshot == nil || p.Inline.GetMaxSize() != 4096 ||
		clear != clearStripe {
		t.Fatalf("%+v, clear %d, %v", p, clear, err)
	}
	for _, bad := range []string{"nonsense=1", "snapshot=-1h", "cell=5", "inline=1GiB", "snapshot=x"} {
		if _, _, err := parsePolicies([]string{bad}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
