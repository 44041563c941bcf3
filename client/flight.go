package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/erasure"
	"eggsfs/wire"
)

// Limits of a span's transfer.
const (
	maxReplace  = 8                      // times that a span's blocks are chosen anew
	noSpaceWait = 500 * time.Millisecond // before disks are asked for again
	noSpaceTry  = 6                      // times: a node's restart shows by then
)

// flight is one span on its way to its blocks. mu is the writer's.
type flight struct {
	w         *writer
	off, size int64
	class     eggs.SpanClass
	enc       *erasure.Encoded
	begun     chan struct{}   // closed when the span before is certified, or this one has failed
	done      chan struct{}   // closed when it has arrived, or failed
	buf       *erasure.Buffer // until done; mu

	// Set before done is closed.
	err    error
	proofs []*wire.Proof
	// certified is set by whoever holds wmu, after done.
	certified bool
}

func (f *flight) over() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// copy reads from the span while it is in memory: 0 bytes after that.
func (f *flight) copy(p []byte, off int64) int {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if f.buf == nil {
		return 0
	}
	return copy(p, f.buf.Bytes[off-f.off:f.size])
}

// ship hands the filled span over: it is encoded here, and sent when the one
// before has arrived. wmu is held.
func (w *writer) ship() error {
	size := int64(w.fill)
	class := w.class(size)
	l, err := erasure.Plan(size, class.Parity, w.cell())
	if err != nil {
		return w.broken(err)
	}
	enc, err := erasure.Encode(l, w.buf.Bytes[:size])
	if err != nil {
		return w.broken(err)
	}
	prev := w.flight
	if prev != nil {
		<-prev.done
		if prev.err != nil {
			enc.Release()
			return w.broken(prev.err)
		}
	}
	f := &flight{
		w: w, off: w.start, size: size, class: class, enc: enc,
		begun: make(chan struct{}), done: make(chan struct{}), buf: w.buf,
	}
	w.mu.Lock()
	w.flight = f
	w.buf = nil
	w.start += size
	w.fill = 0
	w.mu.Unlock()
	var certify *flight
	if prev != nil && !prev.certified {
		certify = prev
	}
	if !w.c.spawn(func() { f.send(certify) }) {
		f.err = eggs.E("client.Write", eggs.Canceled, "the client is closed")
		close(f.begun)
		close(f.done)
	}
	return nil
}

// send moves the span to its blocks. prev is the span to certify along, if any.
func (f *flight) send(prev *flight) {
	err := f.transfer(prev)
	f.enc.Release()
	f.w.mu.Lock()
	buf := f.buf
	f.buf = nil
	f.err = err
	f.w.mu.Unlock()
	buf.Release()
	if f.failedToBegin() {
		close(f.begun)
	}
	close(f.done)
}

// failedToBegin reports whether no initiate was answered.
func (f *flight) failedToBegin() bool {
	select {
	case <-f.begun:
		return false
	default:
		return true
	}
}

// transfer initiates the span and writes its blocks, on other disks for as
// long as some fail.
func (f *flight) transfer(prev *flight) error {
	ctx := f.w.ctx
	var failed []eggs.DiskID
	for try := 0; ; try++ {
		certs, err := f.initiate(ctx, prev, failed, try > 0)
		if err != nil {
			return err
		}
		prev = nil
		if try == 0 {
			close(f.begun)
		}
		proofs, bad, err := f.put(ctx, certs)
		if err == nil {
			f.proofs = proofs
			return nil
		}
		if ctx.Err() != nil {
			return &eggs.Error{Op: "client.Write", Kind: eggs.Canceled, Err: ctx.Err()}
		}
		if try == maxReplace {
			return &eggs.Error{Op: "client.Write", Kind: eggs.BadDisk, Disks: bad, Err: err}
		}
		f.w.c.count.replaced.Add(1)
		f.w.c.log.Warn("a span's disks failed, others are chosen", "file", f.w.ID(),
			"offset", f.off, "disks", bad, "err", err)
		failed = append(failed, bad...)
	}
}

// initiate asks for the span's disks. failed are those that this span has met.
func (f *flight) initiate(ctx context.Context, prev *flight, failed []eggs.DiskID, replace bool) (
	[]*wire.Certificate, error,
) {
	w := f.w
	for try := 0; ; try++ {
		avoid := failed
		if try%2 == 0 { // what others met is avoided too, unless that leaves too few
			avoid = append(append([]eggs.DiskID(nil), failed...), w.c.bad.unwritable()...)
		}
		reply, err := w.request(ctx, func() []*wire.Verb {
			return f.initiateVerbs(prev, avoid, replace)
		})
		if err == nil {
			return f.initiated(reply)
		}
		if eggs.KindOf(err) != eggs.NoSpace || len(avoid) == 0 || try == noSpaceTry {
			return nil, err
		}
		if try%2 == 1 {
			select {
			case <-ctx.Done():
				return nil, err
			case <-time.After(noSpaceWait):
			}
		}
	}
}

// initiateVerbs are construct, if it is the first span, certify of the span
// before, and initiate. w.mu is held.
func (f *flight) initiateVerbs(prev *flight, avoid []eggs.DiskID, replace bool) []*wire.Verb {
	w := f.w
	var verbs []*wire.Verb
	if w.cookie == nil {
		verbs = append(verbs, w.constructVerb())
	}
	if prev != nil {
		verbs = append(verbs, w.certifyVerb(prev))
	}
	l := f.enc.Layout
	init := &wire.InitiateSpan{
		File: w.fileRef(), Cookie: w.cookie, Offset: uint64(f.off), Size: uint64(f.size),
		Crc: f.enc.CRC, D: uint32(l.Parity.D), P: uint32(l.Parity.P), Stripes: uint32(l.Stripes),
		CellSize: l.CellSize, Class: uint32(f.class.Class),
		BlockCrcs: f.enc.BlockCRCs, StripeCrcs: f.enc.StripeCRCs, Replace: replace,
	}
	for _, d := range avoid {
		init.Blacklist = append(init.Blacklist, uint64(d))
	}
	return append(verbs, &wire.Verb{Verb: &wire.Verb_InitiateSpan{InitiateSpan: init}})
}

// initiated takes cookie and certificates from the answer.
func (f *flight) initiated(reply *wire.ShardReply) ([]*wire.Certificate, error) {
	if err := f.w.constructed(reply); err != nil {
		return nil, err
	}
	r, err := resultOf[*wire.Result_SpanInitiated](reply, len(reply.Results)-1)
	if err != nil {
		return nil, err
	}
	certs := r.SpanInitiated.GetCertificates()
	if len(certs) != f.enc.Layout.Parity.Blocks() {
		return nil, eggs.E("client.Write", eggs.Corrupt, "the answer has too few certificates")
	}
	return certs, nil
}

// put writes all blocks at the same time. bad are the disks that failed.
func (f *flight) put(ctx context.Context, certs []*wire.Certificate) (
	proofs []*wire.Proof, bad []eggs.DiskID, err error,
) {
	proofs = make([]*wire.Proof, len(certs))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, cert := range certs {
		wg.Go(func() {
			proof, perr := f.w.c.putBlock(ctx, cert, f.enc.PageCRCs[i], f.enc.Blocks[i])
			proofs[i] = proof
			if perr == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			bad = append(bad, certOf(cert))
			err = errors.Join(err, perr)
			if ctx.Err() == nil {
				f.w.c.bad.noWrite(certOf(cert), perr)
			}
		})
	}
	wg.Wait()
	return proofs, bad, err
}

// fileRef is the file in a verb: 0 means the one constructed in the same request. mu is held.
func (w *writer) fileRef() uint64 {
	if w.cookie == nil {
		return 0
	}
	return uint64(w.id)
}

// constructVerb makes the file with the attributes as of now. mu is held.
func (w *writer) constructVerb() *wire.Verb {
	v := &wire.Construct{
		Id: uint64(w.id), Mode: w.attr.Mode, Uid: w.attr.UID, Gid: w.attr.GID,
		Dir: uint64(w.dir), Name: w.name,
	}
	if w.mtime {
		v.Mtime = int64(w.attr.Mtime)
	}
	w.given = w.mtime
	if w.atime {
		v.Atime = int64(w.attr.Atime)
	}
	w.set = 0
	return &wire.Verb{Verb: &wire.Verb_Construct{Construct: v}}
}

// constructed takes the cookie from the answer to a request that began with construct.
func (w *writer) constructed(reply *wire.ShardReply) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cookie != nil {
		return nil
	}
	r, err := resultOf[*wire.Result_Constructed](reply, 0)
	if err != nil {
		return err
	}
	if eggs.InodeID(r.Constructed.Id) != w.id || len(r.Constructed.Cookie) == 0 {
		return eggs.E("client.Write", eggs.Corrupt, "another file was constructed")
	}
	w.cookie = r.Constructed.Cookie
	return nil
}

func (w *writer) certifyVerb(f *flight) *wire.Verb {
	return &wire.Verb{Verb: &wire.Verb_CertifySpan{CertifySpan: &wire.CertifySpan{
		File: w.fileRef(), Cookie: w.cookie, Offset: uint64(f.off), Proofs: f.proofs,
	}}}
}

// certify makes the last span readable from its blocks. wmu is held.
func (w *writer) certify() error {
	f := w.flight
	<-f.done
	if f.err != nil {
		return w.broken(f.err)
	}
	if f.certified {
		return nil
	}
	_, err := w.request(w.ctx, func() []*wire.Verb { return []*wire.Verb{w.certifyVerb(f)} })
	if err != nil {
		return w.broken(err)
	}
	f.certified = true
	return nil
}
