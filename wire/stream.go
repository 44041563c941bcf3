package wire

import (
	"context"
	"encoding/binary"
	"sync"

	"eggsfs/eggs"
)

// StreamWindow is the bytes of a stream's items that may be under way or
// waiting for their taker; one item that is longer travels alone.
const StreamWindow = 1 << 20

// itemQueue holds a stream's items between the connection and the taker.
type itemQueue struct {
	mu    sync.Mutex
	list  []*[]byte
	bytes int
	ready chan struct{} // 1 deep
}

// push adds an item. It fails when the peer sent more than it was allowed.
func (q *itemQueue) push(b *[]byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) > 0 && q.bytes+itemCost(len(*b)) > StreamWindow {
		return eggs.E("wire.Stream", eggs.TooLarge, "the peer sent more than the stream's window")
	}
	q.list = append(q.list, b)
	q.bytes += itemCost(len(*b))
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return nil
}

// pop takes the first item, or nil.
func (q *itemQueue) pop() *[]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == 0 {
		return nil
	}
	b := q.list[0]
	q.list = q.list[1:]
	q.bytes -= itemCost(len(*b))
	return b
}

// itemCost is what an item takes of the window: empty ones are not free.
func itemCost(n int) int { return n + headerBytes }

// Stream sends req and gives each message of the answer to on, one at a time, until the
// peer ends the stream, on fails, or ctx is over. body is valid during the call of on only. A
// slow on slows the peer down, not the other calls of the connection.
func (c *Conn) Stream(
	ctx context.Context, m Method, req Message, on func(body []byte) error,
) error {
	q := &itemQueue{ready: make(chan struct{}, 1)}
	k := &call{done: make(chan struct{}, 1), items: q}
	if err := c.send(ctx, m, req, k); err != nil {
		return err
	}
	ended := false
	for {
		for b := q.pop(); b != nil; b = q.pop() {
			n := len(*b)
			err := on(*b)
			release(b)
			if err != nil {
				c.abandon(err, m, k)
				return err
			}
			if !ended {
				c.credit(k.id, itemCost(n))
			}
		}
		if ended {
			return k.err
		}
		select {
		case <-q.ready:
		case <-k.done: // items that came before it are still in q
			ended = true
		case <-ctx.Done():
			c.abandon(ctx.Err(), m, k)
			<-k.done
			return k.err
		}
	}
}

// credit lets the peer send as many bytes again.
func (c *Conn) credit(id uint64, n int) {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], uint32(n))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && c.last == nil {
		c.add(header{kind: frameCredit, id: id}, b[:], nil)
	}
}

// takeItem puts one message of a stream into its queue.
func (c *Conn) takeItem(r *frameReader, h header) error {
	c.mu.Lock()
	k := c.calls[h.id]
	c.mu.Unlock()
	if k == nil {
		return r.skip(h.size) // given up
	}
	if k.items == nil {
		return eggs.E("wire.Read", eggs.Invalid, "a stream in answer to a single call")
	}
	b, err := r.take(h.size)
	if err != nil {
		return err
	}
	return k.items.push(b)
}

// window is how much a stream's server may still send. Fields are under link.mu.
type window struct {
	used  int
	opens chan struct{} // 1 deep: used fell
}

// sender returns the send function of a stream: it waits while the window is full.
func (sc *serverConn) sender(ctx context.Context, h header, w *window) func(Message) error {
	over := func(err error) error {
		return &eggs.Error{Op: "wire.Stream", Name: h.method.String(), Kind: eggs.Canceled, Err: err}
	}
	return func(m Message) error {
		cost := itemCost(m.SizeVT())
		sc.mu.Lock()
		defer sc.mu.Unlock()
		for {
			if err := ctx.Err(); err != nil {
				return over(err)
			}
			if err := sc.await(ctx); err != nil {
				return over(err)
			}
			if w.used == 0 || w.used+cost <= StreamWindow {
				break
			}
			sc.mu.Unlock()
			select {
			case <-w.opens:
			case <-ctx.Done():
			}
			sc.mu.Lock()
		}
		w.used += cost
		_, err := sc.add(header{kind: frameItem, method: h.method, id: h.id}, nil, m)
		return err
	}
}

// takeCredit opens a stream's window.
func (sc *serverConn) takeCredit(id uint64, body []byte) error {
	if len(body) != 4 {
		return eggs.E("wire.Read", eggs.Invalid, "a credit that is not 4 bytes")
	}
	n := int(binary.LittleEndian.Uint32(body))
	sc.mu.Lock()
	defer sc.mu.Unlock()
	k := sc.calls[id]
	if k == nil || k.window == nil {
		return nil // ended meanwhile
	}
	if n > k.window.used {
		return eggs.E("wire.Read", eggs.Invalid, "a credit for more than was sent")
	}
	k.window.used -= n
	select {
	case k.window.opens <- struct{}{}:
	default:
	}
	return nil
}
