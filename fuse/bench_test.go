package fuse

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"eggsfs/internal/fstest"
)

func init() { helpers["create"], helpers["stats"] = helpCreate, helpStats }

// helpCreate makes files of 1 KiB: FOLDER COUNT CALLERS.
func helpCreate(args []string) error { return many(args, makeOne) }

// helpStats stats them.
func helpStats(args []string) error {
	return many(args, func(path string) error {
		var st unix.Stat_t
		return unix.Stat(path, &st)
	})
}

func makeOne(path string) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, make([]byte, 1024)); err != nil {
		return err
	}
	return unix.Close(fd)
}

func many(args []string, do func(path string) error) error {
	count, _ := strconv.Atoi(args[1])
	callers, _ := strconv.Atoi(args[2])
	var wg sync.WaitGroup
	errs := make(chan error, callers)
	for c := range callers {
		wg.Go(func() {
			for i := c; i < count; i += callers {
				if err := do(fmt.Sprintf("%s/%d", args[0], i)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// cpu is what this process and its children have used, in seconds.
func cpu() float64 {
	s := 0.0
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		_ = syscall.Getrusage(who, &u)
		s += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	return s
}

// The processor time of the mount itself and of who uses it, without a cluster: what is left
// of the target of 0.8 ms a create is the client's and the servers'.
func BenchmarkMount(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root to mount")
	}
	for _, callers := range []int{1, 16} {
		for _, op := range []string{"create", "stats"} {
			b.Run(fmt.Sprintf("%s/%d", op, callers), func(b *testing.B) {
				m, dir := benchMount(b)
				defer m.Unmount()
				if op == "stats" {
					if err := helpCreate([]string{dir, strconv.Itoa(b.N), "1"}); err != nil {
						b.Fatal(err)
					}
				}
				b.ResetTimer()
				before := cpu()

				c := benchHelper(b, op, dir, strconv.Itoa(b.N), strconv.Itoa(callers))
				if out, err := c.CombinedOutput(); err != nil {
					b.Fatalf("%v %s", err, out)
				}
				b.ReportMetric((cpu()-before)*1e6/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

func benchMount(b *testing.B) (*Mounted, string) {
	dir := b.TempDir()
	m, err := Mount(Config{Client: fstest.NewMemory(), Mountpoint: dir})
	if err != nil {
		b.Fatal(err)
	}
	return m, dir
}

func benchHelper(b *testing.B, name string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	c := exec.Command(exe, args...)
	c.Env = append(os.Environ(), "EGGS_HELPER="+name)
	return c
}
