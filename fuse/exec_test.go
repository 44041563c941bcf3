package fuse

import (
	"os/exec"
	"testing"
	"time"
)

// A process that makes a file and runs another program meanwhile: the new program's start closes
// the descriptor while the kernel holds its /proc entry locked, so a close that looks there
// would wait for itself, and with it everything that looks at that process.
func TestExecWhileWriting(t *testing.T) {
	r := newRoom(t)
	f := r.create("f")
	_, err := f.WriteString("a")
	r.ok(err)
	ended := make(chan error, 1)
	go func() {
		for range 3 {
			if err := exec.Command("true").Run(); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	select {
	case err := <-ended:
		r.ok(err)
	case <-time.After(30 * time.Second):
		t.Fatal("the kernel waits for the mount, and the mount for the kernel")
	}
	r.absent("f")
	_, err = f.WriteString("b")
	r.ok(err)
	r.ok(f.Close())
	r.reads("f", "ab")

	// Who replaces itself by another program ends its file by that.
	r.sh(`perl -e 'use POSIX; open(F, ">", "g"); syswrite(F, "x"); exec("true")'`)
	r.eventually("published at the end of the handle", func() bool {
		out, err := exec.Command("cat", r.other("g")).Output()
		return err == nil && string(out) == "x"
	})
}
