package lossy

import (
	"context"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"
)

// Calls are the kinds of call that a Fault is for, as bits.
type Calls uint8

// The calls that can be made to fail.
const (
	Read  Calls = 1
	Write Calls = 2 // of bytes, and truncation
	Sync  Calls = 4
	Names Calls = 8 // create, mkdir, rename, link, unlink
	All   Calls = 15
)

// Fault is what is wrong with the disk now.
type Fault struct {
	Calls  Calls
	Match  string        // only paths that contain it
	Chance float64       // of each call; 0 is always
	Delay  time.Duration // before the call
	Stuck  bool          // the call waits until the fault is taken away
	Errno  syscall.Errno // what it fails with, after Delay; 0: it works
	Full   bool          // what needs room fails with ENOSPC, and none is shown free
	gone   chan struct{}
}

// SetFault puts a fault in place of the present one; nil for none. What is stuck goes on.
func (m *FS) SetFault(f *Fault) {
	if f != nil {
		c := *f
		c.gone = make(chan struct{})
		f = &c
	}
	if old := m.fault.Swap(f); old != nil {
		close(old.gone)
	}
}

// Met is how many calls faults have hit so far.
func (m *FS) Met() uint64 { return m.met.Load() }

// meet waits or fails as the present fault has it.
func (m *FS) meet(ctx context.Context, call Calls, path func() string) syscall.Errno {
	f := m.fault.Load()
	if f == nil || f.Calls&call == 0 || f.Chance > 0 && rand.Float64() >= f.Chance ||
		f.Match != "" && !strings.Contains(path(), f.Match) {
		return 0
	}
	if f.Full && call&(Write|Names) == 0 {
		return 0
	}
	m.met.Add(1)
	if f.Stuck {
		select {
		case <-f.gone:
			return 0
		case <-ctx.Done():
			return syscall.EINTR
		}
	}
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-f.gone:
		case <-ctx.Done():
			return syscall.EINTR
		}
	}
	if f.Full {
		return syscall.ENOSPC
	}
	return f.Errno
}
