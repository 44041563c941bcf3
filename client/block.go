package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"eggsfs/eggs"
	"eggsfs/erasure"
	"eggsfs/wire"
)

// Limits of block connections.
const (
	blockIdle   = 30 * time.Second // an unused connection is closed after this
	blockSpare  = 32               // unused connections kept to one address: two streams of 10+4
	writeStall  = 5 * time.Second  // a disk that takes no more bytes for so long has failed
	proofStall  = 10 * time.Second // one that does not make them durable
	readStall   = 4 * time.Second  // one that gives no bytes: a rebuild is faster
	writeChunk  = 4 << 20          // bytes for which writeStall holds
	readWindow  = 256 << 10        // bytes checked and copied while a processor's cache has them
	refusalTime = 200 * time.Millisecond
)

// blockConns keeps unused connections to block services, by address. Each
// carries one request at a time.
type blockConns struct {
	mu     sync.Mutex
	idle   map[string][]*blockConn
	busy   map[*blockConn]struct{}
	closed bool
}

// blockConn is one connection to a block service.
type blockConn struct {
	net.Conn
	r       *bufio.Reader
	addr    string
	secure  bool // TLS
	used    time.Time
	reused  bool
	stopped atomic.Bool // the request's context is over
}

func (bs *blockConns) expire(before time.Time) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	for addr, list := range bs.idle {
		keep := list[:0]
		for _, b := range list {
			if b.used.Before(before) {
				b.Close()
			} else {
				keep = append(keep, b)
			}
		}
		if len(keep) == 0 {
			delete(bs.idle, addr)
			continue
		}
		bs.idle[addr] = keep
	}
}

func (bs *blockConns) close() {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bs.closed = true
	for _, list := range bs.idle {
		for _, b := range list {
			b.Close()
		}
	}
	bs.idle = nil
	for b := range bs.busy {
		b.Close()
	}
}

// drop closes all connections to an address; requests on them fail.
func (bs *blockConns) drop(addr string) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	for _, b := range bs.idle[addr] {
		b.Close()
	}
	delete(bs.idle, addr)
	for b := range bs.busy {
		if b.addr == addr {
			b.Close()
		}
	}
}

// take returns an unused connection, with or without TLS, nil when there is none.
func (bs *blockConns) take(addr string, secure bool) *blockConn {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	list := bs.idle[addr]
	at := len(list) - 1
	for at >= 0 && list[at].secure != secure {
		at--
	}
	if at < 0 {
		return nil
	}
	b := list[at]
	bs.idle[addr] = slices.Delete(list, at, at+1)
	b.reused = true
	bs.busy[b] = struct{}{}
	return b
}

// add counts a new connection; false when the client is closed.
func (bs *blockConns) add(b *blockConn) bool {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if bs.closed {
		return false
	}
	if bs.busy == nil {
		bs.busy = make(map[*blockConn]struct{})
		bs.idle = make(map[string][]*blockConn)
	}
	bs.busy[b] = struct{}{}
	return true
}

// give returns a connection. One that is not good any more is closed.
func (bs *blockConns) give(b *blockConn, good bool) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	delete(bs.busy, b)
	if !good || bs.closed || b.stopped.Load() || len(bs.idle[b.addr]) >= blockSpare {
		b.Close()
		return
	}
	b.used = time.Now()
	b.SetDeadline(time.Time{})
	bs.idle[b.addr] = append(bs.idle[b.addr], b)
}

// stop makes what waits on the connection fail, now and later.
func (b *blockConn) stop() {
	b.stopped.Store(true)
	b.SetDeadline(time.Unix(1, 0))
}

// readBy and writeBy bound the next reads and writes, unless the context is over.
func (b *blockConn) readBy(d time.Duration) {
	b.SetReadDeadline(time.Now().Add(d))
	if b.stopped.Load() {
		b.stop()
	}
}

func (b *blockConn) writeBy(d time.Duration) {
	b.SetWriteDeadline(time.Now().Add(d))
	if b.stopped.Load() {
		b.stop()
	}
}

// dialBlocks makes a connection to a block service.
func (c *Client) dialBlocks(ctx context.Context, addr string, secure bool) (*blockConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	alpn := ""
	if secure {
		alpn = wire.ALPNBlock
	}
	conn, err := c.o.Dial(ctx, addr, alpn)
	if err != nil {
		return nil, err
	}
	b := &blockConn{Conn: conn, addr: addr, secure: secure, r: bufio.NewReaderSize(conn, 16<<10)}
	if !secure {
		b.writeBy(dialTimeout)
		if _, err := conn.Write([]byte(wire.PlainBlockMagic)); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if !c.blocks.add(b) {
		conn.Close()
		return nil, eggs.E("client.Dial", eggs.Unavailable, "the client is closed")
	}
	return b, nil
}

// diskAddr returns where a disk is served now.
func (c *Client) diskAddr(d eggs.DiskID) (string, error) {
	pic := c.see()
	disk := pic.disks[d]
	if disk == nil {
		return "", &eggs.Error{
			Op: "client.Disk", Kind: eggs.Unavailable, Disks: []eggs.DiskID{d},
			Err: errors.New("no such disk is known"),
		}
	}
	n := pic.nodes[eggs.NodeID(disk.Node)]
	if n == nil || n.Address == "" {
		return "", &eggs.Error{
			Op: "client.Disk", Kind: eggs.Unavailable, Disks: []eggs.DiskID{d},
			Err: errors.New("no node serves this disk now"),
		}
	}
	return n.Address, nil
}

// plainTo says whether block connections to an address do without TLS.
func (c *Client) plainTo(addr string) bool {
	return c.o.BlockTLS == "off" || c.o.BlockTLS == "auto" && loopback(addr)
}

// onDisk runs one request with a disk. do answers whether the connection may
// be used again. A connection that was idle may have been closed by the
// server meanwhile, so the first failure of one is no verdict on the disk.
func (c *Client) onDisk(ctx context.Context, op string, d eggs.DiskID,
	do func(b *blockConn) (good bool, err error),
) error {
	return c.onDiskOver(ctx, op, d, false, do)
}

// onDiskOver is onDisk; secure asks for TLS where the client would do without.
func (c *Client) onDiskOver(ctx context.Context, op string, d eggs.DiskID, secure bool,
	do func(b *blockConn) (good bool, err error),
) error {
	wrap := func(kind eggs.Kind, err error) error {
		return &eggs.Error{Op: "client." + op, Kind: kind, Disks: []eggs.DiskID{d}, Err: err}
	}
	addr, err := c.diskAddr(d)
	if err != nil {
		return err
	}
	secure = secure || !c.plainTo(addr)
	for {
		b := c.blocks.take(addr, secure)
		if b == nil {
			if b, err = c.dialBlocks(ctx, addr, secure); err != nil {
				if ctx.Err() == nil {
					c.avoidNode(addr)
				}
				return wrap(eggs.Unavailable, err)
			}
		}
		stop := context.AfterFunc(ctx, b.stop)
		good, err := do(b)
		stop()
		c.blocks.give(b, good)
		switch {
		case err == nil:
			return nil
		case eggs.KindOf(err) != eggs.Other:
			return wrap(eggs.Other, err)
		case ctx.Err() != nil:
			return wrap(eggs.Canceled, ctx.Err())
		case !b.reused || stalled(err) || !c.see().reachable(d):
			return wrap(eggs.Unavailable, err)
		}
	}
}

// stalled reports whether err is a time-out of the connection.
func stalled(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// exchange sends a request without data and reads the answer's header.
func (b *blockConn) exchange(req *wire.BlockRequest, wait time.Duration) (*wire.BlockReply, error) {
	b.writeBy(writeStall)
	if err := wire.WriteBlockFrame(b.Conn, req); err != nil {
		return nil, err
	}
	return b.reply(wait)
}

func (b *blockConn) reply(wait time.Duration) (*wire.BlockReply, error) {
	b.readBy(wait)
	reply := &wire.BlockReply{}
	if err := wire.ReadBlockFrame(b.r, reply); err != nil {
		if k := eggs.KindOf(err); k != eggs.Other { // not what a block service says
			return nil, &eggs.Error{Op: "client.Block", Kind: eggs.Unavailable, Err: err}
		}
		return nil, err
	}
	return reply, nil
}

// refusedBy is the error that a block service answered.
func refusedBy(reply *wire.BlockReply) error {
	err := reply.Error.AsError()
	if err != nil && eggs.KindOf(err) == eggs.Other {
		err = &eggs.Error{Kind: eggs.IO, Err: err}
	}
	return err
}

// putBlock writes one block and returns the proof that it is durable. pages
// holds the checksums of its pages.
func (c *Client) putBlock(ctx context.Context, cert *wire.Certificate, pages []byte,
	cells [][]byte,
) (*wire.Proof, error) {
	var proof *wire.Proof
	disk := eggs.DiskID(cert.Disk)
	err := c.onDisk(ctx, "PutBlock", disk, func(b *blockConn) (bool, error) {
		head, err := wire.AppendBlockFrame(nil, &wire.BlockRequest{
			Op: &wire.BlockRequest_Put{Put: &wire.PutBlock{Certificate: cert}},
		})
		if err != nil {
			return false, err
		}
		if err := b.send(head, pages, cells); err != nil {
			// A service that refuses says why before it hangs up.
			if reply, rerr := b.reply(refusalTime); rerr == nil && reply.Error != nil {
				return false, refusedBy(reply)
			}
			return false, err
		}
		reply, err := b.reply(proofStall)
		if err != nil {
			return false, err
		}
		if err := refusedBy(reply); err != nil {
			return false, err
		}
		if p := reply.Proof; p == nil || p.Disk != cert.Disk || p.Block != cert.Block {
			return false, eggs.E("client.PutBlock", eggs.Unavailable, "the proof is another block's")
		}
		proof = reply.Proof
		return true, nil
	})
	if err == nil {
		c.count.blocksPut.Add(1)
		c.count.bytesPut.Add(uint64(cert.Size))
	}
	return proof, err
}

// send writes header, checksums and cells with as few calls as there can be.
func (b *blockConn) send(head, pages []byte, cells [][]byte) error {
	bufs := make(net.Buffers, 0, len(cells)+2)
	bufs = append(bufs, head, pages)
	n := 0
	flush := func() error {
		b.writeBy(writeStall)
		_, err := bufs.WriteTo(b.Conn)
		bufs, n = bufs[:0], 0
		return err
	}
	for _, cell := range cells {
		for len(cell) > 0 {
			part := cell[:min(len(cell), writeChunk)]
			cell = cell[len(part):]
			bufs = append(bufs, part)
			if n += len(part); n >= writeChunk {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// getBlock reads the pages of a block that [offset, offset+length) touches,
// checks them, and hands them to sink in order: at is the place in the block.
// Kind Corrupt when a checksum is wrong; sink has then seen only good pages.
func (c *Client) getBlock(ctx context.Context, cert *wire.Certificate, offset, length uint32,
	sink func(at uint32, pages []byte),
) error {
	disk := eggs.DiskID(cert.Disk)
	from, to := erasure.PageRange(offset, length)
	return c.onDisk(ctx, "GetBlock", disk, func(b *blockConn) (bool, error) {
		reply, err := b.exchange(&wire.BlockRequest{Op: &wire.BlockRequest_Get{Get: &wire.GetBlock{
			Certificate: cert, Offset: offset, Length: length,
		}}}, readStall)
		if err != nil {
			return false, err
		}
		if err := refusedBy(reply); err != nil {
			return true, err
		}
		if reply.FirstPage != from/eggs.PageSize || reply.Bytes != to-from {
			return false, eggs.E("client.GetBlock", eggs.Corrupt, fmt.Sprintf(
				"asked for bytes %d to %d, got %d from page %d", from, to, reply.Bytes, reply.FirstPage))
		}
		if err := b.receive(cert, from, to, sink); err != nil {
			return false, err
		}
		c.count.bytesGot.Add(uint64(to - from))
		return true, nil
	})
}

// receive reads the checksums and pages of [from, to).
func (b *blockConn) receive(cert *wire.Certificate, from, to uint32,
	sink func(at uint32, pages []byte),
) error {
	pages := int(to-from) / eggs.PageSize
	buf := erasure.NewBuffer(4*pages + min(int(to-from), readWindow))
	defer buf.Release()
	table, window := buf.Bytes[:4*pages], buf.Bytes[4*pages:]
	b.readBy(readStall)
	if _, err := io.ReadFull(b.r, table); err != nil {
		return err
	}
	for at := from; at < to; {
		part := window[:min(int(to-at), len(window))]
		b.readBy(readStall)
		if _, err := io.ReadFull(b.r, part); err != nil {
			return err
		}
		if bad, want, found := erasure.CheckPages(table, part); bad >= 0 {
			return &eggs.Error{Op: "client.GetBlock", Kind: eggs.Corrupt, Err: fmt.Errorf(
				"block %s at %d: checksum %08x, wanted %08x", eggs.BlockID(cert.Block),
				int(at)+bad*eggs.PageSize, found, want)}
		}
		sink(at, part)
		table = table[4*len(part)/eggs.PageSize:]
		at += uint32(len(part))
	}
	return nil
}

// EraseBlock erases one block and returns the proof.
func (c *Client) EraseBlock(ctx context.Context, cert *wire.Certificate) (*wire.Proof, error) {
	var proof *wire.Proof
	err := c.onDisk(ctx, "EraseBlock", eggs.DiskID(cert.Disk), func(b *blockConn) (bool, error) {
		reply, err := b.exchange(&wire.BlockRequest{Op: &wire.BlockRequest_Erase{
			Erase: &wire.EraseBlock{Certificate: cert},
		}}, proofStall)
		if err != nil {
			return false, err
		}
		proof = reply.Proof
		return true, refusedBy(reply)
	})
	if err == nil && proof == nil {
		err = eggs.E("client.EraseBlock", eggs.Corrupt, "the answer has no proof")
	}
	return proof, err
}

// ListBlocks lists the blocks of a disk with ids after that one, over TLS always: it needs no
// certificate.
func (c *Client) ListBlocks(ctx context.Context, d eggs.DiskID, after eggs.BlockID, limit int) (
	blocks []*wire.BlockInfo, end bool, err error,
) {
	err = c.onDiskOver(ctx, "ListBlocks", d, true, func(b *blockConn) (bool, error) {
		reply, err := b.exchange(&wire.BlockRequest{Op: &wire.BlockRequest_List{
			List: &wire.ListBlocks{Disk: uint64(d), After: uint64(after), Limit: uint32(limit)},
		}},
			proofStall)
		if err != nil {
			return false, err
		}
		blocks, end = reply.Blocks, reply.End
		return true, refusedBy(reply)
	})
	return blocks, end, err
}

// CheckBlock has a disk verify every page of one block. Kind Corrupt, NotExist.
func (c *Client) CheckBlock(ctx context.Context, cert *wire.Certificate) error {
	return c.onDisk(ctx, "CheckBlock", eggs.DiskID(cert.Disk), func(b *blockConn) (bool, error) {
		reply, err := b.exchange(&wire.BlockRequest{Op: &wire.BlockRequest_Check{
			Check: &wire.CheckBlock{Certificate: cert},
		}}, proofStall)
		if err != nil {
			return false, err
		}
		return true, refusedBy(reply)
	})
}
