package blockd

import (
	"sync"
	"time"

	"eggsfs/internal/disk"
)

// lookTime is how long someone who asks about a disk waits for it: a healthy one
// needs microseconds.
const lookTime = 200 * time.Millisecond

// probe looks at a disk in a goroutine of its own, since a disk may hang for
// ever and with it whoever touches it.
type probe struct {
	mu    sync.Mutex
	run   *lookRun   // that is going on, or nil
	space disk.Space // of the last one
	work  sync.WaitGroup
}

type lookRun struct {
	began time.Time
	done  chan struct{}
}

// look checks that the disk is still there and asks for its room, waiting for
// the answer as long as patience allows. silent is how long the disk has not answered, 0
// when it has.
func (s *service) look(patience time.Duration) (space disk.Space, silent time.Duration) {
	p := &s.probe
	p.mu.Lock()
	r := p.run
	if r == nil {
		r = &lookRun{began: time.Now(), done: make(chan struct{})}
		p.run = r
		p.work.Go(func() { s.lookNow(r) })
	}
	p.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
		silent = time.Since(r.began)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.space, silent
}

func (s *service) lookNow(r *lookRun) {
	err := s.folder.Check()
	var space disk.Space
	if err == nil {
		space, err = s.folder.Space()
	}
	if err != nil {
		s.setGone(err)
	}
	s.probe.mu.Lock()
	s.probe.space, s.probe.run = space, nil
	s.probe.mu.Unlock()
	close(r.done)
}
