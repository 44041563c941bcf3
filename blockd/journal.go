package blockd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"

	"eggsfs/eggs"
	"eggsfs/internal/disk"
)

const (
	journalName  = "erased"
	journalMagic = "EGGSMRK\x01"
	recordBytes  = 32

	kindErased = 1
	kindMark   = 2

	// compactRecords is how many records a journal has at least when it is
	// rewritten: 256 KiB, which a start reads in a millisecond.
	compactRecords = 8192

	// journalRoom is what the journal has allocated ahead, in bytes, so that
	// some thousand blocks can be erased when the file system is full.
	journalRoom = 256 << 10
)

// record is one of the journal.
type record struct {
	kind uint32
	id   eggs.BlockID
	mark uint64
}

func (r record) append(b []byte, durable uint64) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, r.kind)
	b = binary.LittleEndian.AppendUint64(b, durable)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.id))
	b = binary.LittleEndian.AppendUint64(b, r.mark)
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b[at+4:], castagnoli))
	return b
}

// parseRecord reads a record; false if it is damaged.
func parseRecord(b []byte) (r record, durable uint64, ok bool) {
	le := binary.LittleEndian
	r = record{kind: le.Uint32(b[4:]), id: eggs.BlockID(le.Uint64(b[16:])), mark: le.Uint64(b[24:])}
	ok = le.Uint32(b) == crc32.Checksum(b[4:recordBytes], castagnoli) &&
		(r.kind == kindErased || r.kind == kindMark)
	return r, le.Uint64(b[8:]), ok
}

// journalHead is the file's first 32 bytes.
func journalHead(d eggs.DiskID) []byte {
	b := append(make([]byte, 0, recordBytes), journalMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(d))
	b = append(b, make([]byte, 12)...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// journal is the append-only log of marks and tombstones. Those who append at
// the same time share a sync.
type journal struct {
	folder *disk.Folder

	mu    sync.Mutex
	batch *batch // that has not begun to be written, or nil

	// Held by the batch that is being written:
	writing sync.Mutex
	file    *os.File
	count   uint64 // records, all durable
	rewrite uint64 // the count at which a rewrite is thought of
	room    int64  // bytes allocated, as far as known
	broken  error  // set after a failed sync: nothing is appended any more
}

// batch is what one sync makes durable. It is bounded by the number of connections.
type batch struct {
	once    sync.Once
	records []record
	err     error
}

// openJournal reads the journal, giving each record to replay, and cuts off what
// was being written at a crash. It fails with Kind NotExist or Corrupt.
func openJournal(f *disk.Folder, replay func(record)) (*journal, error) {
	const op = "blockd.Journal"
	const maxJournal = 1 << 30 // bytes: 20 times the greatest that rewriting leaves
	b, err := f.ReadFile(journalName, maxJournal)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*journal, error) {
		return nil, &eggs.Error{Op: op, Name: f.Path() + "/" + journalName, Kind: eggs.Corrupt, Err: err}
	}
	if len(b) < recordBytes || !bytes.Equal(b[:recordBytes], journalHead(f.Identity().Disk)) {
		return fail(errors.New("damaged header, or another disk's journal"))
	}
	good, damaged := uint64(0), false
	for at := recordBytes; at+recordBytes <= len(b); at += recordBytes {
		r, durable, ok := parseRecord(b[at:])
		switch {
		case !ok:
			damaged = true
		case damaged && durable > good:
			return fail(fmt.Errorf("record %d is damaged: tombstones may be lost", good))
		case !damaged:
			replay(r)
			good++
		}
	}
	file, err := f.OpenFile(journalName, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	j := &journal{folder: f, file: file, count: good, rewrite: compactRecords}
	if len(b) > recordBytes { // what a kill left unsynced becomes durable or goes
		if err := j.cut(); err != nil {
			file.Close()
			return nil, err
		}
	}
	return j, nil
}

// createJournal starts an empty one.
func createJournal(f *disk.Folder) error {
	return f.WriteFile(journalName, journalHead(f.Identity().Disk))
}

// end is the size of the file with its durable records.
func (j *journal) end() int64 { return recordBytes * int64(j.count+1) }

// cut removes what is after the durable records.
func (j *journal) cut() error {
	err := j.file.Truncate(j.end())
	if err != nil {
		return &eggs.Error{Op: "blockd.Journal", Name: j.file.Name(), Kind: eggs.IO, Err: err}
	}
	return j.folder.Datasync(j.file)
}

// append makes a record durable. live returns what must be kept when the
// journal has grown so much that it is rewritten.
func (j *journal) append(r record, live func() ([]record, error)) error {
	j.mu.Lock()
	if j.batch == nil {
		j.batch = &batch{}
	}
	b := j.batch
	b.records = append(b.records, r)
	j.mu.Unlock()
	b.once.Do(func() {
		j.writing.Lock()
		defer j.writing.Unlock()
		j.mu.Lock()
		j.batch = nil
		j.mu.Unlock()
		if b.err = j.write(b.records); b.err == nil {
			b.err = j.compact(live)
		}
	})
	return b.err
}

func (j *journal) write(records []record) error {
	if j.broken != nil {
		return j.broken
	}
	out := make([]byte, 0, len(records)*recordBytes)
	for _, r := range records {
		out = r.append(out, j.count)
	}
	if j.room < j.end()+journalRoom/2 && disk.Reserve(j.file, j.end()+journalRoom) == nil {
		j.room = j.end() + journalRoom
	}
	if err := j.folder.WriteAt(j.file, out, j.end()); err != nil {
		if !errors.Is(err, eggs.NoSpace) || j.cut() != nil {
			j.broken = err
		}
		return err
	}
	if err := j.folder.Datasync(j.file); err != nil {
		j.broken = err
		return err
	}
	j.count += uint64(len(records))
	return nil
}

// compact rewrites the journal when most of it has become pointless.
func (j *journal) compact(live func() ([]record, error)) error {
	if j.count < j.rewrite {
		return nil
	}
	records, err := live()
	if err != nil {
		j.broken = err
		return err
	}
	j.rewrite = max(compactRecords, 2*uint64(len(records)))
	if j.count < j.rewrite {
		return nil
	}
	out := journalHead(j.folder.Identity().Disk)
	for _, r := range records {
		out = r.append(out, uint64(len(records))) // they become durable together
	}
	err = j.folder.WriteFile(journalName, out)
	if errors.Is(err, eggs.NoSpace) {
		return nil // the old one is still there, and good
	}
	var file *os.File
	if err == nil {
		file, err = j.folder.OpenFile(journalName, os.O_RDWR)
	}
	if err != nil {
		j.broken = err
		return err
	}
	j.file.Close()
	j.file, j.count, j.room = file, uint64(len(records)), 0
	return nil
}

func (j *journal) close() {
	j.writing.Lock()
	defer j.writing.Unlock()
	j.file.Close()
	if j.broken == nil {
		j.broken = eggs.E("blockd.Journal", eggs.Unavailable, "closed")
	}
}
