package jepsen

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tree copies some thousand real files into a mount; the full trees that the
// issue names are make e2e's, since they take minutes.
func tree(t *testing.T, mnt string) string {
	t.Helper()
	src := t.TempDir()
	sh(t, `cp -a /usr/share/doc/a* %[1]s/ 2>/dev/null || true
		cp -a /usr/lib/python3* %[1]s/ 2>/dev/null || true
		cp -a /usr/local/go/src/encoding %[1]s/ 2>/dev/null || true
		head -c 40000000 /dev/urandom >%[1]s/big; : >%[1]s/empty; ln -s big %[1]s/link
		test $(find %[1]s -type f | wc -l) -gt 100`, src)
	sh(t, "cp -a %s %s/tree", src, mnt)
	return src
}

// same fails unless a tree is byte-identical, with modes, owners, times and symlinks.
func same(t *testing.T, src, copied string) {
	t.Helper()
	list := `cd %s && find . -printf '%%P %%y %%m %%U:%%G %%l %%s %%T@\n' | sed -E 's/^(.* d .*) [0-9]+ [0-9.]+$/\1/' | sort`
	a, b := sh(t, list, src), sh(t, list, copied)
	if a != b {
		x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
		for i := range min(len(x), len(y)) {
			if x[i] != y[i] {
				t.Fatalf("the copy differs: want %q, got %q (%d and %d entries)", x[i], y[i], len(x), len(y))
			}
		}
		t.Fatalf("the copy differs: %d entries, want %d", len(y), len(x))
	}
	sh(t, "diff -r --no-dereference %s %s", src, copied)
}

// TestTreeSurvivesNodes is the main job: a real tree copied in through one
// mount is byte-identical through another, also while any one node is dead,
// after its return, and after all were killed at once.
func TestTreeSurvivesNodes(t *testing.T) {
	c := start(t, 3)
	one, two := mount(t, c), mount(t, c)
	src := tree(t, one)
	same(t, src, two+"/tree")
	for i, n := range c.Nodes() {
		n.Kill()
		same(t, src, two+"/tree")
		sh(t, "cp -a %s/encoding %s/during%d", src, one, i)
		must(t, n.Start())
		must(t, n.WaitReady())
		same(t, src+"/encoding", fmt.Sprintf("%s/during%d", two, i))
	}
	for _, n := range c.Nodes() {
		n.Kill()
	}
	must(t, c.Start())
	same(t, src, two+"/tree")
	for i := range c.Nodes() {
		same(t, src+"/encoding", fmt.Sprintf("%s/during%d", two, i))
	}
	run(t, c, "check")
	nothingIsLeft(t, c, one)
}

// TestVisibility: nobody sees a half-written file, close means visible
// everywhere, and a killed writer leaves no name.
func TestVisibility(t *testing.T) {
	c := start(t, 3)
	one, two := mount(t, c), mount(t, c)
	f, err := os.Create(one + "/slow")
	must(t, err)
	for range 5 {
		if _, err := f.Write(make([]byte, 10<<20)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(two + "/slow"); !os.IsNotExist(err) {
			t.Fatalf("the other mount sees a file that is being written: %v", err)
		}
	}
	must(t, f.Close())
	if st, err := os.Stat(two + "/slow"); err != nil || st.Size() != 50<<20 {
		t.Fatalf("after close the other mount sees %v, %v", st, err)
	}
	for i := range 200 { // close(2) then another mount, at once, many times
		name := fmt.Sprintf("/f%d", i)
		must(t, os.WriteFile(one+name, []byte(name), 0o644))
		if b, err := os.ReadFile(two + name); err != nil || string(b) != name {
			t.Fatalf("%s through the other mount: %q, %v", name, b, err)
		}
	}
	w := exec.Command("bash", "-c", "exec >"+one+"/killed; head -c 30000000 /dev/zero; echo written >&2; sleep 100")
	w.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	said, err := w.StderrPipe()
	must(t, err)
	must(t, w.Start())
	if _, err := said.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	must(t, syscall.Kill(-w.Process.Pid, syscall.SIGKILL))
	_ = w.Wait()
	time.Sleep(300 * time.Millisecond)
	for _, m := range []string{one, two} {
		if _, err := os.Stat(m + "/killed"); !os.IsNotExist(err) {
			t.Fatalf("a killed writer left a name: %v", err)
		}
	}
}
