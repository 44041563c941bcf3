package gossip

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Lines of memberlist's that are passed on: a burst tells what happened, and
// what strangers or a broken network cause must not fill a disk.
const (
	logEvery = 2 * time.Second
	logBurst = 20
)

// bridge passes memberlist's lines on. What it calls an error is mostly a peer
// that does not answer, which is this package's daily work, so levels go down one.
type bridge struct {
	to      *slog.Logger
	limit   *rate.Limiter
	dropped int         // log.Logger calls Write one at a time
	closed  atomic.Bool // what memberlist still says of sockets closed under it is no news
}

func newBridge(to *slog.Logger) *bridge {
	return &bridge{to: to, limit: rate.NewLimiter(rate.Every(logEvery), logBurst)}
}

func (b *bridge) logger() *log.Logger { return log.New(b, "", 0) }

var levels = []struct {
	mark  []byte
	level slog.Level
}{
	{[]byte("[DEBUG] memberlist: "), slog.LevelDebug - 4},
	{[]byte("[INFO] memberlist: "), slog.LevelDebug},
	{[]byte("[WARN] memberlist: "), slog.LevelInfo},
	{[]byte("[ERR] memberlist: "), slog.LevelInfo},
}

// Write takes one line.
func (b *bridge) Write(p []byte) (int, error) {
	level, text := slog.LevelInfo, p
	for _, l := range levels {
		if rest, ok := bytes.CutPrefix(p, l.mark); ok {
			level, text = l.level, rest
			break
		}
	}
	ctx := context.Background()
	if !b.to.Enabled(ctx, level) || b.closed.Load() {
		return len(p), nil
	}
	if !b.limit.Allow() {
		b.dropped++
		return len(p), nil
	}
	text, _, _ = bytes.Cut(text, []byte(" meta:(")) // bytes that tell nobody anything
	line := string(bytes.TrimSpace(text))
	if b.dropped > 0 {
		b.to.Log(ctx, level, line, "left_out", b.dropped)
		b.dropped = 0
	} else {
		b.to.Log(ctx, level, line)
	}
	return len(p), nil
}
