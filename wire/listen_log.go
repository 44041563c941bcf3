package wire

import (
	"errors"
	"io"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"eggsfs/eggs"
)

// Limits of what strangers can make a node write.
const (
	strangerPause = time.Minute // between two lines of one kind about one address
	maxRemembered = 1024        // of those; beyond, all are forgotten at once
)

// strangerLog writes about each address, and each kind of trouble with it, once in a while.
type strangerLog struct {
	logger *slog.Logger
	mu     sync.Mutex
	last   map[string]*strangerLine
}

type strangerLine struct {
	at    time.Time
	since int // not written since
}

func newStrangerLog(l *slog.Logger) *strangerLog {
	return &strangerLog{logger: l, last: map[string]*strangerLine{}}
}

// say logs why a connection from host was closed, unless there was a line
// about that host lately. A peer that went away by itself is not worth one.
func (s *strangerLog) say(host string, err error) {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return
	}
	about := host + " " + eggs.KindOf(err).String()
	s.mu.Lock()
	defer s.mu.Unlock()
	line := s.last[about]
	if line != nil && time.Since(line.at) < strangerPause {
		line.since++
		return
	}
	more := 0
	if line != nil {
		more = line.since
	}
	if len(s.last) >= maxRemembered {
		clear(s.last)
	}
	s.last[about] = &strangerLine{at: time.Now()}
	s.logger.Warn("closed a connection", "peer", host, "error", err, "unreported", more)
}

// listenKind is the Kind of an error of listening.
func listenKind(err error) eggs.Kind {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return eggs.InUse
	case errors.Is(err, syscall.EACCES):
		return eggs.Permission
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return eggs.Invalid
	}
	return eggs.IO
}
