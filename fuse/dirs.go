package fuse

import (
	"sync"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"eggsfs/client"
	"eggsfs/eggs"
)

// dirs remembers attributes of directories, no longer than the kernel may
// (Config.DirTimeout, counted from the question to the cluster). The kernel throws a
// directory's attributes away whenever it makes a name there, and asks for them on the
// next path through it, which would be one request to the cluster for each file.
//
// What this mount changes is known at once: touch moves the times on, forget has the
// cluster asked. An answer to a question that is older than a forget is not kept.
type dirs struct {
	mu    sync.Mutex
	epoch uint64 // counts touch and forget
	floor uint64 // of the notes that were dropped: the newest change
	notes map[eggs.InodeID]*dirNote
}

type dirNote struct {
	attr      client.Attr
	until     time.Time // zero: attr is not known
	forgotten uint64    // epoch of the last forget
	touched   uint64    // epoch of the last touch, with its time
	at        eggs.Time
}

// maxDirs bounds the notes, of some 200 bytes each.
const maxDirs = 1 << 14

// question is when the cluster was asked.
type question struct {
	epoch uint64
	at    time.Time
}

// ask must be called before the cluster is asked for what put will keep.
func (s *dirs) ask() question {
	s.mu.Lock()
	defer s.mu.Unlock()
	return question{s.epoch, time.Now()}
}

// note returns the directory's note. mu is held.
func (s *dirs) note(id eggs.InodeID) *dirNote {
	n := s.notes[id]
	if n != nil {
		return n
	}
	for old, x := range s.notes {
		if len(s.notes) < maxDirs {
			break
		}
		s.floor = max(s.floor, x.forgotten, x.touched)
		delete(s.notes, old)
	}
	if s.notes == nil {
		s.notes = map[eggs.InodeID]*dirNote{}
	}
	n = &dirNote{forgotten: s.floor}
	s.notes[id] = n
	return n
}

// put keeps what the cluster answered, for keep from the question on.
func (s *dirs) put(q question, a *client.Attr, keep time.Duration) {
	if keep <= 0 || !a.ID.IsDir() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.note(a.ID)
	until := q.at.Add(keep)
	if q.epoch < n.forgotten || until.Before(n.until) {
		return
	}
	n.attr, n.until = *a, until
	if q.epoch < n.touched {
		n.move()
	}
}

// move makes the times those of this mount's last change, if they are older.
func (n *dirNote) move() {
	n.attr.Mtime, n.attr.Ctime = max(n.attr.Mtime, n.at), max(n.attr.Ctime, n.at)
}

// get returns attributes that are known, and how long they may be used.
func (s *dirs) get(id eggs.InodeID) (a client.Attr, left time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.notes[id]
	if n == nil || n.until.IsZero() {
		return client.Attr{}, 0, false
	}
	if left = time.Until(n.until); left <= 0 {
		return client.Attr{}, 0, false
	}
	return n.attr, left, true
}

// touch says that this mount made a name in the directory at that time.
func (s *dirs) touch(id eggs.InodeID, at eggs.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	n := s.note(id)
	n.touched, n.at = s.epoch, max(n.at, at)
	n.move()
}

// forget says that this mount changed directories in a way that the cluster knows best.
func (s *dirs) forget(ids ...eggs.InodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	for _, id := range ids {
		if id.IsDir() {
			n := s.note(id)
			n.forgotten, n.until = s.epoch, time.Time{}
		}
	}
}

// knownDir answers from memory, if it can.
func (f *fileSystem) knownDir(id eggs.InodeID, out *gofuse.AttrOut) bool {
	if !id.IsDir() {
		return false
	}
	a, left, ok := f.dirs.get(id)
	if !ok {
		return false
	}
	f.attrOut(out, &a)
	out.SetTimeout(min(left, f.config.DirTimeout))
	return true
}
