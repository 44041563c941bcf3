package fuse

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"eggsfs/eggs"
)

// block is the unit, in bytes, of what an overlay covers: a page, since mapped
// files are written by pages.
const block = 4096

// overlay is changes over a base. A block whose bit is set lies in file, at its own
// offset; another lies in base up to baseLen and is zeros beyond. The local
// file is unlinked as soon as it is made, so a crash leaves nothing behind.
type overlay struct {
	lim     *limits
	base    io.ReaderAt // may be nil
	baseLen int64
	file    *os.File // made by the first change
	bits    []uint64
	used    int64 // bytes of set bits
}

func (o *overlay) has(b int64) bool {
	return b>>6 < int64(len(o.bits)) && o.bits[b>>6]&(1<<(b&63)) != 0
}

func (o *overlay) set(b int64) {
	if need := b>>6 + 1; need > int64(len(o.bits)) {
		o.bits = append(o.bits, make([]uint64, max(need-int64(len(o.bits)), int64(len(o.bits))))...)
	}
	if !o.has(b) {
		o.bits[b>>6] |= 1 << (b & 63)
		o.used += block
		o.lim.spill.Add(block)
	}
}

func (o *overlay) close() {
	o.lim.spill.Add(-o.used)
	o.used, o.bits = 0, nil
	if o.file != nil {
		o.file.Close()
		o.file = nil
	}
}

func spillError(err error) error {
	k := eggs.IO
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		k = eggs.NoSpace
	}
	return &eggs.Error{Op: "fuse.spill", Kind: k, Err: err}
}

// open makes the local file and checks that n more bytes are allowed.
func (o *overlay) open(n int64) error {
	if o.lim.spill.Load()+n > o.lim.spillMax {
		return eggs.E("fuse.spill", eggs.NoSpace, "too many bytes in local files of the mount")
	}
	if o.file != nil {
		return nil
	}
	fd, err := unix.Open(o.lim.spillDir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		o.file = os.NewFile(uintptr(fd), "spill")
		return nil
	}
	f, err := os.CreateTemp(o.lim.spillDir, ".eggsfuse-")
	if err != nil {
		return spillError(err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return spillError(err)
	}
	o.file = f
	return nil
}

// bring copies a block of the base to the local file, because a part of it will change.
func (o *overlay) bring(b int64) error {
	if o.has(b) {
		return nil
	}
	if n := min(o.baseLen-b*block, block); o.base != nil && n > 0 {
		var p [block]byte
		if err := readFull(o.base, p[:n], b*block); err != nil {
			return err
		}
		if _, err := o.file.WriteAt(p[:n], b*block); err != nil {
			return spillError(err)
		}
	}
	o.set(b)
	return nil
}

// claim makes [off, to) the local file's, bringing the blocks at the edges.
func (o *overlay) claim(off, to int64) error {
	if err := o.open(to - off); err != nil {
		return err
	}
	if off%block != 0 {
		if err := o.bring(off / block); err != nil {
			return err
		}
	}
	if to%block != 0 {
		if err := o.bring(to / block); err != nil {
			return err
		}
	}
	return nil
}

func (o *overlay) write(p []byte, off int64) error {
	to := off + int64(len(p))
	if err := o.claim(off, to); err != nil {
		return err
	}
	if _, err := o.file.WriteAt(p, off); err != nil {
		return spillError(err)
	}
	for b := off / block; b*block < to; b++ {
		o.set(b)
	}
	return nil
}

const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE

// zero makes a range zeros.
func (o *overlay) zero(off, n int64) error {
	to := off + n
	if err := o.claim(off, to); err != nil {
		return err
	}
	if err := unix.Fallocate(int(o.file.Fd()), punch, off, n); err != nil {
		for at := off; at < to; {
			m, err := o.file.WriteAt(zeros[:min(to-at, int64(len(zeros)))], at)
			if err != nil {
				return spillError(err)
			}
			at += int64(m)
		}
	}
	for b := off / block; b*block < to; b++ {
		o.set(b)
	}
	return nil
}

func (o *overlay) truncate(size int64) error {
	o.baseLen = min(o.baseLen, size)
	if o.file == nil {
		return nil
	}
	st, err := o.file.Stat()
	if err == nil && st.Size() > size {
		err = o.file.Truncate(size)
	}
	if err != nil {
		return spillError(err)
	}
	return nil
}

// read fills p; what is beyond the local file and the base is zeros.
func (o *overlay) read(p []byte, off int64) error {
	for len(p) > 0 {
		b := off / block
		local := o.has(b)
		to := (b + 1) * block
		for to-off < int64(len(p)) && o.has(to/block) == local {
			to += block
		}
		part := p[:min(int64(len(p)), to-off)]
		if err := o.readPart(part, off, local); err != nil {
			return err
		}
		p, off = p[len(part):], off+int64(len(part))
	}
	return nil
}

func (o *overlay) readPart(p []byte, off int64, local bool) error {
	if local {
		n, err := o.file.ReadAt(p, off)
		if err != nil && err != io.EOF {
			return spillError(err)
		}
		clear(p[n:])
		return nil
	}
	n := max(0, min(int64(len(p)), o.baseLen-off))
	clear(p[n:])
	if o.base == nil || n == 0 {
		clear(p)
		return nil
	}
	return readFull(o.base, p[:n], off)
}
