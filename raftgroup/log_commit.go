package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// logWrite is what one caller waits for.
type logWrite struct {
	group   *GroupLog
	recs    []raft.Log  // tagged
	entries []*raft.Log // what recs were made of, if they are entries
	cut     *logCut     // a truncation; it is done alone
	done    chan error
}

func (w *logWrite) size() int {
	n := 0
	for i := range w.recs {
		n += recordSize(&w.recs[i])
	}
	return n
}

// submit hands a write to the committer and waits until it is durable. An error means that
// nothing was written, but for Kind Indeterminate: the file broke and was closed.
func (l *Log) submit(w *logWrite) error {
	w.done = make(chan error, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return l.closedError(eggs.Unavailable)
	}
	l.queue = append(l.queue, w)
	l.mu.Unlock()
	l.poke()
	return <-w.done
}

func (l *Log) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

var errLogClosed = errors.New("the log is closed")

func (l *Log) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

func (l *Log) closedError(kind eggs.Kind) error {
	e := &eggs.Error{Op: "raftgroup.Log", Name: l.path, Kind: kind, Err: errLogClosed}
	if err := l.broken.Load(); err != nil {
		e.Err = *err
	}
	return e
}

// take returns the writes of the next commit, and whether the log is being closed.
func (l *Log) take() (batch []*logWrite, closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, size := 0, 0
	for n < len(l.queue) && (n == 0 || size < logBatchBytes) {
		if l.queue[n].cut != nil {
			if n == 0 {
				n = 1
			}
			break
		}
		size += l.queue[n].size()
		n++
	}
	batch = l.queue[:n:n]
	l.queue = l.queue[n:]
	if len(l.queue) == 0 {
		l.queue = nil
	}
	return batch, l.closed
}

// commitAll is the committer: the one goroutine that writes to the journal. Whatever waits when a
// commit begins shares it, whichever group it is of.
func (l *Log) commitAll() {
	defer close(l.ended)
	for {
		batch, closed := l.take()
		if len(batch) > 0 {
			if err := l.perform(batch); err != nil {
				l.stop(batch)
				return
			}
			for _, w := range batch {
				w.done <- nil
			}
		} else if closed {
			return
		}
		if len(batch) == 0 {
			<-l.wake
		}
	}
}

func (l *Log) perform(batch []*logWrite) error {
	if c := batch[0].cut; c != nil {
		return l.cutNow(c)
	}
	return l.commit(batch)
}

// stop keeps everybody waiting until Close, after a failure: what was written is unknown, so no
// answer is true.
func (l *Log) stop(batch []*logWrite) {
	for {
		waiting, closed := l.take()
		if closed {
			for _, w := range append(batch, waiting...) {
				w.done <- l.closedError(eggs.Indeterminate)
			}
			if len(waiting) == 0 {
				return
			}
			batch = nil
			continue
		}
		batch = append(batch, waiting...)
		if len(waiting) == 0 {
			<-l.wake
		}
	}
}

// commit writes a batch and takes note of it.
func (l *Log) commit(batch []*logWrite) error {
	n := 0
	for _, w := range batch {
		n += len(w.recs)
	}
	recs := make([]*raft.Log, 0, n)
	size := 0
	for _, w := range batch {
		for i := range w.recs {
			if s := recordSize(&w.recs[i]); size+s > logBatchBytes && len(recs) > 0 {
				if err := l.write(recs, l.first); err != nil {
					return err
				}
				recs, size = nil, 0
			}
			recs = append(recs, &w.recs[i])
			size += recordSize(&w.recs[i])
		}
	}
	if err := l.write(recs, l.first); err != nil {
		return err
	}
	for _, w := range batch {
		w.group.mu.Lock()
		for i := range w.recs {
			m := l.noted(&w.recs[i])
			w.group.replay(&m, w.recs[i].Index)
			if w.entries != nil {
				w.group.remember(w.entries[i])
			}
		}
		w.group.mu.Unlock()
		for _, e := range w.entries {
			l.recent.add(w.group, e)
		}
	}
	return nil
}

// noted returns what memory keeps of a record that was just written.
func (l *Log) noted(r *raft.Log) recordMark {
	m := recordMark{
		kind:  recordKind(r.Extensions[0]),
		index: binary.BigEndian.Uint64(r.Extensions[3:]),
		state: reachesState(r.Type),
		data:  r.Data,
	}
	l.sizes.add(r.Index, recordSize(r))
	l.bytes.Store(l.sizes.total)
	return m
}

// write seals records and commits them to the journal in one frame, which also says that records
// count from first on. A commit that takes too long, or fails, ends the process: it may yet
// reach the disk, so whoever waits for it must never hear an answer.
func (l *Log) write(recs []*raft.Log, first uint64) error {
	if err := l.roomy(); err != nil {
		return err
	}
	f := &journalFrame{first: l.next, floor: first, recs: recs}
	for i, r := range recs {
		sealRecord(r, l.next+uint64(i))
	}
	start := time.Now()
	err := l.timed("raftgroup.Log.commit", l.options.commit, func() error { return l.journal.append(f) })
	if err != nil {
		return l.die("raftgroup.Log.commit", err)
	}
	took := int64(time.Since(start))
	l.counts.busy.Add(took)
	l.counts.slowest.Store(max(l.counts.slowest.Load(), took)) // the committer alone writes it
	l.next = f.next()
	l.pending.add(f)
	l.pokeMover()
	l.counts.commits.Add(1)
	l.counts.records.Add(uint64(len(recs)))
	return nil
}

// timed runs something that syncs a file, as the hook of a test lets it, if there is one.
func (l *Log) timed(op string, hook func(func() error) error, f func() error) error {
	limit := l.options.CommitTimeout
	watch := time.AfterFunc(limit, func() {
		l.die(op, fmt.Errorf("%w: a commit to the Raft log takes longer than %v; the disk stalls",
			eggs.Timeout, limit))
	})
	defer watch.Stop()
	if hook != nil {
		return hook(func() error { return l.guard(f) })
	}
	return l.guard(f)
}
