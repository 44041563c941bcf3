package raftgroup

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// open reads the journal and returns its frames from the number on, without seals: what the log
// file does not have yet.
//
// The journal ends before the first thing that is not its next frame. That is where nothing was
// written, or a frame that a power failure tore, which nobody was told of. If any frame follows,
// here or in another segment, it is neither: Corrupt, naming the segment and the place.
func (j *journal) open(from uint64) ([]*journalFrame, error) {
	all, err := j.list()
	j.spares = all
	if err != nil {
		return nil, err
	}
	head := make([]byte, segmentHeaderSize)
	var s *segment
	for _, t := range all {
		if n, err := t.file.ReadAt(head, 0); err != nil && err != io.EOF {
			return nil, fmt.Errorf("%s: %w", t.path, err)
		} else {
			t.parseHeader(j.id, head[:n])
		}
		if t.number > 0 && t.start <= from && (s == nil || t.start > s.start) {
			s = t
		}
	}
	if s == nil {
		return nil, fmt.Errorf("%w: %s has no segment with frame %d", errJournal, j.dir, from)
	}
	w := &journalWalk{j: j, next: s.start, from: from}
	for s != nil {
		j.chain = append(j.chain, s)
		j.spares = slices.DeleteFunc(j.spares, func(t *segment) bool { return t == s })
		if s, err = w.segment(s); err != nil {
			return nil, err
		}
	}
	if w.next < from {
		return nil, fmt.Errorf("%w: %s, offset %d: no frame %d, and the log file has all up to %d", errJournal,
			j.last().path, j.pos, w.next, from-1)
	}
	for _, t := range j.spares {
		b, err := t.read()
		if err == nil {
			err = w.nothingIn(t, b, 0)
		}
		if err != nil {
			return nil, err
		}
	}
	j.next = w.next
	return w.frames, j.tidy(w)
}

// tidy makes what was read durable. The last frame may have been written by a process that ended
// before the sync, so it is written again; and a segment that was made ready, and not begun, must
// not be mistaken for one later.
func (j *journal) tidy(w *journalWalk) error {
	for _, s := range j.spares {
		if s.number == 0 {
			continue
		}
		if _, err := s.file.WriteAt(make([]byte, journalPage), 0); err != nil {
			return err
		}
		if err := j.sync(s); err != nil {
			return err
		}
	}
	keep := j.spares[:0]
	for _, s := range j.spares {
		if s.size == j.segment && len(keep) < journalSpares {
			keep = append(keep, s)
		} else if err := errors.Join(s.file.Close(), j.fs.Remove(s.path)); err != nil {
			return err
		}
	}
	j.spares = keep
	if w.lastIn == nil {
		return nil
	}
	if _, err := w.lastIn.file.WriteAt(w.last, w.lastAt); err != nil {
		return err
	}
	return j.sync(w.lastIn)
}

func (s *segment) read() ([]byte, error) {
	b := make([]byte, s.size)
	if _, err := s.file.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return b, nil
}

// journalWalk reads segments in their order.
type journalWalk struct {
	j      *journal
	next   uint64 // number of the next frame
	from   uint64 // number of the first that is wanted
	frames []*journalFrame

	last   []byte // the last frame, and where it is
	lastIn *segment
	lastAt int64
}

// segment reads a segment, and returns the one that follows it, nil if it is the last.
func (w *journalWalk) segment(s *segment) (*segment, error) {
	b, err := s.read()
	if err != nil {
		return nil, err
	}
	at := int64(journalPage)
	for at < int64(len(b)) && isFrame(b[at:], w.j.id) && frameNumber(b[at:]) == w.next {
		f, err := decodeFrame(b[at:])
		if err != nil {
			return nil, fmt.Errorf("%s, offset %d: %w", s.path, at, err)
		}
		w.next++
		w.last, w.lastIn, w.lastAt = append(w.last[:0], b[at:at+f.bytes]...), s, at
		if f.seal {
			return w.sealed(s, at, f)
		}
		if f.number >= w.from {
			w.frames = append(w.frames, f)
		}
		at += f.bytes
	}
	w.j.pos = at
	return nil, w.nothingIn(s, b, at)
}

func (w *journalWalk) sealed(s *segment, at int64, f *journalFrame) (*segment, error) {
	for _, t := range w.j.spares {
		if t.number == f.first && t.start == w.next {
			return t, nil
		}
	}
	return nil, fmt.Errorf("%w: %s, offset %d: segment %d, which follows, is missing", errJournal, s.path, at,
		f.first)
}

// nothingIn checks that no frame follows the last one in a segment, from an offset on.
func (w *journalWalk) nothingIn(s *segment, b []byte, at int64) error {
	for p := at; p < int64(len(b)); p += journalPage {
		if isFrame(b[p:], w.j.id) && frameNumber(b[p:]) >= w.next {
			end, pos := w.j.last(), w.j.pos
			return fmt.Errorf("%w: %s, offset %d: no frame %d, but frame %d is at %s, offset %d", errJournal,
				end.path, pos, w.next, frameNumber(b[p:]), s.path, p)
		}
	}
	return nil
}
