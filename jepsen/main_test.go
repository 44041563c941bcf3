package jepsen

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// binaries is the folder that the tests' binaries are in.
var binaries string

// TestMain builds the real binaries once: these tests know nothing else of them.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "eggs-bin-")
	if err != nil {
		panic(err)
	}
	cmd := exec.Command("go", "build", "-o", dir+"/", "eggsfs/cmd/...")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the binaries: %v\n%s", err, out)
		os.Exit(1)
	}
	binaries = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// start starts a cluster of n nodes that ends with the test.
func start(t *testing.T, n int, args ...string) *Cluster {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts need root here")
	}
	dir, err := os.MkdirTemp("", "eggs-e2e-")
	must(t, err)
	c, err := New(Config{Bin: binaries, Dir: dir, Nodes: n, Args: args})
	must(t, err)
	t.Cleanup(func() {
		c.Close()
		if t.Failed() {
			for _, n := range c.Nodes() {
				t.Logf("node %d's log ends:\n%s", n.Index+1, n.LogTail())
			}
		}
		os.RemoveAll(dir)
	})
	must(t, c.Start())
	return c
}

func mount(t *testing.T, c *Cluster) string {
	t.Helper()
	m, err := c.Mount()
	must(t, err)
	return m.Dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sh runs a shell script and fails the test with what it printed.
func sh(t *testing.T, format string, a ...any) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	script := fmt.Sprintf(format, a...)
	out, err := exec.CommandContext(ctx, "bash", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// run runs the command line and fails the test if it fails.
func run(t *testing.T, c *Cluster, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	out, err := c.Eggs(ctx, args...)
	must(t, err)
	return string(out)
}

// blockFiles counts the files under a node's block folders that hold blocks.
func blockFiles(t *testing.T, n *Node) int {
	t.Helper()
	count := 0
	must(t, filepath.WalkDir(filepath.Join(n.Data, "blocks"), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && isBlock(path) {
			count++
		}
		return err
	}))
	return count
}

// isBlock tells a block's file by its name: 16 hexadecimal digits.
func isBlock(path string) bool {
	name := filepath.Base(path)
	name = strings.TrimSuffix(name, filepath.Ext(name))
	return len(name) == 16 && strings.Trim(name, "0123456789abcdef") == ""
}

// nothingIsLeft is invariant 41: when everything is removed and collected, no
// inode but the root, no file without a name, and no block is left anywhere.
func nothingIsLeft(t *testing.T, c *Cluster, mnt string) {
	t.Helper()
	run(t, c, "policy", "set", "/", "snapshot=0")
	sh(t, "rm -rf %s/* %s/.[!.]* 2>/dev/null; test -z \"$(ls -A %s)\"", mnt, mnt, mnt)
	deadline := time.Now().Add(4 * time.Minute)
	for {
		run(t, c, "gc")
		left := strings.TrimSpace(run(t, c, "-o", "json", "transient-files"))
		blocks := 0
		for _, n := range c.Nodes() {
			blocks += blockFiles(t, n)
		}
		if left == "[]" && blocks == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left after everything was removed and collected: %d blocks, transient files %s", blocks, left)
		}
		time.Sleep(time.Second)
	}
	run(t, c, "check")
	if left := run(t, c, "check", "--count"); strings.TrimSpace(left) != "1 directories, 0 files, 0 edges, 0 blocks" {
		t.Fatalf("left in the shards: %s", left)
	}
}
