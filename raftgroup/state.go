package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"eggsfs/eggs"
)

// Sizes of the state store. A node holds one store for all of its groups, and three nodes on
// one small machine must fit into 300 MiB, so they are modest.
const (
	// stateMemTableBytes is what may be lost from memory, and replayed from the log, after a crash.
	// More makes flushes rarer; less makes a start shorter. It grows from 256 KiB on need.
	stateMemTableBytes = 16 << 20

	// stateMemTables bounds the memtables that wait for their flush, before writers wait too.
	stateMemTables = 4

	// stateCacheBytes is for blocks read from disk; the kernel's page cache stands behind it.
	stateCacheBytes = 24 << 20

	// stateOpenFiles bounds descriptors: 256 tables of 2 to 64 MiB are more than a node has.
	stateOpenFiles = 256

	// stateFormat is pinned: a newer library must not turn a store into one that the
	// release before it cannot open.
	stateFormat = pebble.FormatColumnarBlocks
)

// StateOptions says how to open a State. The zero value is a store on disk.
type StateOptions struct {
	// InMemory keeps everything in memory: for tests.
	InMemory bool

	// MustExist refuses to make a new store: a node whose identity says that it
	// had one has lost it, and its log alone does not bring the state back.
	MustExist bool

	Logger *slog.Logger

	// Fatal is told of a fault of the store that no caller can handle, a wrong checksum or
	// a failed write. It ends the process; nil panics. If it returns, as
	// in a test, the goroutine that met the fault ends.
	Fatal func(error)

	// fs replaces the file system, in tests of this package.
	fs vfs.FS
}

// State is the one store in which a node keeps the state machines of all its groups.
// It has no log of its own: what was not flushed yet comes again from the Raft log.
type State struct {
	dir   string
	db    *pebble.DB
	fs    vfs.FS
	log   *slog.Logger
	fatal func(error)

	mu     sync.Mutex
	groups map[eggs.GroupID]*GroupState

	flushMu   sync.Mutex
	flushing  bool
	flushNext *stateFlush // those who wait for the flush after the one that runs

	// step is told the name of each arrow of an installation, in tests.
	step func(eggs.GroupID, string)
}

type stateFlush struct {
	done chan struct{}
	err  error
}

// OpenState opens the store in the folder dir, or makes it.
//
// It fails with Kind NotExist (MustExist and there is none), InUse, Corrupt or IO.
func OpenState(dir string, o StateOptions) (*State, error) {
	s := &State{
		dir: dir, fs: o.fs, log: o.Logger, fatal: o.Fatal,
		groups: map[eggs.GroupID]*GroupState{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.fatal == nil {
		s.fatal = func(err error) { panic(err) }
	}
	if s.fs == nil {
		s.fs = vfs.Default
	}
	if o.InMemory {
		s.fs, s.dir = vfs.NewMem(), "state"
	}
	if err := s.fs.MkdirAll(s.installDir(), 0o700); err != nil {
		return nil, s.fault("raftgroup.OpenState", err)
	}
	cache := pebble.NewCache(stateCacheBytes)
	defer cache.Unref()
	db, err := pebble.Open(s.dir, s.pebbleOptions(cache, o.MustExist))
	if err != nil {
		return nil, s.fault("raftgroup.OpenState", err)
	}
	s.db = db
	if err := errors.Join(s.syncDir(s.dir), s.syncDir(s.fs.PathDir(s.dir))); err != nil {
		db.Close()
		return nil, s.fault("raftgroup.OpenState", err)
	}
	return s, nil
}

func (s *State) pebbleOptions(cache *pebble.Cache, mustExist bool) *pebble.Options {
	o := &pebble.Options{
		FS:                          s.fs,
		DisableWAL:                  true,
		ErrorIfNotExists:            mustExist,
		FormatMajorVersion:          stateFormat,
		Cache:                       cache,
		MemTableSize:                stateMemTableBytes,
		MemTableStopWritesThreshold: stateMemTables,
		MaxOpenFiles:                stateOpenFiles,
		Logger:                      stateLogger{s},
		EventListener:               s.listener(),
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // bits a key: 1 % of false positives
	}
	return o
}

// backgroundRetry is how long after a failed flush or compaction the next one begins.
const backgroundRetry = 500 * time.Millisecond

func (s *State) listener() *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			// A flush that failed is tried again, and whoever waits for it waits on.
			// The store tries at once; waiting here, in its own goroutine, keeps a full or
			// vanished disk from costing a core and a log without end.
			s.log.Error("state store: background work failed", "dir", s.dir, "err", err)
			if _, gone := s.fs.Stat(s.dir); errors.Is(gone, os.ErrNotExist) {
				s.die("raftgroup.State", fmt.Errorf("the folder of the state store is gone: %w", gone))
			}
			time.Sleep(backgroundRetry)
		},
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			s.log.Error("state store: corruption", "dir", s.dir, "file", i.Path, "err", i.Details)
		},
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) {
			s.log.Warn("state store: writers wait", "dir", s.dir, "reason", i.Reason)
		},
	}
}

// Close flushes and closes the store. The groups must have stopped.
func (s *State) Close() error {
	if err := s.Flush(); err != nil {
		return err
	}
	if err := s.db.Close(); err != nil {
		return s.fault("raftgroup.State.Close", err)
	}
	return nil
}

// Flush makes everything that was applied before the call durable. Callers that
// come while a flush runs share the next one.
func (s *State) Flush() error {
	s.flushMu.Lock()
	w := s.flushNext
	if w == nil {
		w = &stateFlush{done: make(chan struct{})}
		s.flushNext = w
		if !s.flushing {
			s.flushing = true
			go s.flushAll()
		}
	}
	s.flushMu.Unlock()
	<-w.done
	return w.err
}

// flushAll flushes until nobody waits.
func (s *State) flushAll() {
	for {
		s.flushMu.Lock()
		w := s.flushNext
		s.flushNext = nil
		if w == nil {
			s.flushing = false
			s.flushMu.Unlock()
			return
		}
		s.flushMu.Unlock()
		if err := s.db.Flush(); err != nil {
			w.err = s.fault("raftgroup.State.Flush", err)
		}
		close(w.done)
	}
}

// Bytes returns how much disk the store takes.
func (s *State) Bytes() uint64 { return s.db.Metrics().DiskSpaceUsage() }

// fault makes an *eggs.Error, naming the store, of what Pebble or the file system said.
func (s *State) fault(op string, err error) error {
	kind := eggs.IO
	switch {
	case eggs.KindOf(err) != eggs.Other:
		kind = eggs.KindOf(err)
	case pebble.IsCorruptionError(err):
		kind = eggs.Corrupt
	case errors.Is(err, pebble.ErrDBDoesNotExist):
		kind = eggs.NotExist
	case errors.Is(err, os.ErrNotExist): // the store names its files
		kind = eggs.Corrupt
	case errors.Is(err, syscall.EAGAIN), strings.Contains(err.Error(), "lock held"):
		kind = eggs.InUse
	case errors.Is(err, syscall.ENOSPC):
		kind = eggs.NoSpace
	case errors.Is(err, os.ErrPermission):
		kind = eggs.Permission
	}
	return &eggs.Error{Op: op, Name: s.dir, Kind: kind, Err: err}
}

// die reports a fault that has no caller to go to, and does not return.
func (s *State) die(op string, err error) {
	var e *eggs.Error
	if !errors.As(err, &e) {
		err = s.fault(op, err)
	}
	s.log.Error("state store failed", "err", err)
	s.fatal(err)
	runtime.Goexit()
}

// stateLogger takes Pebble's own log lines.
type stateLogger struct{ s *State }

func (l stateLogger) Infof(format string, args ...any) {
	if l.s.log.Enabled(context.Background(), slog.LevelDebug) {
		l.s.log.Debug("pebble: " + fmt.Sprintf(format, args...))
	}
}

func (l stateLogger) Errorf(format string, args ...any) {
	l.s.log.Error("pebble: " + fmt.Sprintf(format, args...))
}

// Fatalf is called where Pebble cannot go on, such as when its manifest cannot be written.
func (l stateLogger) Fatalf(format string, args ...any) {
	l.s.die("raftgroup.State", fmt.Errorf(format, args...))
}
