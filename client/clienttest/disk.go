package clienttest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sort"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/erasure"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

// Disk is one block service.
type Disk struct {
	ID   eggs.DiskID
	Node *Node
	w    *World

	mu     sync.Mutex
	blocks map[eggs.BlockID]*block
	gone   map[eggs.BlockID]bool // erased
	err    error                 // answers everything
	stall  bool                  // takes and gives no bytes
	puts   int
	gets   int
}

type block struct {
	data, pages []byte
	crc         uint32
	written     time.Time
}

// Disks returns all disks.
func (w *World) Disks() []*Disk { return w.order }

// Disk returns one disk.
func (w *World) Disk(id eggs.DiskID) *Disk { return w.disks[id] }

// Blocks returns how many blocks all disks hold.
func (w *World) Blocks() (n int) {
	for _, d := range w.order {
		n += d.Len()
	}
	return n
}

// Len returns how many blocks the disk holds.
func (d *Disk) Len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.blocks)
}

// Gets returns how many reads the disk has answered.
func (d *Disk) Gets() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gets
}

// Fail has every request answered with err; nil heals.
func (d *Disk) Fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

// Stall makes the disk silent, or heals it.
func (d *Disk) Stall(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stall = on
}

// Lose forgets all blocks.
func (d *Disk) Lose() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.blocks = make(map[eggs.BlockID]*block)
}

// Corrupt flips a bit in each page of all blocks. With seal the checksums of
// the pages are made to fit: only the block's own tells.
func (d *Disk) Corrupt(seal bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, old := range d.blocks {
		b := *old
		b.data = bytes.Clone(old.data)
		for at := 0; at < len(b.data); at += eggs.PageSize {
			b.data[at+17] ^= 4
		}
		if seal {
			b.pages = erasure.PageCRCs(nil, b.data)
		}
		d.blocks[id] = &b
	}
}

func (n *Node) serveBlocks(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		n.mu.Lock()
		if n.listen == nil {
			n.mu.Unlock()
			conn.Close()
			continue
		}
		n.blocks[conn] = struct{}{}
		n.mu.Unlock()
		n.w.wg.Go(func() {
			defer conn.Close()
			r := bufio.NewReaderSize(conn, 64<<10)
			for n.request(conn, r) == nil {
			}
			n.mu.Lock()
			delete(n.blocks, conn)
			n.mu.Unlock()
		})
	}
}

// request answers one request; an error ends the connection.
func (n *Node) request(conn net.Conn, r *bufio.Reader) error {
	req := &wire.BlockRequest{}
	if err := wire.ReadBlockFrame(r, req); err != nil {
		return err
	}
	var cert *wire.Certificate
	switch op := req.Op.(type) {
	case *wire.BlockRequest_Put:
		cert = op.Put.Certificate
	case *wire.BlockRequest_Get:
		cert = op.Get.Certificate
	case *wire.BlockRequest_Erase:
		cert = op.Erase.Certificate
	case *wire.BlockRequest_Check:
		cert = op.Check.Certificate
	case *wire.BlockRequest_List:
		return n.w.disks[eggs.DiskID(op.List.Disk)].list(conn, op.List)
	}
	d := n.w.disks[eggs.DiskID(cert.GetDisk())]
	if d == nil || d.Node != n {
		return refuse(conn, eggs.E("clienttest.Block", eggs.NotExist, "no such disk"))
	}
	d.mu.Lock()
	err, stall := d.err, d.stall
	d.mu.Unlock()
	if stall {
		for d.stalls() && n.up() {
			time.Sleep(10 * time.Millisecond)
		}
		return errors.New("stalled")
	}
	if err != nil {
		refuse(conn, err)
		return err
	}
	c := auth.BlockCert{
		Disk: d.ID, Block: eggs.BlockID(cert.Block), Size: cert.Size,
		CRC: cert.Crc, Mark: cert.Mark,
	}
	switch op := req.Op.(type) {
	case *wire.BlockRequest_Put:
		return d.put(conn, r, c, cert.Mac)
	case *wire.BlockRequest_Get:
		return d.get(conn, c, cert.Mac, op.Get.Offset, op.Get.Length)
	case *wire.BlockRequest_Erase:
		return d.erase(conn, c, cert.Mac)
	default:
		return d.check(conn, c, cert.Mac)
	}
}

func (d *Disk) stalls() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stall
}

func refuse(conn net.Conn, err error) error {
	return wire.WriteBlockFrame(conn, &wire.BlockReply{Error: wire.ErrorOf(err)})
}

func denied() error { return eggs.E("clienttest.Block", eggs.Permission, "wrong certificate") }

func (d *Disk) put(conn net.Conn, r io.Reader, c auth.BlockCert, mac []byte) error {
	keys := d.w.Key.Blocks()
	if !keys.CheckWrite(c, mac) {
		refuse(conn, denied())
		return denied()
	}
	b := &block{
		data: make([]byte, c.Size), crc: c.CRC, written: time.Now(),
		pages: make([]byte, 4*((c.Size+eggs.PageSize-1)/eggs.PageSize)),
	}
	if _, err := io.ReadFull(r, b.pages); err != nil {
		return err
	}
	if _, err := io.ReadFull(r, b.data); err != nil {
		return err
	}
	bad, _, _ := erasure.CheckPages(b.pages, b.data)
	if bad >= 0 || erasure.CombinePages(b.pages) != c.CRC {
		return refuse(conn, eggs.E("clienttest.Put", eggs.Corrupt, "the checksum is wrong"))
	}
	d.mu.Lock()
	if d.gone[c.Block] {
		d.mu.Unlock()
		return refuse(conn, eggs.E("clienttest.Put", eggs.Stale, "the block was erased"))
	}
	d.blocks[c.Block] = b
	d.puts++
	d.mu.Unlock()
	return wire.WriteBlockFrame(conn, &wire.BlockReply{Proof: &wire.Proof{
		Disk: uint64(d.ID), Block: uint64(c.Block), Mac: keys.WriteProof(c),
	}})
}

func (d *Disk) get(conn net.Conn, c auth.BlockCert, mac []byte, offset, length uint32) error {
	if !d.w.Key.Blocks().CheckRead(c, mac) {
		return refuse(conn, denied())
	}
	d.mu.Lock()
	b := d.blocks[c.Block]
	d.gets++
	d.mu.Unlock()
	if b == nil {
		return refuse(conn, eggs.E("clienttest.Get", eggs.NotExist, "no such block"))
	}
	from, to := erasure.PageRange(offset, length)
	if uint64(to) > uint64(len(b.data)) || length == 0 {
		return refuse(conn, eggs.E("clienttest.Get", eggs.Invalid, "beyond the block"))
	}
	reply := &wire.BlockReply{FirstPage: from / eggs.PageSize, Bytes: to - from}
	if err := wire.WriteBlockFrame(conn, reply); err != nil {
		return err
	}
	bufs := net.Buffers{b.pages[from/eggs.PageSize*4 : to/eggs.PageSize*4], b.data[from:to]}
	_, err := bufs.WriteTo(conn)
	return err
}

func (d *Disk) erase(conn net.Conn, c auth.BlockCert, mac []byte) error {
	keys := d.w.Key.Blocks()
	if !keys.CheckErase(c, mac) {
		return refuse(conn, denied())
	}
	d.mu.Lock()
	delete(d.blocks, c.Block)
	d.gone[c.Block] = true
	d.mu.Unlock()
	return wire.WriteBlockFrame(conn, &wire.BlockReply{Proof: &wire.Proof{
		Disk: uint64(d.ID), Block: uint64(c.Block), Mac: keys.EraseProof(c),
	}})
}

func (d *Disk) check(conn net.Conn, c auth.BlockCert, mac []byte) error {
	if !d.w.Key.Blocks().CheckRead(c, mac) {
		return refuse(conn, denied())
	}
	d.mu.Lock()
	b := d.blocks[c.Block]
	d.mu.Unlock()
	if b == nil {
		return refuse(conn, eggs.E("clienttest.Check", eggs.NotExist, "no such block"))
	}
	if bad, _, _ := erasure.CheckPages(b.pages, b.data); bad >= 0 {
		return refuse(conn, eggs.E("clienttest.Check", eggs.Corrupt, "a page is wrong"))
	}
	return wire.WriteBlockFrame(conn, &wire.BlockReply{})
}

func (d *Disk) list(conn net.Conn, l *wire.ListBlocks) error {
	if _, ok := conn.(*tls.Conn); !ok {
		return refuse(conn, eggs.E("clienttest.List", eggs.Permission, "blocks are listed over TLS only"))
	}
	if d == nil {
		return refuse(conn, eggs.E("clienttest.List", eggs.NotExist, "no such disk"))
	}
	d.mu.Lock()
	reply := &wire.BlockReply{End: true}
	for id, b := range d.blocks {
		if uint64(id) > l.After {
			reply.Blocks = append(reply.Blocks, &wire.BlockInfo{
				Id:   uint64(id),
				Size: uint32(len(b.data)), Written: b.written.UnixNano(),
			})
		}
	}
	d.mu.Unlock()
	sort.Slice(reply.Blocks, func(i, j int) bool { return reply.Blocks[i].Id < reply.Blocks[j].Id })
	if n := int(l.Limit); n < len(reply.Blocks) {
		reply.Blocks, reply.End = reply.Blocks[:n], false
	}
	return wire.WriteBlockFrame(conn, reply)
}
