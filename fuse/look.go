package fuse

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// lookTick is how often a look at /proc is checked. Two ticks are what a close costs that
// belongs to an execve(2); a look takes microseconds otherwise.
const lookTick = 20 * time.Millisecond

// verdict is what a look at a closing process finds.
type verdict struct {
	held  bool // somebody holds the open file still
	wrote bool // the process opened or wrote it
	slain bool // it wrote, and is ending by a signal
}

// look asks who holds the draft, and how the process ends that closes it. It reports false
// when that cannot be known since the process executes another program: the kernel closes the
// close-on-exec descriptors with the process's /proc entry locked, so a look at it waits for
// the answer to that very close. Such a look is left behind, and ends when the close is answered.
func (d *draft) look(pid uint32, h *handle) (verdict, bool) {
	found, thread := make(chan verdict, 1), make(chan int, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		v := verdict{held: d.stillHeld(pid, h), wrote: d.wrote(pid)}
		// Killed is also one that has called close(2) and is only about to end: when a group of
		// processes is killed, the last close may be such a one's, of a file half written.
		v.slain = v.wrote && killed(pid)
		found <- v
	}()
	tick := time.NewTicker(lookTick)
	defer tick.Stop()
	tid, asleep := 0, 0
	for {
		select {
		case v := <-found:
			return v, true
		case tid = <-thread:
		case <-tick.C:
			if !waitsInKernel(tid) {
				asleep = 0
			} else if asleep++; asleep == 2 {
				return verdict{}, false
			}
		}
	}
}

// waitsInKernel reports whether a thread of this process waits for a lock in the kernel; one
// that has no processor does not.
func waitsInKernel(tid int) bool {
	text, err := os.ReadFile("/proc/self/task/" + strconv.Itoa(tid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, ok := bytes.Cut(text, []byte(") "))
	return ok && len(rest) > 0 && rest[0] == 'D'
}
