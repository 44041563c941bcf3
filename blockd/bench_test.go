package blockd

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

// cpu is what this process has used so far: client and server, as both are in it.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const benchBlock = 8 << 20

// stream runs b.N operations on four connections and reports CPU seconds a GB.
func stream(b *testing.B, r *rig, size int64, op func(p *peer, n uint64) error) {
	b.SetBytes(size)
	const streams = 4
	peers := make([]*peer, streams)
	for i := range peers {
		peers[i] = r.dial()
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	start := cpu()
	b.ResetTimer()
	for _, p := range peers {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				if err := op(p, uint64(n)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric((cpu()-start).Seconds()/(float64(b.N)*float64(size)/1e9), "cpu-s/GB")
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{benchBlock, 64 << 10} {
		b.Run(fmt.Sprint(size>>10, "KiB"), func(b *testing.B) {
			r := newRig(b, 1)
			data := pattern(1, size)
			sums := sumsOf(data)
			d := r.disk(0).id
			crc := certFor(d, 1, data)
			stream(b, r, int64(size), func(p *peer, n uint64) error {
				c := crc
				c.Block = eggs.MakeBlockID(1, n)
				_, err := p.call(putRequest(onWire(c, p.keys.WriteMAC(c))), sums, data)
				return err
			})
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, cold := range []bool{false, true} {
		b.Run(map[bool]string{true: "cold", false: "warm"}[cold], func(b *testing.B) {
			r := newRig(b, 1)
			d := r.disk(0).id
			const blocks = 32
			data := pattern(1, benchBlock)
			for n := range uint64(blocks) {
				must(b, r.dial().put(d, eggs.MakeBlockID(1, n+1), data))
			}
			stream(b, r, benchBlock, func(p *peer, n uint64) error {
				id := eggs.MakeBlockID(1, n%blocks+1)
				if cold {
					f, err := os.Open(r.file(0, id))
					if err != nil {
						return err
					}
					_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
					f.Close()
				}
				return p.drainGet(d, id, benchBlock, 0, benchBlock)
			})
		})
	}
}

// BenchmarkGetPage is the random read of 4 KiB.
func BenchmarkGetPage(b *testing.B) {
	r := newRig(b, 1)
	d := r.disk(0).id
	must(b, r.dial().put(d, 1, pattern(1, benchBlock)))
	stream(b, r, pageSize, func(p *peer, n uint64) error {
		return p.drainGet(d, 1, benchBlock, uint32(n*7919%2048)*pageSize, pageSize)
	})
}

func BenchmarkErase(b *testing.B) {
	r := newRig(b, 1)
	d := r.disk(0).id
	stream(b, r, 1, func(p *peer, n uint64) error {
		return p.erase(d, eggs.MakeBlockID(1, n), uint64(eggs.MakeBlockID(1, n)))
	})
}

// drainGet reads like a client: into one buffer, verifying as it comes.
func (p *peer) drainGet(d eggs.DiskID, id eggs.BlockID, size, off, n uint32) error {
	c := auth.BlockCert{Disk: d, Block: id, Size: size}
	r, err := p.call(&wire.BlockRequest{Op: &wire.BlockRequest_Get{Get: &wire.GetBlock{
		Certificate: onWire(c, p.keys.ReadMAC(c)), Offset: off, Length: n,
	}}})
	if err != nil {
		return err
	}
	sums := make([]byte, r.Bytes/pageSize*crcBytes)
	if _, err := io.ReadFull(p.nc, sums); err != nil {
		return err
	}
	buf := transfers.Get().(*[transferBytes]byte)
	defer transfers.Put(buf)
	for left := int(r.Bytes); left > 0; {
		k := min(left, transferBytes)
		if _, err := io.ReadFull(p.nc, buf[:k]); err != nil {
			return err
		}
		if bad, want, found := checkPages(sums, buf[:k]); bad >= 0 {
			return badPage(d, id, int64(bad), want, found)
		}
		sums = sums[k/pageSize*crcBytes:]
		left -= k
	}
	return nil
}
