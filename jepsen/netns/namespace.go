package netns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// within runs f with the calling thread in a namespace. The thread ends with f, so
// that no other goroutine ever runs on it.
func within(ns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is not to be used again
		done <- enter(ns, f)
	}()
	return <-done
}

func enter(ns string, f func() error) error {
	fd, err := os.Open("/var/run/netns/" + ns)
	if err != nil {
		return fmt.Errorf("netns: %w", err)
	}
	defer fd.Close()
	if err := unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("netns: enter %s: %w", ns, err)
	}
	return f()
}
