package wire

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"eggsfs/eggs"
)

// Handler answers one request. body is valid during the call; ctx ends with
// the caller's deadline, its cancellation, or its connection.
type Handler func(ctx context.Context, body []byte, from *Hello) (Message, error)

// StreamHandler answers with any number of messages; send waits while the caller is slow.
type StreamHandler func(ctx context.Context, body []byte, from *Hello,
	send func(Message) error) error

// ServerConfig says who serves, and how much. Zero values mean the defaults.
type ServerConfig struct {
	Hello  func() *Hello // who this side is, asked for each connection
	Logger *slog.Logger  // default: discard

	// Admit may refuse a peer after the hellos, in words: for instance one whose
	// certificate does not say what its hello says.
	Admit func(conn net.Conn, peer *Hello) error

	Ping        time.Duration // silence before a peer is pinged; default DefaultPing
	MaxCalls    int           // handlers a connection; Busy beyond; default 4096
	MaxInFlight int           // bytes of requests in a connection's handlers; default 64 MiB
	MaxConns    int           // connections; refused with Busy beyond; default 4096
	CloseWait   time.Duration // how long Close waits for handlers; default 2 s
}

func (c *ServerConfig) setDefaults() {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	or := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	or(&c.MaxCalls, 4096)
	or(&c.MaxInFlight, 64<<20)
	or(&c.MaxConns, 4096)
	if c.CloseWait <= 0 {
		c.CloseWait = 2 * time.Second
	}
}

// Server answers calls. Handlers are set before the first connection is served.
type Server struct {
	cfg     ServerConfig
	unary   map[Method]Handler
	streams map[Method]StreamHandler

	closing atomic.Bool
	running atomic.Int64 // handlers
	workers workers
	mu      sync.Mutex
	conns   map[*serverConn]struct{}
}

// NewServer returns a server without handlers.
func NewServer(cfg ServerConfig) *Server {
	cfg.setDefaults()
	return &Server{
		cfg: cfg, unary: map[Method]Handler{}, streams: map[Method]StreamHandler{},
		conns: map[*serverConn]struct{}{},
	}
}

// Handle sets what answers a method.
func (s *Server) Handle(m Method, h Handler) { s.unary[m] = h }

// HandleStream sets what answers a method with a stream.
func (s *Server) HandleStream(m Method, h StreamHandler) { s.streams[m] = h }

// serverConn is the answering end of a connection.
type serverConn struct {
	*link
	s      *Server
	peer   *Hello
	ctx    context.Context
	cancel context.CancelFunc
	calls  map[uint64]*serverCall // link.mu
	held   int                    // bytes of requests in handlers; link.mu
	lastID uint64                 // the reader's
}

// serverCall is one request in a handler.
type serverCall struct {
	cancel context.CancelFunc
	window *window // of a stream
}

// Serve accepts connections until the listener is closed.
func (s *Server) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go s.ServeConn(conn)
	}
}

// ServeConn answers one connection and returns when it is over.
func (s *Server) ServeConn(conn net.Conn) {
	sc := &serverConn{link: newLink(conn, s.cfg.Ping), s: s, calls: map[uint64]*serverCall{}}
	sc.ctx, sc.cancel = context.WithCancel(context.Background())
	sc.onDead = sc.cancel
	defer sc.cancel()
	r := newFrameReader(sc.link)
	if err := sc.hello(r); err != nil {
		s.cfg.Logger.Info("refused an rpc connection", "peer", conn.RemoteAddr(), "error", err)
		return
	}
	if !s.register(sc) {
		return
	}
	defer s.unregister(sc)
	sc.start()
	err := sc.readLoop(r)
	if broken(err) {
		s.cfg.Logger.Warn("closed an rpc connection", "peer", conn.RemoteAddr(), "error", err)
		sc.refuse(err)
	}
	sc.fail(err)
}

// hello introduces both sides. After an error the connection is closed, and
// the peer was told why unless it is gone.
func (sc *serverConn) hello(r *frameReader) error {
	mine := sc.s.cfg.Hello()
	sc.conn.SetReadDeadline(time.Now().Add(helloTime))
	peer, err := readHello(r)
	if err == nil {
		err = checkHello(mine, peer)
	}
	if err == nil && sc.s.cfg.Admit != nil {
		err = sc.s.cfg.Admit(sc.conn, peer)
	}
	if err == nil && sc.s.closing.Load() {
		err = eggs.E("wire.Hello", eggs.Unavailable, "this node is stopping")
	}
	if err == nil && sc.s.full() {
		err = eggs.E("wire.Hello", eggs.Busy, fmt.Sprintf(
			"this node serves %d connections already", sc.s.cfg.MaxConns))
	}
	if isTimeout(err) {
		err = eggs.E("wire.Hello", eggs.Timeout, "no hello within "+helloTime.String())
	}
	if err != nil {
		if broken(err) {
			refusal := &Hello{
				MinVersion: mine.MinVersion, MaxVersion: mine.MaxVersion, Software: mine.Software,
				Error: ErrorOf(err),
			}
			if writeHello(sc.conn, refusal) == nil {
				sc.refuse(err)
			}
		}
		sc.fail(err)
		return err
	}
	sc.peer = peer
	if err := writeHello(sc.conn, mine); err != nil {
		sc.fail(err)
		return err
	}
	return sc.conn.SetReadDeadline(time.Time{})
}

func (s *Server) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns) >= s.cfg.MaxConns
}

func (s *Server) register(sc *serverConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		sc.conn.Close()
		return false
	}
	s.conns[sc] = struct{}{}
	return true
}

func (s *Server) unregister(sc *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, sc)
}

// begin counts a handler, unless the server is closing.
func (s *Server) begin() bool {
	s.running.Add(1)
	if s.closing.Load() { // otherwise Close sees this one
		s.running.Add(-1)
		return false
	}
	return true
}

// readLoop takes requests until the connection ends or the peer breaks a rule.
func (sc *serverConn) readLoop(r *frameReader) error {
	for {
		h, err := r.next(MaxBody)
		if err != nil {
			return err
		}
		if h.kind == frameRequest {
			if err := sc.request(r, h); err != nil {
				return err
			}
			continue
		}
		if h.size > MaxHello {
			return eggs.E("wire.Read", eggs.TooLarge, fmt.Sprintf(
				"a frame of type %d with %d bytes", h.kind, h.size))
		}
		body, _, err := r.view(h.size)
		if err != nil {
			return err
		}
		switch h.kind {
		case frameVoid, framePong:
		case framePing:
			sc.signal(header{kind: framePong})
		case frameCancel:
			sc.cancelCall(h.id)
		case frameCredit:
			if err := sc.takeCredit(h.id, body); err != nil {
				return err
			}
		case frameGoodbye:
			sc.s.cfg.Logger.Warn("an rpc peer closed", "peer", sc.conn.RemoteAddr(),
				"error", goodbyeError(body))
			return net.ErrClosed
		default:
			return eggs.E("wire.Read", eggs.Invalid, fmt.Sprintf(
				"a frame of type %d came to the answering side", h.kind))
		}
	}
}

// request starts the handler of one request, or answers why not.
func (sc *serverConn) request(r *frameReader, h header) error {
	if h.id <= sc.lastID {
		return eggs.E("wire.Read", eggs.Invalid, "a call id was used twice")
	}
	sc.lastID = h.id
	unary, stream := sc.s.unary[h.method], sc.s.streams[h.method]
	refusal := sc.refusal(h, unary != nil || stream != nil)
	if refusal != nil {
		if err := r.skip(h.size); err != nil {
			return err
		}
		// What waits for room here waits for the peer to read: no more is read from it.
		return sc.answer(sc.ctx, header{kind: frameFailure, method: h.method, id: h.id},
			ErrorOf(refusal))
	}
	b, err := r.take(h.size)
	if err != nil {
		return err
	}
	body := *b
	var limit time.Duration
	if h.flags&flagDeadline != 0 {
		if len(body) < 4 {
			return eggs.E("wire.Read", eggs.Invalid, "a request without the deadline it announces")
		}
		limit = time.Duration(binary.LittleEndian.Uint32(body)) * time.Millisecond
		body = body[4:]
	}
	if !sc.s.begin() {
		release(b)
		return sc.answer(sc.ctx, header{kind: frameFailure, method: h.method, id: h.id},
			ErrorOf(stopping(h.method)))
	}
	ctx, k := sc.enter(h, limit, stream != nil)
	sc.s.workers.run(func() {
		defer sc.s.running.Add(-1)
		if stream != nil {
			err := stream(ctx, body, sc.peer, sc.sender(ctx, h, k.window))
			sc.leave(h, k, nil, err, frameEnd)
		} else {
			m, err := unary(ctx, body, sc.peer)
			sc.leave(h, k, m, err, frameReply)
		}
		release(b)
	})
	return nil
}

func stopping(m Method) error {
	return &eggs.Error{
		Op: "wire.Serve", Name: m.String(), Kind: eggs.Unavailable,
		Err: fmt.Errorf("this node is stopping"),
	}
}

// refusal says why a request does not come to a handler, or nil.
func (sc *serverConn) refusal(h header, known bool) error {
	busy := func(text string) error {
		return &eggs.Error{
			Op: "wire.Serve", Name: h.method.String(), Kind: eggs.Busy,
			Err: fmt.Errorf("%s", text),
		}
	}
	if !known {
		return eggs.E("wire.Serve", eggs.Unsupported, h.method.String()+" is unknown here")
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	switch {
	case len(sc.calls) >= sc.s.cfg.MaxCalls:
		return busy(fmt.Sprintf("%d requests of this connection are in work", len(sc.calls)))
	case sc.held > 0 && sc.held+h.size > sc.s.cfg.MaxInFlight:
		return busy(fmt.Sprintf("%d bytes of requests of this connection are in work", sc.held))
	}
	return nil
}

// enter notes a call and makes its context.
func (sc *serverConn) enter(
	h header, limit time.Duration, stream bool,
) (context.Context, *serverCall) {
	var ctx context.Context
	k := &serverCall{}
	if limit > 0 {
		ctx, k.cancel = context.WithTimeout(sc.ctx, limit)
	} else {
		ctx, k.cancel = context.WithCancel(sc.ctx)
	}
	if stream {
		k.window = &window{opens: make(chan struct{}, 1)}
	}
	sc.mu.Lock()
	sc.calls[h.id] = k
	sc.held += h.size
	sc.mu.Unlock()
	return ctx, k
}

// leave ends a call with its answer.
func (sc *serverConn) leave(h header, k *serverCall, m Message, err error, good frameType) {
	k.cancel()
	a := header{kind: good, method: h.method, id: h.id}
	if err != nil {
		a.kind, m = frameFailure, ErrorOf(err)
	}
	sc.mu.Lock()
	delete(sc.calls, h.id)
	sc.held -= h.size
	sc.mu.Unlock()
	sc.answer(sc.ctx, a, m)
}

// answer adds the last frame of a call. A message that cannot be sent becomes a failure.
func (sc *serverConn) answer(ctx context.Context, h header, m Message) error {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if err := sc.await(ctx); err != nil {
		return err
	}
	if _, err := sc.add(h, nil, m); err != nil {
		h.kind = frameFailure
		_, err = sc.add(h, nil, ErrorOf(err))
		return err
	}
	return nil
}

func (sc *serverConn) cancelCall(id uint64) {
	sc.mu.Lock()
	k := sc.calls[id]
	sc.mu.Unlock()
	if k != nil {
		k.cancel()
	}
}

// Close refuses new requests as not done, waits for handlers up to CloseWait,
// says goodbye and ends all connections.
func (s *Server) Close() {
	s.mu.Lock()
	s.closing.Store(true)
	var conns []*serverConn
	for sc := range s.conns {
		conns = append(conns, sc)
	}
	s.mu.Unlock()
	for _, sc := range conns { // streams do not end by themselves
		sc.mu.Lock()
		for _, k := range sc.calls {
			if k.window != nil {
				k.cancel()
			}
		}
		sc.mu.Unlock()
	}
	for end := time.Now().Add(s.cfg.CloseWait); s.running.Load() > 0 && time.Now().Before(end); {
		time.Sleep(2 * time.Millisecond)
	}
	s.workers.close()
	bye := eggs.E("wire.Serve", eggs.Unavailable, "this node is stopping")
	for _, sc := range conns {
		sc.finish(bye)
	}
	late, cancel := context.WithTimeout(context.Background(), lingerTime)
	defer cancel()
	for _, sc := range conns {
		select {
		case <-sc.dead:
		case <-late.Done():
			sc.fail(bye)
		}
	}
}
