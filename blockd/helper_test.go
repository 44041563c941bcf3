package blockd

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

// rig is a server on some disks and a listener on loopback.
type rig struct {
	t      testing.TB
	config Config
	server *Server
	listen net.Listener
	keys   *auth.Blocks
}

var testKey = sync.OnceValue(func() *auth.Key {
	dir, err := os.MkdirTemp("", "blockd")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	k, err := auth.CreateKey(filepath.Join(dir, "key"))
	if err != nil {
		panic(err)
	}
	return k
})

func newRig(t testing.TB, disks int, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, keys: testKey().Blocks()}
	dir := t.TempDir()
	for i := range disks {
		r.config.Disks = append(r.config.Disks, DiskConfig{Path: filepath.Join(dir, fmt.Sprint(i))})
	}
	r.config.Auth = r.keys
	for _, f := range change {
		f(&r.config)
	}
	r.start()
	t.Cleanup(r.stop)
	return r
}

func (r *rig) start() {
	r.t.Helper()
	s, err := Open(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.server, r.listen = s, l
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go s.ServeConn(nc)
		}
	}()
}

func (r *rig) stop() {
	r.listen.Close()
	r.server.Close()
}

// restart stops the server and starts it on the same disks, which must be who they were.
func (r *rig) restart() {
	r.t.Helper()
	for i, d := range r.server.services {
		r.config.Disks[i].Want = d.id
	}
	r.stop()
	r.start()
}

func (r *rig) disk(i int) *service { return r.server.services[i] }

// file is where a block lies.
func (r *rig) file(i int, id eggs.BlockID) string {
	return filepath.Join(r.config.Disks[i].Path, nameOf(id))
}

func (r *rig) status(i int) *wire.DiskStatus { return r.server.Disks()[i] }

// peer is a client's connection.
type peer struct {
	t    testing.TB
	nc   net.Conn
	keys *auth.Blocks
}

func (r *rig) dial() *peer {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.listen.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	return &peer{r.t, nc, r.keys}
}

// secure is a client's connection over TLS.
func (r *rig) secure() *peer {
	r.t.Helper()
	server, err := testKey().ServerTLS(auth.Identity{Node: 1}, wire.ALPNBlock)
	must(r.t, err)
	client, err := testKey().ClientTLS(auth.Identity{}, wire.ALPNBlock)
	must(r.t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(r.t, err)
	defer l.Close()
	go func() {
		if nc, err := l.Accept(); err == nil {
			r.server.ServeConn(tls.Server(nc, server))
		}
	}()
	nc, err := tls.Dial("tcp", l.Addr().String(), client)
	must(r.t, err)
	r.t.Cleanup(func() { nc.Close() })
	return &peer{r.t, nc, r.keys}
}

func pattern(id eggs.BlockID, size int) []byte {
	g := rand.New(rand.NewPCG(uint64(id), 1))
	b := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], g.Uint64())
	}
	return b
}

func sumsOf(data []byte) []byte {
	var t []byte
	for i := 0; i < len(data); i += pageSize {
		t = binary.LittleEndian.AppendUint32(t, crc32.Checksum(data[i:i+pageSize], castagnoli))
	}
	return t
}

func certFor(d eggs.DiskID, id eggs.BlockID, data []byte) auth.BlockCert {
	return auth.BlockCert{
		Disk: d, Block: id, Size: uint32(len(data)), CRC: crc32.Checksum(data, castagnoli),
	}
}

func onWire(c auth.BlockCert, mac []byte) *wire.Certificate {
	return &wire.Certificate{
		Disk: uint64(c.Disk), Block: uint64(c.Block), Size: c.Size, Crc: c.CRC, Mark: c.Mark, Mac: mac,
	}
}

func (p *peer) send(m *wire.BlockRequest, raw ...[]byte) error {
	p.nc.SetDeadline(time.Now().Add(20 * time.Second))
	b, err := wire.AppendBlockFrame(nil, m)
	if err != nil {
		return err
	}
	bufs := append(net.Buffers{b}, raw...)
	_, err = bufs.WriteTo(p.nc)
	return err
}

func (p *peer) receive() (*wire.BlockReply, error) {
	var r wire.BlockReply
	if err := wire.ReadBlockFrame(p.nc, &r); err != nil {
		return nil, err
	}
	return &r, r.Error.AsError()
}

func (p *peer) call(m *wire.BlockRequest, raw ...[]byte) (*wire.BlockReply, error) {
	if err := p.send(m, raw...); err != nil {
		return nil, err
	}
	return p.receive()
}

func putRequest(c *wire.Certificate) *wire.BlockRequest {
	return &wire.BlockRequest{Op: &wire.BlockRequest_Put{Put: &wire.PutBlock{Certificate: c}}}
}

func (p *peer) put(d eggs.DiskID, id eggs.BlockID, data []byte) error {
	c := certFor(d, id, data)
	r, err := p.call(putRequest(onWire(c, p.keys.WriteMAC(c))), sumsOf(data), data)
	if err != nil {
		return err
	}
	if r.Proof.Disk != uint64(d) || r.Proof.Block != uint64(id) || !p.keys.CheckWriteProof(c, r.Proof.Mac) {
		return errors.New("the proof is wrong")
	}
	return nil
}

// get returns the pages as they came, verified, and the first one's offset.
func (p *peer) get(d eggs.DiskID, id eggs.BlockID, size, off, n uint32) ([]byte, uint32, error) {
	c := auth.BlockCert{Disk: d, Block: id, Size: size}
	r, err := p.call(&wire.BlockRequest{Op: &wire.BlockRequest_Get{Get: &wire.GetBlock{
		Certificate: onWire(c, p.keys.ReadMAC(c)), Offset: off, Length: n,
	}}})
	if err != nil {
		return nil, 0, err
	}
	sums := make([]byte, r.Bytes/pageSize*crcBytes)
	data := make([]byte, r.Bytes)
	if _, err := io.ReadFull(p.nc, sums); err != nil {
		return nil, 0, err
	}
	if _, err := io.ReadFull(p.nc, data); err != nil {
		return nil, 0, err
	}
	if bad, want, found := checkPages(sums, data); bad >= 0 {
		return nil, 0, badPage(d, id, int64(r.FirstPage+uint32(bad))*pageSize, want, found)
	}
	return data, r.FirstPage * pageSize, nil
}

func (p *peer) erase(d eggs.DiskID, id eggs.BlockID, mark uint64) error {
	c := auth.BlockCert{Disk: d, Block: id, Mark: mark}
	r, err := p.call(&wire.BlockRequest{Op: &wire.BlockRequest_Erase{Erase: &wire.EraseBlock{
		Certificate: onWire(c, p.keys.EraseMAC(c)),
	}}})
	if err != nil {
		return err
	}
	if !p.keys.CheckEraseProof(c, r.Proof.Mac) {
		return errors.New("the proof is wrong")
	}
	return nil
}

func (p *peer) check(d eggs.DiskID, id eggs.BlockID, size, crc uint32) error {
	c := auth.BlockCert{Disk: d, Block: id, Size: size, CRC: crc}
	_, err := p.call(&wire.BlockRequest{Op: &wire.BlockRequest_Check{Check: &wire.CheckBlock{
		Certificate: onWire(c, p.keys.ReadMAC(c)),
	}}})
	return err
}

func (p *peer) list(d eggs.DiskID, limit uint32) ([]*wire.BlockInfo, error) {
	var all []*wire.BlockInfo
	for after := uint64(0); ; {
		r, err := p.call(&wire.BlockRequest{Op: &wire.BlockRequest_List{List: &wire.ListBlocks{
			Disk: uint64(d), After: after, Limit: limit,
		}}})
		if err != nil {
			return nil, err
		}
		all = append(all, r.Blocks...)
		if r.End {
			return all, nil
		}
		after = all[len(all)-1].Id
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t testing.TB, err error, k eggs.Kind) {
	t.Helper()
	if !errors.Is(err, k) {
		t.Fatalf("%v, want kind %q", err, k)
	}
}

func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}
