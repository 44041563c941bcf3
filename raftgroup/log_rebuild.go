package raftgroup

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// rebuildChunk is how many records one goroutine reads before their places are taken note of, in
// order.
const rebuildChunk = 2048

// rebuild reads and checks all records and takes note of where they are.
func (l *Log) rebuild() error {
	var head raft.Log
	if err := l.guard(func() error { return l.store.GetLog(headSequence, &head) }); err != nil {
		return l.readFault(headSequence, err)
	}
	h, err := parseHead(&head)
	if err != nil {
		return err
	}
	l.first, l.next, l.kept = h.first, h.next, h.first
	var oldest uint64
	err = l.guard(func() (err error) { oldest, err = l.store.FirstIndex(); return err })
	if err != nil {
		return err
	}
	if oldest > l.first && !(oldest == headSequence && l.first == l.next) {
		return fmt.Errorf("%w: the head names sequences from %d on, and the oldest there is %d",
			errRecord, l.first, oldest)
	}
	l.removed = min(oldest, l.first)
	var beyond raft.Log
	err = l.guard(func() error { return l.store.GetLog(l.next, &beyond) })
	if !errors.Is(err, raft.ErrLogNotFound) {
		return fmt.Errorf("%w: a record with sequence %d, that the head does not know (%v)", errRecord,
			l.next, err)
	}
	for from := l.first; from < l.next; {
		n, err := l.rebuildFrom(from)
		if err != nil {
			return err
		}
		from += n
	}
	l.journal.id = h.journal
	frames, err := l.journal.open(h.frame)
	if err != nil {
		return err
	}
	return l.replayJournal(frames)
}

// rebuildFrom reads a chunk on each processor, and returns how many records that were.
func (l *Log) rebuildFrom(from uint64) (uint64, error) {
	workers := runtime.GOMAXPROCS(0)
	n := min(l.next-from, uint64(workers)*rebuildChunk)
	marks := make([]recordMark, n)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		lo, hi := uint64(w)*rebuildChunk, min(uint64(w+1)*rebuildChunk, n)
		if lo >= hi {
			break
		}
		wg.Go(func() { errs[w] = l.readMarks(from+lo, marks[lo:hi]) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	for i := range marks {
		m, sequence := &marks[i], from+uint64(i)
		g := &l.groups[m.group]
		g.mu.Lock()
		g.replay(m, sequence)
		g.mu.Unlock()
		l.sizes.add(sequence, m.size)
	}
	return n, nil
}

func (l *Log) readMarks(from uint64, marks []recordMark) error {
	var r raft.Log
	for i := range marks {
		sequence := from + uint64(i)
		r = raft.Log{}
		if err := l.guard(func() error { return l.store.GetLog(sequence, &r) }); err != nil {
			return l.readFault(sequence, err)
		}
		var err error
		if marks[i], err = openRecord(&r, sequence); err != nil {
			return err
		}
		if marks[i].kind == recordHead {
			return fmt.Errorf("%w: a head at sequence %d", errRecord, sequence)
		}
	}
	return nil
}

// readFault says of an error in reading a record that must be there that the file is damaged.
func (l *Log) readFault(sequence uint64, err error) error {
	if sequence == headSequence {
		return fmt.Errorf("%w: no head: %w", errRecord, err)
	}
	return fmt.Errorf("%w: sequence %d: %w", errRecord, sequence, err)
}

// read reads the entry of a group that is said to be at the sequence number.
func (l *Log) read(id eggs.GroupID, index, sequence uint64, out *raft.Log) error {
	*out = raft.Log{}
	if r := l.pending.get(sequence); r != nil {
		*out = *r
	} else if err := l.guard(func() error { return l.store.GetLog(sequence, out) }); err != nil {
		return fmt.Errorf("%w: sequence %d, group %v, index %d: %w", errRecord, sequence, id, index, err)
	}
	m, err := openRecord(out, sequence)
	if err != nil {
		return err
	}
	if m.kind != recordEntry || m.group != id || m.index != index {
		return fmt.Errorf("%w: sequence %d is of group %v, index %d, kind %d; want group %v, index %d",
			errRecord, sequence, m.group, m.index, m.kind, id, index)
	}
	out.Index = index
	return nil
}
