package blockd

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"syscall"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/internal/disk"
	"eggsfs/wire"
)

const (
	// sendBytes is what goes out before the peer is given more time: sendfile
	// copies nothing, so it may be large.
	sendBytes = 1 << 20
	// copyBytes is up to where pages are copied into the answer's one write: a
	// second packet, and the reader's second wake-up, cost more.
	copyBytes = 64 << 10
	// sequentialBytes is from where the kernel is told to read further ahead,
	// which makes a cold read faster by up to a half.
	sequentialBytes = 256 << 10
)

// get sends pages as they are on the disk, after their checksums.
func (c *conn) get(req *wire.GetBlock) error {
	cert, err := certOf(req.Certificate)
	if err != nil {
		return err
	}
	if err := checkSize(cert.Size); err != nil {
		return err
	}
	if req.Length == 0 || req.Offset > cert.Size || req.Length > cert.Size-req.Offset {
		return c.fail(eggs.E("blockd.Get", eggs.Invalid, fmt.Sprintf(
			"%d bytes from %d on of a block of %d", req.Length, req.Offset, cert.Size)), 0)
	}
	if !c.server.config.Auth.CheckRead(cert, req.Certificate.Mac) {
		return forbidden("blockd.Get", cert)
	}
	c.known = true
	s, err := c.server.begin(req.Certificate.Disk, false)
	if err != nil {
		return c.fail(err, 0)
	}
	defer s.done()
	s.stats.gets.Add(1)
	first := req.Offset / pageSize
	end := (req.Offset + req.Length + pageSize - 1) / pageSize
	sums := table(int(end-first) * crcBytes)
	defer tables.Put(sums)
	file, _, err := openBlock(s.folder, cert.Block, cert.Size, first, end, *sums)
	if err != nil {
		return c.fail(s.readError(cert.Block, err), 0)
	}
	defer file.Close()
	size := (end - first) * pageSize
	head := table(0)
	defer tables.Put(head)
	*head, err = wire.AppendBlockFrame(*head, &wire.BlockReply{FirstPage: first, Bytes: size})
	if err != nil {
		return c.fail(err, 0)
	}
	*head = append(*head, *sums...)
	off := int64(first) * pageSize
	if size <= copyBytes {
		at := len(*head)
		*head = slices.Grow(*head, int(size))[:at+int(size)]
		if err := readAt(s.folder, file, (*head)[at:], off); err != nil {
			return c.fail(s.readError(cert.Block, blockError(s.id, cert.Block, err)), 0)
		}
		size = 0
	} else if size >= sequentialBytes {
		disk.Sequential(file)
	}
	c.progress()
	if _, err := c.nc.Write(*head); err != nil {
		return errHangUp
	}
	s.stats.out.Add(uint64(end-first) * pageSize)
	if size == 0 {
		return nil
	}
	return c.send(s, cert.Block, file, off, int64(size))
}

// send copies a part of a file to the peer, by sendfile where the connection can.
func (c *conn) send(s *service, id eggs.BlockID, file *os.File, off, n int64) error {
	if _, err := file.Seek(off, io.SeekStart); err != nil {
		return errHangUp
	}
	var buf []byte
	if _, ok := c.nc.(io.ReaderFrom); !ok {
		b := transfers.Get().(*[transferBytes]byte)
		defer transfers.Put(b)
		buf = b[:]
	}
	for n > 0 {
		c.progress()
		piece := io.LimitedReader{R: file, N: min(n, sendBytes)}
		want := piece.N
		sent, err := io.CopyBuffer(c.nc, &piece, buf)
		n -= sent
		if err == nil && sent == want {
			continue
		}
		if err == nil || errors.Is(err, syscall.EIO) {
			// The header is out, so all that can be said is good-bye.
			s.readError(id, blockError(s.id, id, &eggs.Error{Kind: eggs.IO, Err: err}))
		}
		return errHangUp
	}
	return nil
}

// readError is what to tell a client whose block could not be read.
func (s *service) readError(id eggs.BlockID, err error) error {
	switch eggs.KindOf(err) {
	case eggs.NotExist:
		// The block may be missing, or the whole disk.
		if gone := s.folder.Check(); gone != nil {
			s.setGone(gone)
			return s.serving(false)
		}
		return &eggs.Error{
			Op: "blockd.Read", Name: "disk " + s.id.String() + " block " + id.String(),
			Kind: eggs.NotExist,
		}
	case eggs.Corrupt:
		s.stats.corrupt.Add(1)
		s.say("error", err.Error())
		return err
	}
	return s.trouble(err)
}

// check reads a whole block and verifies everything there is of it.
func (c *conn) check(wc *wire.Certificate) error {
	cert, err := certOf(wc)
	if err != nil {
		return err
	}
	if err := checkSize(cert.Size); err != nil {
		return err
	}
	if !c.server.config.Auth.CheckRead(cert, wc.Mac) {
		return forbidden("blockd.Check", cert)
	}
	c.known = true
	s, err := c.server.begin(wc.Disk, false)
	if err != nil {
		return c.fail(err, 0)
	}
	defer s.done()
	if err := s.verify(cert, c.progress); err != nil {
		return c.fail(s.readError(cert.Block, err), 0)
	}
	s.stats.checks.Add(1)
	return c.reply(&wire.BlockReply{})
}

// verify fails with Kind Corrupt, naming the first place that is wrong.
func (s *service) verify(cert auth.BlockCert, progress func()) error {
	sums := table(int(tableSize(cert.Size)))
	defer tables.Put(sums)
	file, h, err := openBlock(s.folder, cert.Block, cert.Size, 0, cert.Size/pageSize, *sums)
	if err != nil {
		return err
	}
	defer file.Close()
	if found := crc32.Checksum(*sums, castagnoli); found != h.table {
		return badPage(s.id, cert.Block, int64(cert.Size)+headerBytes, h.table, found)
	}
	if cert.CRC != 0 && cert.CRC != h.crc {
		return badPage(s.id, cert.Block, 0, cert.CRC, h.crc)
	}
	buf := transfers.Get().(*[transferBytes]byte)
	defer transfers.Put(buf)
	size := int64(cert.Size)
	for off := int64(0); off < size; off += transferBytes {
		progress()
		pages := buf[:min(transferBytes, size-off)]
		if err := readAt(s.folder, file, pages, off); err != nil {
			return blockError(s.id, cert.Block, err)
		}
		bad, want, found := checkPages((*sums)[off/pageSize*crcBytes:], pages)
		if bad >= 0 {
			return badPage(s.id, cert.Block, off+int64(bad)*pageSize, want, found)
		}
	}
	if found := combine(*sums); found != h.crc {
		return badPage(s.id, cert.Block, 0, h.crc, found)
	}
	return nil
}
