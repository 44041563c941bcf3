package wire

import "sync"

// maxIdleWorkers is how many goroutines wait for the next request: enough for a burst to
// find one, few enough that their stacks (some 16 KiB each) do not matter.
const maxIdleWorkers = 128

// workers runs each task in a goroutine of its own, and uses goroutines again:
// decoding a message needs a deep stack, and growing a new goroutine's
// costs more than the rest of a small request.
type workers struct {
	mu     sync.Mutex
	idle   []chan func() // last in, first out: its stack is still warm
	closed bool
}

// run starts a task. It never waits.
func (w *workers) run(task func()) {
	w.mu.Lock()
	n := len(w.idle)
	if n == 0 {
		w.mu.Unlock()
		go w.work(task)
		return
	}
	next := w.idle[n-1]
	w.idle = w.idle[:n-1]
	w.mu.Unlock()
	next <- task
}

func (w *workers) work(task func()) {
	next := make(chan func(), 1)
	for task != nil {
		task()
		w.mu.Lock()
		if w.closed || len(w.idle) >= maxIdleWorkers {
			w.mu.Unlock()
			return
		}
		w.idle = append(w.idle, next)
		w.mu.Unlock()
		task = <-next
	}
}

// close ends the idle goroutines; the others end after their task.
func (w *workers) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, next := range w.idle {
		next <- nil
	}
	w.idle = nil
}
