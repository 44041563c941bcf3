//go:build grow

package jepsen

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"eggsfs/eggs"
	"eggsfs/upkeep"
	"eggsfs/wire"
)

func retireAfter(t *testing.T, c *Cluster, d time.Duration) {
	t.Helper()
	fact(t, operator(t, c), &wire.CdcRequest{Op: &wire.CdcRequest_PutCluster{PutCluster: &wire.PutCluster{
		RetireAfterNs: int64(d),
	}}})
}

// TestRepairResumes: nodes that repair are killed one after the other while they do, slowly; the work
// goes on where the metadata says that it is, until all is whole, and nothing is leaked by what they had begun.
func TestRepairResumes(t *testing.T) {
	c := start(t, 3, "--gc-interval", "2s", "--repair-rate", "1MiB")
	o := operator(t, c)
	mnt := mount(t, c)
	src := t.TempDir()
	sh(t, `for i in $(seq 60); do head -c 4000000 /dev/urandom >%[1]s/f$i; done; cp -a %[1]s/. %[2]s/`, src, mnt)
	retireAfter(t, c, 3*time.Second)
	var disks []eggs.DiskID
	for _, name := range []string{"01", "02"} {
		d, folder := aDisk(t, o, c.Node(2), name)
		disks = append(disks, d)
		sh(t, "find %s -mindepth 1 -delete", folder)
	}
	left := func() (n uint64) {
		all, err := upkeep.LeftOn(context.Background(), o, disks)
		must(t, err)
		for _, x := range all {
			n += x.Blocks
		}
		return n
	}
	before := left()
	for began := time.Now(); left() == before; time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("repair does not begin")
		}
	}
	for i := range 2 {
		t.Logf("node %d is killed with %d of %d blocks left", i+1, left(), before)
		if left() == 0 {
			t.Error("repair was done before it could be disturbed")
		}
		c.Node(i).Kill()
		time.Sleep(time.Second)
		must(t, c.Node(i).Start())
		must(t, c.Node(i).WaitReady())
	}
	fullAgain(t, c, 3*time.Minute)
	sh(t, "diff -r %s %s", src, mnt)
	run(t, c, "check")
	time.Sleep(5 * time.Minute) // what a killed repairer had begun expires by then
	nothingIsLeft(t, c, mnt)
}

// readsFor reads a file again and again past the kernel's cache until stop, and returns MiB/s.
func readsFor(t *testing.T, path string, stop func() bool) (mib float64) {
	t.Helper()
	buf := make([]byte, 1<<20)
	began := time.Now()
	n := 0
	for !stop() {
		f, err := os.Open(path)
		must(t, err)
		for {
			k, err := f.Read(buf)
			n += k
			if err != nil || stop() {
				break
			}
		}
		must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		f.Close()
	}
	return float64(n) / (1 << 20) / time.Since(began).Seconds()
}

// TestRepairFigures prints how fast blocks are copied and rebuilt without a limit, and what that costs a
// reader, and what the default rate costs, as ratios in one run.
func TestRepairFigures(t *testing.T) {
	for _, x := range []struct {
		rate string
		wipe bool
	}{{"0", false}, {"0", true}, {"64MiB", true}} {
		c := start(t, 3, "--gc-interval", "10m", "--repair-rate", x.rate)
		o := operator(t, c)
		mnt := mount(t, c)
		sh(t, `for i in $(seq 20); do head -c 50000000 /dev/urandom >%[1]s/f$i; done
			head -c 200000000 /dev/urandom >%[1]s/read`, mnt)
		file := filepath.Join(mnt, "read")
		limit := time.Now().Add(8 * time.Second)
		alone := readsFor(t, file, func() bool { return time.Now().After(limit) })
		size := int64(0)
		var disks []eggs.DiskID
		for _, name := range []string{"01", "02", "03", "04", "05", "06"} {
			d, folder := aDisk(t, o, c.Node(2), name)
			disks = append(disks, d)
			must(t, filepath.Walk(folder, func(path string, st os.FileInfo, err error) error {
				if err == nil && st.Mode().IsRegular() && isBlock(path) {
					size += st.Size()
				}
				return nil
			}))
			if x.wipe {
				sh(t, "find %s -mindepth 1 -delete", folder)
			}
		}
		for _, d := range disks {
			fact(t, o, &wire.CdcRequest{Op: &wire.CdcRequest_PutDisk{PutDisk: &wire.PutDisk{
				Disk: &wire.DiskFact{Id: uint64(d), Retired: true, Why: "a measurement"}, Mask: 4,
			}}})
		}
		began := time.Now()
		took := time.Duration(0)
		var done atomic.Bool
		go func() {
			defer done.Store(true)
			for took < 2*time.Minute { // the old blocks are the collector's later: linked files count
				_, err := c.Eggs(context.Background(), "explain", "-r", "--exit-code", "/")
				if took = time.Since(began); err == nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
		during := readsFor(t, file, done.Load)
		if took > 2*time.Minute {
			t.Error("repair was not done in time")
		}
		t.Logf("rate %s, rebuilt %v: %d MiB made anew in %s: %.0f MiB/s; a reader has %.0f MiB/s alone, %.0f during it: %.2f",
			x.rate, x.wipe, size>>20, took.Round(100*time.Millisecond), float64(size>>20)/took.Seconds(),
			alone, during, during/alone)
		c.Close()
	}
}
