package client

import (
	"context"
	"errors"
	"io"
	"maps"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/erasure"
	"eggsfs/wire"
)

// Limits of writers.
const (
	// A stream holds one span that fills, one on its way, and parity: 3.5 spans
	// at most with two parity blocks to four. When there are more streams than
	// writeMemory is enough for, their spans become shorter.
	maxWriteSpan = 32 << 20
	minWriteSpan = 4 << 20 // shorter ones cost too many requests; a file up to this counts as no stream
	writeMemory  = 448 << 20
	spansHeld    = 7 / 2.0
	firstBuffer  = 16 << 10 // bytes of a new file's buffer; it grows fourfold
	// A file under construction is given up by its shard after 2 h without a
	// change, a session after 1 h.
	keepAliveAfter = 20 * time.Minute
	scrapTime      = 5 * time.Second // best effort: the shard's deadline does it too
)

// writer is a Writer.
type writer struct {
	c         *Client
	dir       eggs.InodeID
	shard     eggs.ShardID
	policy    eggs.Policies
	spanMax   int
	exclusive string // the name reserved for this session, or empty
	ctx       context.Context
	cancel    context.CancelFunc

	// wmu serialises what appends, ends or flushes. It is taken before mu.
	wmu    sync.Mutex
	flight *flight // the last span handed over; nil before
	reader *reader // of what is certified, for ReadAt; nil until needed

	// mu guards the rest, never while waiting for the network.
	mu     sync.Mutex
	sess   *session
	id     eggs.InodeID
	cookie []byte // once constructed
	name   string
	attr   Attr
	mtime  bool   // set by the caller
	given  bool   // construct named an mtime
	atime  bool   // likewise
	set    uint32 // bits of attributes changed since construct
	buf    *erasure.Buffer
	fill   int   // bytes in buf
	limit  int   // bytes at which the span is full
	stream bool  // counted in Client.streams
	start  int64 // offset of buf in the file
	err    error // of a span; sticks
	state  writerState
	last   time.Time // of a request
}

type writerState uint8

const (
	writing writerState = iota
	closed
	aborted
)

// Create starts a file that gets its name at Close.
func (c *Client) Create(ctx context.Context, dir eggs.InodeID, name string, o CreateOptions) (
	Writer, error,
) {
	w, err := c.create(ctx, dir, name, o)
	if err != nil {
		return nil, fail("Create", dir, name, err)
	}
	return w, nil
}

func (c *Client) create(ctx context.Context, dir eggs.InodeID, name string, o CreateOptions) (
	*writer, error,
) {
	if err := eggs.CheckName(name); err != nil {
		return nil, err
	}
	if !dir.IsDir() {
		return nil, eggs.NotDir
	}
	p, err := c.Policies(ctx, dir)
	if err != nil {
		return nil, err
	}
	w := &writer{c: c, dir: dir, shard: dir.Shard(), name: name, policy: p, last: time.Now()}
	w.spanMax = eggs.MaxInline
	if n := len(p.Span); n > 0 {
		w.spanMax = int(max(min(p.Span[n-1].MaxSize, maxWriteSpan), eggs.PageSize))
	}
	w.limit = w.spanMax
	now := eggs.TimeOf(time.Now())
	w.attr = Attr{
		Mode: o.Mode, UID: o.UID, GID: o.GID, Mtime: now, Atime: now, Ctime: now,
		Transient: true,
	}
	if o.Mtime != 0 {
		w.attr.Mtime, w.mtime = o.Mtime, true
	}
	if err := w.renew(ctx); err != nil {
		return nil, err
	}
	if o.Exclusive {
		if err := w.reserve(ctx); err != nil {
			w.sess.giveID(w.id)
			return nil, err
		}
	}
	w.ctx, w.cancel = context.WithCancel(c.ctx)
	c.files.addWriter(w)
	return w, nil
}

// renew takes a session and, when nothing is constructed yet, an id in it.
func (w *writer) renew(ctx context.Context) error {
	ctx, cancel := w.c.limit(ctx)
	defer cancel()
	for try := 0; ; try++ {
		s, err := w.c.session(ctx, w.shard.Group())
		if err != nil {
			return err
		}
		w.mu.Lock()
		constructed := w.cookie != nil
		w.mu.Unlock()
		var id eggs.InodeID
		if !constructed {
			id, err = w.c.takeID(ctx, s)
		}
		if eggs.KindOf(err) == eggs.BadSession && try < 3 {
			continue
		}
		if err != nil {
			return err
		}
		w.mu.Lock()
		w.sess = s
		if !constructed {
			w.id, w.attr.ID = id, id
		}
		w.mu.Unlock()
		return nil
	}
}

// reserve decides O_EXCL: among this client's own files here, since they
// share a session, and among all clients in the shard.
func (w *writer) reserve(ctx context.Context) error {
	if !w.c.files.claim(w.dir, w.name) {
		return &eggs.Error{
			Op: "client.Reserve", Kind: eggs.Exist,
			Err: errors.New("it is being made here"),
		}
	}
	_, err := w.request(ctx, func() []*wire.Verb {
		return []*wire.Verb{{Verb: &wire.Verb_Reserve{
			Reserve: &wire.Reserve{Dir: uint64(w.dir), Name: w.name},
		}}}
	})
	if err != nil {
		w.c.files.unclaim(w.dir, w.name)
		return err
	}
	w.exclusive = w.name
	return nil
}

// request sends verbs in the file's session. When that is over before they
// were sent, another is taken, with another id for a file that has only a
// leased one; verbs is asked again then.
func (w *writer) request(ctx context.Context, verbs func() []*wire.Verb) (*wire.ShardReply, error) {
	for try := 0; ; try++ {
		w.mu.Lock()
		s := w.sess
		v := verbs()
		w.last = time.Now()
		w.mu.Unlock()
		reply, err := w.c.shardIn(ctx, w.shard, s, v...)
		if eggs.KindOf(err) != eggs.BadSession || try == 2 {
			return reply, err
		}
		if err := w.renew(ctx); err != nil {
			return nil, err
		}
	}
}

// ID is the file's inode. It changes only if the session that leased it is
// lost before the first request about it, which takes an hour of silence.
func (w *writer) ID() eggs.InodeID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.id
}

// Size is the bytes appended so far.
func (w *writer) Size() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.start + int64(w.fill)
}

// Attr is what the file would be if closed now.
func (w *writer) Attr() Attr {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.attr
	a.Size = w.start + int64(w.fill)
	return a
}

// SetAttr changes what the file will have at Close.
func (w *writer) SetAttr(s SetAttr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := eggs.TimeOf(time.Now())
	if s.Mode != nil {
		w.attr.Mode = *s.Mode
	}
	if s.UID != nil {
		w.attr.UID = *s.UID
	}
	if s.GID != nil {
		w.attr.GID = *s.GID
	}
	if s.Mtime != nil {
		w.attr.Mtime, w.mtime = *s.Mtime, true
	}
	if s.Atime != nil {
		w.attr.Atime, w.atime = *s.Atime, true
	}
	if s.MtimeNow {
		w.attr.Mtime, w.mtime = now, false
	}
	if s.AtimeNow {
		w.attr.Atime, w.atime = now, false
	}
	w.attr.Ctime = now
	w.set |= setAttrOf(0, s).Set & (setMode | setUID | setGID)
}

// SetXattrs says which extended attributes the file will have at Close.
func (w *writer) SetXattrs(x map[string][]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attr.Xattrs = maps.Clone(x)
}

// Rename changes the name that Close will give.
func (w *writer) Rename(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.name = name
}

// Write appends. A full span is encoded here and sent in the background.
func (w *writer) Write(p []byte) (int, error) {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	n := 0
	for len(p) > 0 {
		if err := w.usable(); err != nil {
			return n, fail("Write", w.ID(), "", err)
		}
		k := w.append(p)
		n += k
		p = p[k:]
		if w.fill >= w.limit {
			if err := w.ship(); err != nil {
				return n, fail("Write", w.ID(), "", err)
			}
		}
	}
	return n, nil
}

// usable says why no more can be written. wmu is held.
func (w *writer) usable() error {
	if f := w.flight; f != nil && f.over() && f.err != nil {
		w.broken(f.err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != writing {
		return eggs.E("client.Write", eggs.ReadOnly, "the file is closed")
	}
	return w.err
}

// broken keeps the first error.
func (w *writer) broken(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	return w.err
}

// append copies as much of p as the span has room for.
func (w *writer) append(p []byte) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.measure(w.fill + len(p))
	n := min(len(p), w.limit-w.fill)
	w.grow(w.fill + n)
	copy(w.buf.Bytes[w.fill:], p[:n])
	w.fill += n
	if !w.mtime {
		w.attr.Mtime = eggs.TimeOf(time.Now())
	}
	return n
}

// measure decides how long the span gets, when it begins to be a large one. mu is held.
func (w *writer) measure(n int) {
	if w.start == 0 && (w.stream || n <= minWriteSpan) || w.start > 0 && w.fill > 0 {
		return
	}
	streams := w.c.streams.Load()
	if !w.stream {
		w.stream = true
		streams = w.c.streams.Add(1)
	}
	share := int(writeMemory/spansHeld) / int(streams) &^ (eggs.MaxStripes<<12 - 1)
	w.limit = min(max(share, minWriteSpan), w.spanMax)
}

// grow makes room for n bytes. The second span gets its whole buffer at once.
func (w *writer) grow(n int) {
	have := 0
	if w.buf != nil {
		have = len(w.buf.Bytes)
	}
	if n <= have {
		return
	}
	size := max(n, 4*have, firstBuffer)
	if w.start > 0 || size >= w.limit/2 {
		size = w.fullBuffer()
	}
	next := erasure.NewBuffer(size)
	if w.buf != nil {
		copy(next.Bytes, w.buf.Bytes[:w.fill])
		w.buf.Release()
	}
	w.buf = next
}

// fullBuffer is the bytes of a whole span with its padding.
func (w *writer) fullBuffer() int {
	size := int64(w.limit)
	l, err := erasure.Plan(size, w.class(size).Parity, w.cell())
	if err != nil {
		return int(size)
	}
	return int(max(size, l.Padded()))
}

// class is the policy's choice for a span of size bytes.
func (w *writer) class(size int64) eggs.SpanClass {
	for _, k := range w.policy.Span {
		if size <= k.MaxSize {
			return k
		}
	}
	if n := len(w.policy.Span); n > 0 {
		return w.policy.Span[n-1]
	}
	return eggs.SpanClass{MaxSize: size, Parity: eggs.Parity{D: 1}}
}

func (w *writer) cell() uint32 {
	if w.policy.Stripe.CellSize == 0 {
		return 1 << 20
	}
	return w.policy.Stripe.CellSize
}

// inline reports whether a last span of n bytes lives in the shard.
func (w *writer) inline(n int) bool {
	return n <= int(min(w.policy.Inline.MaxSize, eggs.MaxInline))
}

// ReadAt reads back what was appended: from memory, or, what has left it,
// from blocks.
func (w *writer) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		k, err := w.readSome(p[n:], off+int64(n))
		n += k
		if err == io.EOF {
			return n, io.EOF
		}
		if err != nil {
			return n, fail("ReadAt", w.ID(), "", err)
		}
	}
	return n, nil
}

// readSome reads from the one place where off is.
func (w *writer) readSome(p []byte, off int64) (int, error) {
	w.mu.Lock()
	if w.state != writing {
		w.mu.Unlock()
		return 0, eggs.E("client.ReadAt", eggs.Invalid, "the writer has ended")
	}
	size := w.start + int64(w.fill)
	if off >= size {
		w.mu.Unlock()
		return 0, io.EOF
	}
	if off >= w.start && w.buf != nil {
		n := copy(p, w.buf.Bytes[off-w.start:w.fill])
		w.mu.Unlock()
		return n, nil
	}
	start := w.start
	w.mu.Unlock()
	return w.readSent(p, off, start)
}

// readSent reads what was handed over: before start.
func (w *writer) readSent(p []byte, off, start int64) (int, error) {
	w.wmu.Lock()
	f := w.flight
	if f == nil {
		w.wmu.Unlock()
		return 0, eggs.E("client.ReadAt", eggs.Invalid, "the file is closed")
	}
	if off >= f.off && off < f.off+f.size {
		if n := f.copy(p, off); n > 0 {
			w.wmu.Unlock()
			return n, nil
		}
		if err := w.certify(); err != nil {
			w.wmu.Unlock()
			return 0, err
		}
	}
	// The span before f is certified by the request that begins f.
	<-f.begun
	if f.over() && f.err != nil {
		w.wmu.Unlock()
		return 0, f.err
	}
	certified := f.off
	if f.certified {
		certified += f.size
	}
	if w.reader == nil || w.reader.size < certified {
		if w.reader != nil {
			w.reader.Close()
		}
		w.mu.Lock()
		w.reader = newReader(w.c, w.id, w.cookie, certified)
		w.mu.Unlock()
	}
	r := w.reader
	w.wmu.Unlock()
	end := min(int64(len(p)), start-off, r.size-off)
	return r.ReadAt(p[:end], off)
}

// keep sends something small so that neither file nor session expires.
func (w *writer) keep() {
	ctx, cancel := context.WithTimeout(w.ctx, w.c.o.Timeout)
	defer cancel()
	_, err := w.request(ctx, func() []*wire.Verb {
		if w.cookie != nil {
			return []*wire.Verb{{Verb: &wire.Verb_SetAttr{SetAttr: &wire.SetAttr{
				Id: uint64(w.id), Cookie: w.cookie, Set: setMode, Mode: w.attr.Mode,
			}}}}
		}
		if w.exclusive != "" {
			return []*wire.Verb{{Verb: &wire.Verb_Reserve{
				Reserve: &wire.Reserve{Dir: uint64(w.dir), Name: w.exclusive},
			}}}
		}
		return nil // an empty request keeps the session
	})
	if err != nil {
		w.c.log.Warn("an open file may expire", "file", w.ID(), "err", err)
	}
}
