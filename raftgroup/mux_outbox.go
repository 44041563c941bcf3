package raftgroup

import (
	"errors"
	"net"
	"runtime"
	"sync"

	"eggsfs/eggs"
)

var (
	errQueueFull = errors.New("too many bytes wait for this connection")
	errLinkLost  = errors.New("connection lost")
)

// outbox collects frames for one connection; what was put while a write was
// under way leaves in the next one. It never holds more than maxOut bytes.
type outbox struct {
	conn  net.Conn
	stats *counters

	mu     sync.Mutex
	room   sync.Cond // signalled when buf was taken, and at the end
	buf    []byte
	closed bool

	wake chan struct{} // holds one: there is something in buf, or the end
}

func newOutbox(conn net.Conn, stats *counters) *outbox {
	o := &outbox{conn: conn, stats: stats, wake: make(chan struct{}, 1)}
	o.room.L = &o.mu
	return o
}

// put adds a frame. When there is no room it waits for some, or fails with
// errQueueFull if wait is false: goroutines that read connections never wait.
func (o *outbox) put(
	kind byte, group eggs.GroupID, id uint64, wait bool, fill func([]byte) []byte,
) error {
	o.mu.Lock()
	for !o.closed && len(o.buf) > maxOut {
		if !wait {
			o.mu.Unlock()
			return errQueueFull
		}
		o.room.Wait()
	}
	if o.closed {
		o.mu.Unlock()
		return errLinkLost
	}
	o.buf = appendFrame(o.buf, kind, group, id, fill)
	o.mu.Unlock()
	o.stats.framesOut.Add(1)
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return nil
}

// run writes until close or a failed write, which closes.
func (o *outbox) run() {
	var spare []byte
	for range o.wake {
		for {
			// A commit of the log wakes many groups at one time. Those that are ready
			// to run put their frames first; when there are none this costs nothing.
			runtime.Gosched()
			o.mu.Lock()
			b := o.buf
			o.buf = spare[:0]
			closed := o.closed
			o.room.Broadcast()
			o.mu.Unlock()
			if closed {
				return
			}
			if len(b) == 0 {
				spare = b
				break
			}
			if _, err := o.conn.Write(b); err != nil {
				o.close()
				return
			}
			o.stats.writes.Add(1)
			o.stats.bytesOut.Add(uint64(len(b)))
			if spare = b; cap(b) > maxOut/4 { // one burst must not hold memory for ever
				spare = nil
			}
		}
	}
}

// close ends the connection and everyone who waits for room.
func (o *outbox) close() {
	o.mu.Lock()
	first := !o.closed
	o.closed = true
	o.room.Broadcast()
	o.mu.Unlock()
	if first {
		_ = o.conn.Close()
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
}
