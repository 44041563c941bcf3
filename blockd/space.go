package blockd

import (
	"fmt"
	"sync"

	"eggsfs/eggs"
	"eggsfs/internal/disk"
)

// volume is one file system, which several disk folders may share: ten
// simulated disks on one must not report its room ten times.
type volume struct {
	reserve uint64 // bytes left free for whoever else lives there, such as the log and state

	mu      sync.Mutex
	folders int    // that are served
	pending uint64 // bytes of puts that were admitted and are not finished
}

func (v *volume) join() {
	v.mu.Lock()
	v.folders++
	v.mu.Unlock()
}

func (v *volume) leave() {
	v.mu.Lock()
	v.folders--
	v.mu.Unlock()
}

// share is a folder's part of the room, the reserve taken off.
func (v *volume) share(space disk.Space) disk.Space {
	v.mu.Lock()
	n := uint64(max(v.folders, 1))
	v.mu.Unlock()
	return disk.Space{
		Capacity: space.Capacity / n, Free: (space.Free - min(space.Free, v.reserve)) / n,
	}
}

// admit lets a put of size bytes begin, or fails with Kind NoSpace. done must
// be called when the put is over.
func (v *volume) admit(f *disk.Folder, size int64) (done func(), err error) {
	space, err := f.Space()
	if err != nil {
		return nil, err
	}
	need := uint64(size)
	v.mu.Lock()
	defer v.mu.Unlock()
	// What others have written already is counted twice: near the reserve a put
	// is refused rather than the reserve touched.
	if space.Free < v.reserve+v.pending+need {
		return nil, eggs.E("blockd.Put", eggs.NoSpace, fmt.Sprintf(
			"%d bytes are free, %d are kept in reserve, %d are being written, %d are needed",
			space.Free, v.reserve, v.pending, need))
	}
	v.pending += need
	return func() {
		v.mu.Lock()
		v.pending -= need
		v.mu.Unlock()
	}, nil
}
