package raftgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"eggsfs/eggs"
)

// Sizes of the journal.
const (
	// journalPage is what frames are padded to. No page holds two of them, so writing one cannot
	// tear another.
	journalPage = 4 << 10

	// journalSegment is the size of a segment file. More makes changes of segment rarer, which
	// cost two syncs each; less gives space back sooner.
	journalSegment = 8 << 20

	// journalFirst is the size of the first segment of all, since a new node waits for it.
	journalFirst = 1 << 20

	// journalSpares is how many segments are kept to be used again. Pages that were written before
	// are synced without a change of the file system's own records, which is twice as fast.
	journalSpares = 2

	segmentSuffix = ".seg"
)

// errJournal marks what only damage explains.
var errJournal = fmt.Errorf("damaged journal: %w", eggs.Corrupt)

// segment is one file of the journal.
type segment struct {
	path   string
	file   vfs.File
	size   int64
	number uint64 // their order
	start  uint64 // number of its first frame
}

// journal is the append-only file, in segments, that each commit is written to first. See
// "Formats" in the package comment. The committer appends; the mover frees segments
// and prepares new ones.
type journal struct {
	dir     string
	fs      vfs.FS
	log     *slog.Logger
	id      uint64 // of this journal: what another one left in a file is no frame of ours
	segment int64  // size of segments
	noSync  bool

	mu     sync.Mutex
	chain  []*segment // those with frames, oldest first; the last one is appended to
	spares []*segment // with room to be written over
	files  int        // number in the name of the newest file

	// The rest is the committer's.
	pos  int64  // where the next frame goes
	next uint64 // its number
	buf  []byte
}

// create makes the folder, and in it the first segment.
func (j *journal) create() error {
	if err := j.fs.RemoveAll(j.dir); err != nil { // of a creation that did not come to its end
		return err
	}
	if err := j.fs.MkdirAll(j.dir, 0o700); err != nil {
		return err
	}
	s, err := j.newSegment(min(journalFirst, j.segment))
	if err != nil {
		return err
	}
	s.number, s.start = 1, 1
	if err := j.writeHeader(s); err != nil {
		return err
	}
	j.chain, j.pos, j.next = []*segment{s}, journalPage, 1
	return j.syncDir(j.fs.PathDir(j.dir))
}

// newSegment makes a file of zeros. Its name is durable, its header is still to be written.
func (j *journal) newSegment(size int64) (*segment, error) {
	j.mu.Lock()
	j.files++
	name := fmt.Sprintf("%08d%s", j.files, segmentSuffix)
	j.mu.Unlock()
	s := &segment{path: j.fs.PathJoin(j.dir, name), size: size}
	var err error
	if s.file, err = j.fs.OpenReadWrite(s.path, vfs.WriteCategoryUnspecified); err != nil {
		return nil, err
	}
	zeros := make([]byte, min(size, 256<<10))
	for at := int64(0); at < size && err == nil; at += int64(len(zeros)) {
		_, err = s.file.WriteAt(zeros[:min(size-at, int64(len(zeros)))], at)
	}
	if err == nil {
		err = j.sync(s)
	}
	if err == nil {
		err = j.syncDir(j.dir)
	}
	if err != nil {
		_ = s.file.Close()
		_ = j.fs.Remove(s.path) // or its pages are missing elsewhere
		return nil, err
	}
	return s, nil
}

func (j *journal) sync(s *segment) error {
	if j.noSync {
		return nil
	}
	return s.file.SyncData()
}

func (j *journal) syncDir(dir string) error {
	if j.noSync {
		return nil
	}
	d, err := j.fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (j *journal) writeHeader(s *segment) error {
	if _, err := s.file.WriteAt(segmentHeader(j.id, s), 0); err != nil {
		return err
	}
	return j.sync(s)
}

// append writes a frame, whose number it fills in, and syncs it.
func (j *journal) append(f *journalFrame) error {
	size := f.encodedSize()
	if j.pos+size+journalPage > j.last().size { // a page is left for the seal
		if err := j.roll(size); err != nil {
			return err
		}
	}
	f.number, f.bytes = j.next, size
	return j.write(f)
}

func (j *journal) write(f *journalFrame) error {
	s := j.last()
	j.buf = f.encode(j.buf[:0], j.id)
	if _, err := s.file.WriteAt(j.buf, j.pos); err != nil {
		return err
	}
	if err := j.sync(s); err != nil {
		return err
	}
	j.pos += int64(len(j.buf))
	j.next++
	if cap(j.buf) > 1<<20 {
		j.buf = nil
	}
	return nil
}

func (j *journal) last() *segment { return j.chain[len(j.chain)-1] }

// roll ends the segment and goes on in another one, with room for a frame of size bytes. The
// seal, which names the next segment, is written when that one is durable: so a start knows
// whether a segment is missing.
func (j *journal) roll(size int64) error {
	s, err := j.takeSpare(size)
	if err != nil {
		return err
	}
	s.number, s.start = j.last().number+1, j.next+1
	if err := j.writeHeader(s); err != nil {
		return err
	}
	if err := j.write(&journalFrame{number: j.next, first: s.number, seal: true}); err != nil {
		return err
	}
	j.mu.Lock()
	j.chain = append(j.chain, s)
	j.mu.Unlock()
	j.pos = journalPage
	return nil
}

// takeSpare returns a segment to be written over, and makes one if there is none, or none so large.
func (j *journal) takeSpare(size int64) (*segment, error) {
	j.mu.Lock()
	for i, s := range j.spares {
		if s.size >= size+2*journalPage {
			j.spares = append(j.spares[:i:i], j.spares[i+1:]...)
			j.mu.Unlock()
			return s, nil
		}
	}
	j.mu.Unlock()
	return j.newSegment(max(j.segment, size+2*journalPage))
}

// prepare makes a segment before it is needed. A full disk is no failure yet.
func (j *journal) prepare() {
	j.mu.Lock()
	enough := len(j.spares) > 0
	j.mu.Unlock()
	if enough {
		return
	}
	s, err := j.newSegment(j.segment)
	if err != nil {
		j.log.Warn("no new segment for the journal", "dir", j.dir, "err", err)
		return
	}
	j.mu.Lock()
	j.spares = append(j.spares, s)
	j.mu.Unlock()
}

// release lets go of the segments whose frames are all below the number: they are in the log
// file, durably.
func (j *journal) release(number uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(j.chain) > 1 && j.chain[1].start <= number {
		s := j.chain[0]
		j.chain = j.chain[1:]
		if s.size == j.segment && len(j.spares) < journalSpares {
			j.spares = append(j.spares, s)
			continue
		}
		err := errors.Join(s.file.Close(), j.fs.Remove(s.path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			j.log.Warn("a segment of the journal was not removed", "path", s.path, "err", err)
		}
	}
}

// bytes returns how much disk the journal takes.
func (j *journal) bytes() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := int64(0)
	for _, s := range j.chain {
		n += s.size
	}
	for _, s := range j.spares {
		n += s.size
	}
	return n
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var err error
	for _, s := range append(j.chain, j.spares...) {
		err = errors.Join(err, s.file.Close())
	}
	return err
}

// list opens all segments in the folder.
func (j *journal) list() ([]*segment, error) {
	names, err := j.fs.List(j.dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOENT) {
		return nil, fmt.Errorf("%w: %s is gone", errJournal, j.dir)
	}
	if err != nil {
		return nil, err
	}
	var all []*segment
	for _, name := range names {
		n, err := strconv.Atoi(strings.TrimSuffix(name, segmentSuffix))
		if err != nil || !strings.HasSuffix(name, segmentSuffix) {
			continue
		}
		j.files = max(j.files, n)
		s := &segment{path: j.fs.PathJoin(j.dir, name)}
		if s.file, err = j.fs.OpenReadWrite(s.path, vfs.WriteCategoryUnspecified); err != nil {
			return all, err
		}
		all = append(all, s)
		info, err := s.file.Stat()
		if err != nil {
			return all, err
		}
		s.size = info.Size()
	}
	return all, nil
}
