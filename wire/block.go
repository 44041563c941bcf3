package wire

import (
	"encoding/binary"
	"fmt"
	"io"

	"eggsfs/eggs"
)

const (
	// PlainBlockMagic is what a client writes first on a block connection
	// without TLS. The listener takes it off: the block server does not see it.
	PlainBlockMagic = "EGGSBLK1"
	// MaxBlockFrame is the bytes of one header of the block protocol: a
	// listing of a thousand blocks is half of it.
	MaxBlockFrame = 64 << 10
)

// AppendBlockFrame appends a frame to b, for a caller that writes what follows along with it.
func AppendBlockFrame(b []byte, m Message) ([]byte, error) {
	n := m.SizeVT()
	if n > MaxBlockFrame {
		return b, eggs.E("wire.WriteBlockFrame", eggs.TooLarge, fmt.Sprintf(
			"a header of %d bytes; the limit is %d", n, MaxBlockFrame))
	}
	at := len(b)
	b = grow(b, lenBytes+n)[:at+lenBytes+n]
	binary.LittleEndian.PutUint32(b[at:], uint32(n))
	if _, err := m.MarshalToSizedBufferVT(b[at+lenBytes:]); err != nil {
		return b[:at], &eggs.Error{Op: "wire.WriteBlockFrame", Kind: eggs.Invalid, Err: err}
	}
	return b, nil
}

// WriteBlockFrame writes one header in one write.
func WriteBlockFrame(w io.Writer, m Message) error {
	buf := obtain(0)
	defer release(buf)
	b, err := AppendBlockFrame(*buf, m)
	*buf = b
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// ReadBlockFrame reads one header and not a byte more. It fails with the
// stream's own error (io.EOF between frames), TooLarge, or Invalid.
func ReadBlockFrame(r io.Reader, m Message) error {
	buf := obtain(lenBytes)
	defer release(buf)
	if _, err := io.ReadFull(r, *buf); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(*buf)
	if n > MaxBlockFrame {
		return eggs.E("wire.ReadBlockFrame", eggs.TooLarge, fmt.Sprintf(
			"a header of %d bytes; the limit is %d", n, MaxBlockFrame))
	}
	body := obtain(int(n))
	defer release(body)
	if _, err := io.ReadFull(r, *body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if err := m.UnmarshalVT(*body); err != nil {
		return &eggs.Error{Op: "wire.ReadBlockFrame", Kind: eggs.Invalid, Err: err}
	}
	return nil
}
