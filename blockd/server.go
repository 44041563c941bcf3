package blockd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

// Config says which disks to serve. Zero limits mean the defaults.
type Config struct {
	Auth    *auth.Blocks
	Node    eggs.NodeID
	Cluster eggs.ClusterID // disks of another are refused; 0: do not look
	Disks   []DiskConfig
	Reserve uint64 // bytes of each file system that puts leave free
	Logger  *slog.Logger
	Event   func(level, text string) // for the node's list of events; nil: the Logger

	MaxConns int           // connections at a time; more are told Busy
	Stall    time.Duration // without progress in the middle of a request
	Idle     time.Duration // between requests
	Look     time.Duration // how often the disks are looked at
}

// DiskConfig is one disk. Want 0 takes whatever disk is there, and formats an
// empty folder; otherwise only that disk is served.
type DiskConfig struct {
	Path  string
	Class uint8
	Want  eggs.DiskID

	fault func(op, name string) error // for tests, see disk.Options
}

// Defaults of Config.
const (
	// DefaultMaxConns bounds memory: a connection in the middle of a request
	// holds transferBytes and a table, at most 640 KiB.
	DefaultMaxConns = 512
	// DefaultStall is longer than any disk takes for one transfer that ever ends.
	DefaultStall = 30 * time.Second
	// DefaultIdle lets clients keep connections over a pause of their user.
	DefaultIdle = 10 * time.Minute
	// DefaultLook is how late a pulled disk that nobody uses is noticed.
	DefaultLook = 5 * time.Second
)

// Server serves the blocks of a node's disks.
type Server struct {
	config   Config
	log      *slog.Logger
	services []*service // as configured
	byID     map[eggs.DiskID]*service

	stop chan struct{}
	work sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// Open opens all disks at once. A disk that cannot be opened is shown by Disks with its
// error, and the others are served. It fails with Kind Invalid if c makes no sense.
func Open(c Config) (*Server, error) {
	if c.Auth == nil {
		return nil, eggs.E("blockd.Open", eggs.Invalid, "no keys")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.MaxConns, DefaultMaxConns)
	setDefault(&c.Stall, DefaultStall)
	setDefault(&c.Idle, DefaultIdle)
	setDefault(&c.Look, DefaultLook)
	s := &Server{
		config: c, log: c.Logger, services: make([]*service, len(c.Disks)),
		byID: map[eggs.DiskID]*service{}, conns: map[net.Conn]struct{}{},
		stop: make(chan struct{}),
	}
	var opening sync.WaitGroup
	for i, dc := range c.Disks {
		opening.Go(func() { s.services[i] = openService(c, dc, s.say) })
	}
	opening.Wait()
	volumes := map[uint64]*volume{}
	for _, d := range s.services {
		s.admit(d, volumes)
	}
	s.work.Go(s.look)
	return s, nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// admit takes a disk that was opened into service.
func (s *Server) admit(d *service, volumes map[uint64]*volume) {
	if d.serving(false) != nil {
		return
	}
	if twin := s.byID[d.id]; twin != nil {
		d.setGone(&eggs.Error{
			Op: "blockd.Open", Name: d.config.Path, Kind: eggs.Conflict,
			Err: fmt.Errorf("%s has the same identity: one is a copy of the other", twin.config.Path),
		})
		return
	}
	v := volumes[d.folder.Device()]
	if v == nil {
		v = &volume{reserve: s.config.Reserve}
		volumes[d.folder.Device()] = v
	}
	v.join()
	d.volume = v
	s.byID[d.id] = d
	s.work.Go(func() { d.count(s.stop) })
}

// say tells the operator.
func (s *Server) say(level, text string) {
	switch {
	case s.config.Event != nil:
		s.config.Event(level, text)
	case level == "error":
		s.log.Error(text)
	default:
		s.log.Info(text)
	}
}

// look checks now and then that the disks are still there.
func (s *Server) look() {
	tick := time.NewTicker(s.config.Look)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		for _, d := range s.services {
			if d.serving(false) == nil {
				d.look(0)
			}
		}
	}
}

// Disks returns the truth about each disk, in the order of the configuration.
func (s *Server) Disks() []*wire.DiskStatus {
	out := make([]*wire.DiskStatus, len(s.services))
	for i, d := range s.services {
		out[i] = d.status(s.config.Stall)
	}
	return out
}

// begin finds the disk of a request and counts the request. Kinds: BadDisk,
// Busy. Without an error, done must be called when the request is over.
func (s *Server) begin(id uint64, write bool) (*service, error) {
	d := s.byID[eggs.DiskID(id)]
	if d == nil {
		return nil, &eggs.Error{
			Op: "blockd.Disk", Kind: eggs.BadDisk, Disks: []eggs.DiskID{eggs.DiskID(id)},
			Err: errors.New("this node does not serve it"),
		}
	}
	if err := d.serving(write); err != nil {
		return nil, err
	}
	// A disk that hangs may take half of the connections with it, not all.
	if n := d.stats.busy.Add(1); n > max(int64(s.config.MaxConns)/2, 1) {
		d.done()
		return nil, &eggs.Error{
			Op: "blockd.Disk", Name: d.name(), Kind: eggs.Busy,
			Err: fmt.Errorf("%d requests are being served", n-1),
		}
	}
	return d, nil
}

// done ends what begin began.
func (s *service) done() { s.stats.busy.Add(-1) }

// enter notes a connection, or fails with Kind Busy or Unavailable.
func (s *Server) enter(nc net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return eggs.E("blockd.ServeConn", eggs.Unavailable, "the node is stopping")
	case len(s.conns) >= s.config.MaxConns:
		return eggs.E("blockd.ServeConn", eggs.Busy, fmt.Sprintf(
			"%d block connections are open", len(s.conns)))
	}
	s.conns[nc] = struct{}{}
	s.work.Add(1)
	return nil
}

func (s *Server) leave(nc net.Conn) {
	s.mu.Lock()
	delete(s.conns, nc)
	s.mu.Unlock()
	s.work.Done()
}

// closeTime bounds how long Close waits for what is going on: a disk that hangs
// must not keep the node from stopping.
const closeTime = 5 * time.Second

// Close ends all connections and gives the disks up.
func (s *Server) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	close(s.stop)
	for nc := range s.conns {
		nc.Close()
	}
	s.mu.Unlock()
	quiet := make(chan struct{})
	go func() {
		s.work.Wait()
		for _, d := range s.services {
			d.probe.work.Wait()
		}
		close(quiet)
	}()
	select {
	case <-quiet:
		for _, d := range s.services {
			d.close()
		}
	case <-time.After(min(closeTime, s.config.Stall)):
		s.log.Error("a disk hangs: stopped without waiting for it")
	}
}
