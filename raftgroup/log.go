package raftgroup

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"eggsfs/eggs"
)

// Limits of the log file.
const (
	// logCommitTimeout is how long a commit may take. A disk that stalls for longer stops the node, so
	// that others take its groups over: a leader that can't write would go on sending heartbeats.
	logCommitTimeout = 10 * time.Second

	// logLockTimeout is how long an opener waits for another process to let go of the file.
	logLockTimeout = time.Second

	// logBatchBytes bounds one commit, so that a burst of all groups does not reach the time-out.
	logBatchBytes = 4 << 20

	// logRecentBytes bounds the entries kept in memory, of all groups together. Followers read
	// back what they just stored, and leaders what they just sent; more helps only laggards.
	logRecentBytes = 8 << 20

	// logMapBytes is the address space reserved for the file, so that it need not be
	// mapped anew, with all readers waiting, each time that it grows.
	logMapBytes = 256 << 20

	// logRemoveRecords is how many dead records are removed from the file in one go: some
	// milliseconds' work. More costs fewer commits, less disturbs writers less.
	logRemoveRecords = 4096
)

// LogOptions says how to open a Log.
type LogOptions struct {
	// MustExist refuses to make a new file: a node whose identity says that it had
	// a log, and has none, has lost the votes of its groups. It must not return
	// under its old identity.
	MustExist bool

	Logger *slog.Logger

	// Fatal is told of what no caller can handle: a commit that failed or outlived its time-out, or a
	// wrong checksum. It ends the process; nil panics. If it returns, as in
	// a test, those who wait for the commit wait until Close.
	Fatal func(error)

	// CommitTimeout replaces logCommitTimeout, if not 0.
	CommitTimeout time.Duration

	noSync    bool                     // in tests: no fsync
	commit    func(func() error) error // in tests: runs a commit to the journal, or breaks it
	move      func(func() error) error // in tests: the same with one to the log file
	fs        vfs.FS                   // in tests: where the journal is
	segment   int64                    // in tests: replaces journalSegment
	moveStart int64                    // in tests: replaces moveStart
	moveLimit int64                    // in tests: replaces moveLimit
}

func (o *LogOptions) fill() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CommitTimeout == 0 {
		o.CommitTimeout = logCommitTimeout
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic(err) }
	}
	if o.fs == nil {
		o.fs = vfs.Default
	}
	if o.segment == 0 {
		o.segment = journalSegment
	}
	if o.moveStart == 0 {
		o.moveStart = moveStart
	}
	if o.moveLimit == 0 {
		o.moveLimit = moveLimit
	}
}

// Log is the one file in which a node keeps the Raft logs, terms and votes of all its
// groups, with a journal before it. See "Formats" in the package comment.
type Log struct {
	path    string
	store   *raftboltdb.BoltStore
	journal *journal
	options LogOptions
	log     *slog.Logger

	groups [eggs.Groups]GroupLog

	mu     sync.Mutex
	queue  []*logWrite // bounded by its writers: each waits, and a group has at most three
	closed bool
	wake   chan struct{}
	ended  chan struct{} // closed when the committer has returned
	broken atomic.Pointer[error]
	bytes  atomic.Int64 // of live and not yet truncated records
	counts logCounts

	pending    logPending
	moveWake   chan struct{}
	moveStop   chan struct{}
	moverEnded chan struct{} // closed when the mover has returned
	kept       uint64        // the file's head says that records from here on count
	removed    uint64        // records below are gone from the file; those up to kept are going

	// The rest is the committer's.
	first  uint64 // sequence number of the oldest record that counts
	next   uint64 // the next to be given
	sizes  logSizes
	warned time.Time
	recent logRecent
}

// OpenLog opens the log file at path, or makes it, checks all of it and finds out where each
// group's records are.
//
// It fails with Kind NotExist (MustExist, and there is none), InUse, Corrupt (naming the
// file and the place) or IO.
func OpenLog(path string, o LogOptions) (*Log, error) {
	o.fill()
	l := &Log{
		path: path, options: o, log: o.Logger, wake: make(chan struct{}, 1), ended: make(chan struct{}),
		moveWake: make(chan struct{}, 1), moveStop: make(chan struct{}), moverEnded: make(chan struct{}),
	}
	l.pending.change.L = &l.pending.mu
	l.newJournal()
	for i := range l.groups {
		l.groups[i].log, l.groups[i].id = l, eggs.GroupID(i)
	}
	switch _, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist) && o.MustExist:
		return nil, &eggs.Error{
			Op: "raftgroup.OpenLog", Name: path, Kind: eggs.NotExist,
			Err: errors.New("the Raft log is gone, and with it this node's votes; " +
				"the folder must not come back under its old identity"),
		}
	case errors.Is(err, fs.ErrNotExist):
		if err := l.create(); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, l.fault("raftgroup.OpenLog", err)
	}
	if err := checkLogFile(path); err != nil {
		return nil, l.fault("raftgroup.OpenLog", err)
	}
	if err := l.open(path); err != nil {
		return nil, err
	}
	err := l.syncFile()
	if err == nil {
		err = l.rebuild()
	}
	if err != nil {
		return nil, l.fault("raftgroup.OpenLog", errors.Join(err, l.store.Close(), l.journal.close()))
	}
	go l.commitAll()
	go l.moveAll()
	return l, nil
}

func (l *Log) newJournal() {
	l.journal = &journal{
		dir: l.path + ".journal", fs: l.options.fs, log: l.log, segment: l.options.segment,
		noSync: l.options.noSync && l.options.fs == vfs.Default,
	}
}

// syncFile makes what the file says durable: the process that wrote it may have ended before it
// synced, and what follows relies on it.
func (l *Log) syncFile() error {
	if l.options.noSync {
		return nil
	}
	return l.guard(l.store.Sync)
}

// create makes a journal, and a file with the first head in it, under another name until it
// is whole.
func (l *Log) create() error {
	var id [8]byte
	rand.Read(id[:]) // never fails
	l.journal.id = binary.BigEndian.Uint64(id[:])
	if err := errors.Join(l.journal.create(), l.journal.close()); err != nil {
		return l.fault("raftgroup.OpenLog", err)
	}
	fresh := l.path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return l.fault("raftgroup.OpenLog", err)
	}
	if err := l.open(fresh); err != nil {
		return err
	}
	h := logHead{first: 1, next: 1, journal: l.journal.id, frame: 1}
	l.newJournal()
	err := l.guard(func() error { return l.store.StoreLogs(withHead(nil, h)) })
	err = errors.Join(err, l.store.Close())
	if err == nil {
		err = os.Rename(fresh, l.path)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(l.path))
	}
	if err != nil {
		return l.fault("raftgroup.OpenLog", err)
	}
	return nil
}

func (l *Log) open(path string) error {
	err := l.guard(func() (err error) {
		l.store, err = raftboltdb.New(raftboltdb.Options{
			Path:   path,
			NoSync: l.options.noSync,
			BoltOptions: &bbolt.Options{
				Timeout:         logLockTimeout,
				NoFreelistSync:  true,
				FreelistType:    bbolt.FreelistMapType,
				InitialMmapSize: logMapBytes,
				NoStatistics:    true,
			},
		})
		return err
	})
	if err != nil {
		return l.fault("raftgroup.OpenLog", err)
	}
	return nil
}

// Group returns the log of one group.
func (l *Log) Group(id eggs.GroupID) *GroupLog { return &l.groups[id] }

// Bytes returns about how much the records that count take.
func (l *Log) Bytes() int64 { return l.bytes.Load() }

// LogStats are counters since the log was opened, and its size now.
type LogStats struct {
	Commits  uint64        // each costs one fsync
	Moves    uint64        // commits that stored records in the log file; each costs two fsyncs
	Records  uint64        // entries, terms, votes and marks in them
	Busy     time.Duration // the time that commits took
	Slowest  time.Duration // the longest of them
	Bytes    int64         // what the records that count take
	Journal  int64         // how much disk the journal takes
	Removals uint64        // commits that freed space
}

type logCounts struct {
	commits, records, removals, moves atomic.Uint64
	busy, slowest                     atomic.Int64
}

// Stats returns the log's counters.
func (l *Log) Stats() LogStats {
	return LogStats{
		Commits:  l.counts.commits.Load(),
		Moves:    l.counts.moves.Load(),
		Journal:  l.journal.bytes(),
		Records:  l.counts.records.Load(),
		Removals: l.counts.removals.Load(),
		Busy:     time.Duration(l.counts.busy.Load()),
		Slowest:  time.Duration(l.counts.slowest.Load()),
		Bytes:    l.bytes.Load(),
	}
}

// Close waits for the running commit and closes the file. Writers that are not in it get
// Unavailable.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	l.poke()
	<-l.ended
	close(l.moveStop)
	<-l.moverEnded
	if err := errors.Join(l.guard(l.store.Close), l.journal.close()); err != nil {
		return l.fault("raftgroup.Log.Close", err)
	}
	return nil
}

// guard runs f, and makes errors of the ways in which bbolt takes note of a damaged
// file: panics, and reads behind its end.
func (l *Log) guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", eggs.Corrupt, p)
		}
	}()
	return f()
}

// fault makes an *eggs.Error, naming the file, of what bbolt or the system said.
func (l *Log) fault(op string, err error) error {
	kind := eggs.IO
	switch {
	case eggs.KindOf(err) != eggs.Other:
		kind = eggs.KindOf(err)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum),
		errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, errRecord):
		kind = eggs.Corrupt
	case errors.Is(err, bolterrors.ErrTimeout):
		kind = eggs.InUse
	case errors.Is(err, syscall.ENOSPC):
		kind = eggs.NoSpace
	case errors.Is(err, fs.ErrPermission):
		kind = eggs.Permission
	}
	return &eggs.Error{Op: op, Name: l.path, Kind: kind, Err: err}
}

// die reports a fault that has no caller to go to. Nothing is written after it.
func (l *Log) die(op string, err error) error {
	err = l.fault(op, err)
	l.broken.CompareAndSwap(nil, &err)
	l.log.Error("raft log failed", "err", err)
	l.options.Fatal(err)
	return err
}

// syncFolder makes names in a folder durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
