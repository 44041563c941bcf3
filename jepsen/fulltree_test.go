//go:build e2e

package jepsen

import (
	"fmt"
	"testing"
	"time"
)

// TestFullTrees is the main job at full size: whole trees of some thousand files, copied in
// through one mount, are byte-identical through another, while any one node is dead, after
// its return, and after all were killed at once; and in the end nothing is left. It takes
// minutes: `make e2e`.
func TestFullTrees(t *testing.T) {
	trees := map[string]string{"doc": "/usr/share/doc", "python3": "/usr/lib/python3"}
	late := map[string]string{} // written while a node was dead
	c := start(t, 3)
	one := mount(t, c)
	begin := time.Now()
	step := func(format string, a ...any) {
		t.Helper()
		t.Logf("%6.1f s  %s", time.Since(begin).Seconds(), fmt.Sprintf(format, a...))
	}
	compare := func(what string, trees map[string]string) {
		t.Helper()
		two, err := c.Mount() // a new one: it has nothing cached
		must(t, err)
		defer two.Close()
		for name, src := range trees {
			same(t, src, two.Dir+"/"+name)
		}
		step("compared %s", what)
	}
	sh(t, "cp -a /usr/share/doc /usr/lib/python3 %s/", one)
	step("copied %s files", sh(t, "find %s -type f | wc -l", one))
	compare("through a second mount", trees)
	for i, n := range c.Nodes() {
		n.Kill()
		step("killed node %d", i+1)
		compare("with one node dead", trees)
		name := fmt.Sprintf("python3-%d", i)
		sh(t, "cp -a /usr/lib/python3 %s/%s", one, name)
		// It lies on two nodes: while one of those is dead, it is not all there.
		late[name] = "/usr/lib/python3"
		step("copied a tree with one node dead")
		compare("that tree", map[string]string{name: late[name]})
		must(t, n.Start())
		must(t, n.WaitReady())
		compare("after its return", trees)
	}
	for _, n := range c.Nodes() {
		n.Kill()
	}
	must(t, c.Start())
	step("killed and started all three")
	compare("after all were killed at once", trees)
	compare("what was written with a node dead", late)
	run(t, c, "check")
	nothingIsLeft(t, c, one)
	step("removed and collected everything: nothing is left")
}
