package blockd

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

const (
	// transferBytes is what is read, verified and written at a time: large
	// enough that system calls do not show, small enough to stay in a
	// processor's cache between them.
	transferBytes = 512 << 10
	// requestBuffer holds a request's header, which is about 70 bytes.
	requestBuffer = 4 << 10
	// lingerTime is how long a refused peer may read why before the connection is reset.
	lingerTime = 500 * time.Millisecond
)

var transfers = sync.Pool{New: func() any { return new([transferBytes]byte) }}

var tables = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}

// conn is one connection.
type conn struct {
	server *Server
	nc     net.Conn
	in     *bufio.Reader
	listed listing
	last   time.Time // when the deadlines were last set
	known  bool      // has shown a certificate
	secure bool      // TLS: the peer has the cluster's key
}

// errHangUp ends a connection on which an error was told already, or cannot be.
var errHangUp = errors.New("hang up")

// ServeConn serves requests until the peer goes, says something that is no request, or is too
// slow. It closes the connection.
func (s *Server) ServeConn(nc net.Conn) {
	c := &conn{server: s, nc: nc, in: bufio.NewReaderSize(nc, requestBuffer)}
	_, c.secure = nc.(*tls.Conn)
	if err := s.enter(nc); err != nil {
		c.refuse(err)
		nc.Close()
		return
	}
	defer s.leave(nc)
	defer nc.Close()
	for {
		idle := s.config.Stall // a stranger does not keep a connection for long
		if c.known {
			idle = s.config.Idle
		}
		nc.SetDeadline(time.Now().Add(idle))
		if _, err := c.in.Peek(1); err != nil {
			return
		}
		c.last = time.Time{}
		c.progress()
		var req wire.BlockRequest
		if err := wire.ReadBlockFrame(c.in, &req); err != nil {
			if k := eggs.KindOf(err); k == eggs.Invalid || k == eggs.TooLarge {
				c.refuse(err)
			}
			return
		}
		if err := c.serve(&req); err != nil {
			if !errors.Is(err, errHangUp) {
				c.refuse(err)
			}
			return
		}
	}
}

// serve answers one request. It returns nil when another may follow.
func (c *conn) serve(req *wire.BlockRequest) error {
	list := req.GetList()
	if list == nil {
		c.listed = listing{}
	}
	switch {
	case req.GetPut() != nil:
		return c.put(req.GetPut().Certificate)
	case req.GetGet() != nil:
		return c.get(req.GetGet())
	case req.GetErase() != nil:
		return c.erase(req.GetErase().Certificate)
	case req.GetCheck() != nil:
		return c.check(req.GetCheck().Certificate)
	case list != nil:
		return c.list(list)
	}
	return eggs.E("blockd.ServeConn", eggs.Unsupported, "an operation that this version does not know")
}

// progress gives the peer another Stall of time.
func (c *conn) progress() {
	now := time.Now()
	if now.Sub(c.last) > c.server.config.Stall/16 {
		c.last = now
		c.nc.SetDeadline(now.Add(c.server.config.Stall))
	}
}

// reply sends an answer that nothing follows.
func (c *conn) reply(r *wire.BlockReply) error {
	c.progress()
	if err := wire.WriteBlockFrame(c.nc, r); err != nil {
		return errHangUp
	}
	return nil
}

// fail answers with an error, after which left more bytes of the request are thrown away, so
// that the connection stays good.
func (c *conn) fail(err error, left int64) error {
	if e := c.reply(&wire.BlockReply{Error: wire.ErrorOf(err)}); e != nil {
		return e
	}
	for left > 0 {
		c.progress()
		n, err := io.CopyN(io.Discard, c.in, min(left, transferBytes))
		left -= n
		if err != nil {
			return errHangUp
		}
	}
	return nil
}

// refuse answers with an error before the connection is closed, and lingers so
// that a peer in the middle of sending gets to read it.
func (c *conn) refuse(err error) {
	c.nc.SetDeadline(time.Now().Add(lingerTime))
	if wire.WriteBlockFrame(c.nc, &wire.BlockReply{Error: wire.ErrorOf(err)}) != nil {
		return
	}
	if w, ok := c.nc.(interface{ CloseWrite() error }); ok {
		w.CloseWrite()
	}
	io.CopyN(io.Discard, c.nc, transferBytes)
}

// certOf takes a certificate apart. It fails with Kind Invalid, after which
// the connection cannot go on.
func certOf(c *wire.Certificate) (auth.BlockCert, error) {
	if c == nil || c.Block == 0 || c.Disk == 0 {
		return auth.BlockCert{}, eggs.E("blockd.ServeConn", eggs.Invalid, "a request without a certificate")
	}
	return auth.BlockCert{
		Disk: eggs.DiskID(c.Disk), Block: eggs.BlockID(c.Block),
		Size: c.Size, CRC: c.Crc, Mark: c.Mark,
	}, nil
}

func checkSize(size uint32) error {
	if size == 0 || size%pageSize != 0 || size > eggs.MaxBlock {
		return eggs.E("blockd.ServeConn", eggs.Invalid, "a block is whole pages, and not more than MaxBlock")
	}
	return nil
}

// forbidden is the answer to a wrong certificate.
func forbidden(op string, cert auth.BlockCert) error {
	return &eggs.Error{
		Op: op, Name: "disk " + cert.Disk.String() + " block " + cert.Block.String(),
		Kind: eggs.Permission, Err: errors.New("the certificate is not one of this cluster's key"),
	}
}

// table returns a pooled buffer of n bytes, to be given back.
func table(n int) *[]byte {
	b := tables.Get().(*[]byte)
	if cap(*b) < n {
		*b = make([]byte, n)
	}
	*b = (*b)[:n]
	return b
}
