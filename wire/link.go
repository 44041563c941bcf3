package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"eggsfs/eggs"
)

// Limits of a connection.
const (
	// maxBuffered is the bytes of frames that wait to be written before those
	// who add more must wait: two full socket buffers.
	maxBuffered = 1 << 20
	// keepBuffer is the largest write buffer kept, in bytes.
	keepBuffer = 256 << 10
	// DefaultPing is how long a connection may be silent before it is asked for a sign of life.
	DefaultPing = 2 * time.Second
	// lingerTime and lingerBytes bound how long a refused peer is listened to, so that it can
	// read why before the connection is reset.
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 1 << 20
	// helloTime bounds the exchange of hellos: round trips, not work.
	helloTime = 5 * time.Second
)

// link is one end of an RPC connection: it collects frames and writes them
// together, and gives a silent peer up.
//
// Everything before stream offset handed may have reached the peer, what is
// in out (which begins there) has not.
type link struct {
	conn net.Conn
	ping time.Duration

	mu     sync.Mutex
	out    []byte
	handed uint64
	last   error         // set: nothing is added; close with it when out is written
	room   chan struct{} // closed when out was taken; nil when nobody waits
	err    error         // why it is dead

	kick    chan struct{} // 1 deep: out is no longer empty
	dead    chan struct{}
	onDead  func()       // called once, when err is set, without mu
	writing atomic.Int64 // unix nanoseconds since a write is going on, or 0
	heard   atomic.Bool  // since the last tick
	silent  int          // ticks; the timer's
	timer   *time.Timer
}

func newLink(conn net.Conn, ping time.Duration) *link {
	if ping <= 0 {
		ping = DefaultPing
	}
	return &link{
		conn: conn, ping: ping,
		kick: make(chan struct{}, 1), dead: make(chan struct{}),
		onDead: func() {},
	}
}

// start begins writing and watching. Reading is its caller's.
func (l *link) start() {
	go l.writeLoop()
	l.mu.Lock()
	l.timer = time.AfterFunc(l.ping/2, l.tick)
	l.mu.Unlock()
}

// Read is the connection's, noting that the peer lives.
func (l *link) Read(p []byte) (int, error) {
	n, err := l.conn.Read(p)
	if n > 0 && !l.heard.Load() {
		l.heard.Store(true)
	}
	return n, err
}

// Silence is counted in ticks of half a ping interval.
const (
	silentPing = 2 // ticks until it is asked
	silentDead = 5 // ticks until it is given up
)

// tick asks a silent peer for a sign of life and gives up one that stays
// silent or takes nothing.
func (l *link) tick() {
	if l.heard.Swap(false) {
		l.silent = 0
	} else {
		l.silent++
	}
	patience := silentDead * l.ping / 2
	since := l.writing.Load()
	stuck := since != 0 && time.Since(time.Unix(0, since)) > patience
	if l.silent >= silentDead || stuck {
		l.fail(eggs.E("wire.Ping", eggs.Unavailable, "no sign of life for "+patience.String()))
		return
	}
	if l.silent >= silentPing {
		l.signal(header{kind: framePing})
	}
	l.mu.Lock()
	if l.err == nil {
		l.timer.Reset(l.ping / 2)
	}
	l.mu.Unlock()
}

// add appends a frame. l.mu is held. The frame begins at the offset returned.
func (l *link) add(h header, prefix []byte, m Message) (start uint64, err error) {
	at := len(l.out)
	out, err := appendFrame(l.out, h, prefix, m)
	l.out = out
	if err == nil && at == 0 {
		select {
		case l.kick <- struct{}{}:
		default:
		}
	}
	return l.handed + uint64(at), err
}

// await waits until there is room for a frame. l.mu is held before and after. It fails
// when the link is dead or closing, or ctx is over.
func (l *link) await(ctx context.Context) error {
	for {
		if l.err != nil {
			return l.err
		}
		if l.last != nil {
			return l.last
		}
		if len(l.out) < maxBuffered {
			return nil
		}
		if l.room == nil {
			l.room = make(chan struct{})
		}
		room := l.room
		l.mu.Unlock()
		select {
		case <-room:
		case <-l.dead:
		case <-ctx.Done():
		}
		l.mu.Lock()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// signal adds a frame without a body unless there is no room: those that can
// be left out, since their sender repeats them or does without.
func (l *link) signal(h header) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && l.last == nil && len(l.out) < maxBuffered {
		l.add(h, nil, nil)
	}
}

// writeLoop writes what has been collected, all at once, again and again.
func (l *link) writeLoop() {
	var spare []byte
	for {
		select {
		case <-l.kick:
		case <-l.dead:
			return
		}
		for {
			runtime.Gosched()
			l.mu.Lock()
			if l.err != nil { // from here on nothing is handed over: failCalls relies on it
				l.mu.Unlock()
				return
			}
			buf, last := l.out, l.last
			l.out = spare[:0]
			l.handed += uint64(len(buf))
			if l.room != nil {
				close(l.room)
				l.room = nil
			}
			l.mu.Unlock()
			if len(buf) == 0 {
				spare = buf
				if last != nil {
					l.fail(last)
				}
				break
			}
			l.writing.Store(time.Now().UnixNano())
			_, err := l.conn.Write(buf)
			l.writing.Store(0)
			if err != nil {
				l.fail(err)
				return
			}
			if spare = buf; cap(buf) > keepBuffer {
				spare = nil
			}
		}
	}
}

// fail ends the link at once.
func (l *link) fail(err error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = err
	close(l.dead)
	if l.timer != nil {
		l.timer.Stop()
	}
	l.mu.Unlock()
	l.conn.Close()
	l.onDead()
}

// finish says why in a goodbye, writes what there is, and ends the link. The
// caller goes on reading with linger, or calls fail after a while.
func (l *link) finish(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil || l.last != nil {
		return
	}
	l.add(header{kind: frameGoodbye}, nil, ErrorOf(err))
	l.last = err
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// refuse says goodbye and throws away what still comes, for a bounded time, so that
// the goodbye is not lost in a reset. It returns with the link dead.
func (l *link) refuse(err error) {
	l.conn.SetReadDeadline(time.Now().Add(lingerTime))
	l.mu.Lock()
	ended := l.err != nil || l.last != nil
	if !ended {
		l.add(header{kind: frameGoodbye}, nil, ErrorOf(err))
	}
	l.mu.Unlock()
	if !ended {
		io.CopyN(io.Discard, l.conn, lingerBytes)
	}
	l.fail(err)
}

// broken reports whether err says that the peer broke the protocol, which it
// is told, rather than that the connection is gone.
func broken(err error) bool {
	var e *eggs.Error
	return errors.As(err, &e)
}

// isTimeout reports whether err is a deadline of the connection.
func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
