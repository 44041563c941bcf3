package raftgroup

import (
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// How much the journal holds that the log file does not have, in bytes of the journal.
const (
	// moveStart is where the mover begins. More makes its commits rarer; less makes a start faster.
	moveStart = 4 << 20

	// moveChunk is about what it moves in one commit: some milliseconds of the disk, which
	// commits to the journal have to share.
	moveChunk = 1 << 20

	// moveLimit is where commits wait for the mover. It bounds the memory that holds the same
	// records, and the journal.
	moveLimit = 16 << 20
)

// logPending is what is in the journal, and not yet in the log file.
type logPending struct {
	mu     sync.Mutex
	change sync.Cond
	frames []*journalFrame
	bytes  int64       // of them, in the journal
	recs   []*raft.Log // their records
	base   uint64      // sequence number of recs[0]
	drain  bool        // move everything, in tests
}

// add takes a frame that is durable in the journal.
func (p *logPending) add(f *journalFrame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.recs) == 0 {
		p.base = f.first
	}
	p.frames, p.recs = append(p.frames, f), append(p.recs, f.recs...)
	p.bytes += f.bytes
}

// get returns the record with a sequence number, nil if the log file has it.
func (p *logPending) get(sequence uint64) *raft.Log {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sequence < p.base || sequence-p.base >= uint64(len(p.recs)) {
		return nil
	}
	return p.recs[sequence-p.base]
}

// chunk returns the frames of the mover's next commit, none if it is too early.
func (p *logPending) chunk(start, size int64) []*journalFrame {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bytes < start && !p.drain {
		return nil
	}
	n, sum := 0, int64(0)
	for n < len(p.frames) && sum < size {
		sum += p.frames[n].bytes
		n++
	}
	return p.frames[:n:n]
}

// moved lets go of the oldest frames.
func (p *logPending) moved(frames []*journalFrame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, f := range frames {
		n += len(f.recs)
		p.bytes -= f.bytes
	}
	clear(p.recs[:n])
	clear(p.frames[:len(frames)])
	p.recs, p.base, p.frames = p.recs[n:], p.base+uint64(n), p.frames[len(frames):]
	p.change.Broadcast()
}

// roomy waits until a frame may be added, and returns the fault that ended the mover.
func (l *Log) roomy() error {
	p := &l.pending
	p.mu.Lock()
	for p.bytes >= l.options.moveLimit && l.broken.Load() == nil {
		p.change.Wait()
	}
	p.mu.Unlock()
	if err := l.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// settle waits until everything is in the log file, and what is void is out of it.
func (l *Log) settle() {
	p := &l.pending
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drain = true
	for (len(p.frames) > 0 || l.removed < l.kept) && l.broken.Load() == nil {
		l.pokeMover()
		p.change.Wait()
	}
	p.drain = false
}

func (l *Log) pokeMover() {
	select {
	case l.moveWake <- struct{}{}:
	default:
	}
}

// moveAll is the mover: the one goroutine that writes to the log file. It stores there what the
// journal holds, in small steps, gives segments back, and removes records that are void.
func (l *Log) moveAll() {
	defer close(l.moverEnded)
	for l.broken.Load() == nil {
		l.journal.prepare()
		frames := l.pending.chunk(l.options.moveStart, moveChunk)
		if len(frames) > 0 && l.move(frames) != nil || l.removed < l.kept && l.removeSome() != nil {
			break
		}
		if len(frames) > 0 || l.removed < l.kept {
			select {
			case <-l.moveStop:
				return
			default:
			}
			continue
		}
		select {
		case <-l.moveStop:
			return
		case <-l.moveWake:
		}
	}
	l.pending.mu.Lock()
	l.pending.change.Broadcast()
	l.pending.mu.Unlock()
}

// move stores frames in the log file, and the head that says so, in one commit.
func (l *Log) move(frames []*journalFrame) error {
	last := frames[len(frames)-1]
	h := logHead{first: last.floor, next: last.next(), journal: l.journal.id, frame: last.number + 1}
	var recs []*raft.Log
	for _, f := range frames {
		recs = append(recs, f.recs...)
	}
	err := l.timed("raftgroup.Log.move", l.options.move, func() error {
		return l.store.StoreLogs(withHead(recs, h))
	})
	if err != nil {
		return l.die("raftgroup.Log.move", err)
	}
	l.pending.mu.Lock()
	l.kept = h.first
	l.pending.mu.Unlock()
	l.pending.moved(frames)
	l.journal.release(h.frame)
	l.counts.moves.Add(1)
	return nil
}

// removeSome frees the space of some records below the floor. That they are void
// is durable already.
func (l *Log) removeSome() error {
	to := min(l.removed+logRemoveRecords, l.kept)
	err := l.timed("raftgroup.Log.truncate", l.options.move, func() error {
		return l.store.DeleteRange(l.removed, to-1)
	})
	if err != nil {
		return l.die("raftgroup.Log.truncate", err)
	}
	l.pending.mu.Lock()
	l.removed = to
	l.pending.change.Broadcast()
	l.pending.mu.Unlock()
	l.counts.removals.Add(1)
	return nil
}

// replayJournal takes note of the frames that the log file does not have.
func (l *Log) replayJournal(frames []*journalFrame) error {
	for _, f := range frames {
		if f.first != l.next || f.floor < l.first {
			return l.journalFault(f, "sequence %d and floor %d after %d and %d", f.first, f.floor, l.next, l.first)
		}
		for i, sealed := range f.recs {
			r := *sealed
			m, err := openRecord(&r, f.first+uint64(i))
			if err != nil {
				return err
			}
			if m.kind == recordHead {
				return l.journalFault(f, "a head at sequence %d", f.first+uint64(i))
			}
			g := &l.groups[m.group]
			g.mu.Lock()
			g.replay(&m, f.first+uint64(i))
			g.mu.Unlock()
			l.sizes.add(f.first+uint64(i), m.size)
		}
		if f.floor > l.first {
			for i := range l.groups {
				l.groups[i].raise(f.floor)
			}
			l.sizes.dropBelow(f.floor)
		}
		l.first, l.next = f.floor, f.next()
		l.pending.add(f)
	}
	l.bytes.Store(l.sizes.total)
	return nil
}

func (l *Log) journalFault(f *journalFrame, format string, args ...any) error {
	return fmt.Errorf("%w: %s, frame %d: %s", errJournal, l.journal.dir, f.number, fmt.Sprintf(format, args...))
}
