package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// keepEvents is how many events a node remembers: enough for a person to see
// what just happened; the log has the rest.
const keepEvents = 100

// events is what happened lately, for people.
type events struct {
	log  *slog.Logger
	mu   sync.Mutex
	ring []*wire.Event
}

func newEvents(log *slog.Logger) *events { return &events{log: log} }

// add remembers and logs an event. level is info, warn or error.
func (e *events) add(level, text string) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	e.log.Log(context.Background(), l, text)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ring = append(e.ring, &wire.Event{Time: int64(eggs.TimeOf(time.Now())), Level: level, Text: text})
	if len(e.ring) > keepEvents {
		e.ring = append([]*wire.Event(nil), e.ring[len(e.ring)-keepEvents:]...)
	}
}

func (e *events) all() []*wire.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]*wire.Event(nil), e.ring...)
}
