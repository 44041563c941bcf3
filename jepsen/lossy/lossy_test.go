package lossy

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// mount mounts an empty file system that goes with the test.
func mount(t *testing.T) (*FS, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts need root here")
	}
	base := t.TempDir()
	m, err := Mount(filepath.Join(base, "mnt"), filepath.Join(base, "store"), fmt.Sprintf("eggsj-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, m.dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put writes a file, synced or not.
func put(t *testing.T, path, content string, sync bool) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	_, err = f.WriteString(content)
	must(t, err)
	if sync {
		must(t, f.Sync())
	}
	must(t, f.Close())
}

func syncDir(t *testing.T, dir string) {
	t.Helper()
	d, err := os.Open(dir)
	must(t, err)
	must(t, d.Sync())
	must(t, d.Close())
}

func lose(t *testing.T, m *FS, chance float64) int {
	t.Helper()
	k, err := m.PowerLoss(chance, 1)
	must(t, err)
	return k
}

// content is a file's, or "-" when it is not there.
func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "-"
	}
	must(t, err)
	return string(b)
}

// TestPowerLoss goes through what a disk may forget, case by case. If this file
// system keeps too much, a missing fsync in the product is never found; if it keeps too
// little, the product is blamed for what no disk does.
func TestPowerLoss(t *testing.T) {
	cases := []struct {
		name   string
		do     func(t *testing.T, d string)
		expect map[string]string
	}{
		{"all synced", func(t *testing.T, d string) {
			put(t, d+"/a", "one", true)
			syncDir(t, d)
		}, map[string]string{"a": "one"}},
		{"file synced, its name not", func(t *testing.T, d string) {
			put(t, d+"/a", "one", true)
		}, map[string]string{"a": "-"}},
		{"name synced, content not", func(t *testing.T, d string) {
			put(t, d+"/a", "one", false)
			syncDir(t, d)
		}, map[string]string{"a": ""}},
		{"overwrite and append not synced", func(t *testing.T, d string) {
			put(t, d+"/a", "one two", true)
			syncDir(t, d)
			f, err := os.OpenFile(d+"/a", os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("ONE TWO THREE"), 0)
			must(t, err)
			must(t, f.Close())
		}, map[string]string{"a": "one two"}},
		{"truncation not synced", func(t *testing.T, d string) {
			put(t, d+"/a", "one two", true)
			syncDir(t, d)
			must(t, os.Truncate(d+"/a", 2))
			put(t, d+"/b", "", false)
		}, map[string]string{"a": "one two", "b": "-"}},
		{"written with O_DSYNC", func(t *testing.T, d string) {
			put(t, d+"/a", "", true)
			syncDir(t, d)
			f, err := os.OpenFile(d+"/a", os.O_WRONLY|syscall.O_DSYNC, 0)
			must(t, err)
			_, err = f.WriteString("at once")
			must(t, err)
			must(t, f.Close())
		}, map[string]string{"a": "at once"}},
		{"rename over, directory not synced", func(t *testing.T, d string) {
			put(t, d+"/a", "old", true)
			syncDir(t, d)
			put(t, d+"/b", "new", true)
			must(t, os.Rename(d+"/b", d+"/a"))
		}, map[string]string{"a": "old", "b": "-"}},
		{"rename over, directory synced", func(t *testing.T, d string) {
			put(t, d+"/a", "old", true)
			put(t, d+"/b", "new", true)
			must(t, os.Rename(d+"/b", d+"/a"))
			syncDir(t, d)
		}, map[string]string{"a": "new", "b": "-"}},
		{"unlink not synced", func(t *testing.T, d string) {
			put(t, d+"/a", "one", true)
			syncDir(t, d)
			must(t, os.Remove(d+"/a"))
		}, map[string]string{"a": "one"}},
		{"unlink and make again, not synced", func(t *testing.T, d string) {
			put(t, d+"/a", "one", true)
			syncDir(t, d)
			must(t, os.Remove(d+"/a"))
			put(t, d+"/a", "two", true)
			must(t, os.Remove(d+"/a"))
		}, map[string]string{"a": "one"}},
		{"folder synced, its own name not", func(t *testing.T, d string) {
			must(t, os.Mkdir(d+"/x", 0o755))
			put(t, d+"/x/a", "one", true)
			syncDir(t, d+"/x")
		}, map[string]string{"x/a": "-", "x": "-"}},
		{"rename between folders, one synced", func(t *testing.T, d string) {
			must(t, os.Mkdir(d+"/x", 0o755))
			put(t, d+"/a", "one", true)
			syncDir(t, d)
			must(t, os.Rename(d+"/a", d+"/x/b"))
			syncDir(t, d+"/x")
		}, map[string]string{"a": "-", "x/b": "one"}},
		{"rename between folders, none synced", func(t *testing.T, d string) {
			must(t, os.Mkdir(d+"/x", 0o755))
			put(t, d+"/a", "one", true)
			syncDir(t, d)
			must(t, os.Rename(d+"/a", d+"/x/b"))
		}, map[string]string{"a": "one", "x/b": "-"}},
		{"hard link not synced", func(t *testing.T, d string) {
			put(t, d+"/a", "one", true)
			syncDir(t, d)
			must(t, os.Link(d+"/a", d+"/b"))
		}, map[string]string{"a": "one", "b": "-"}},
	}
	m, dir := mount(t)
	for k, c := range cases {
		d := fmt.Sprintf("%s/%d", dir, k)
		must(t, os.Mkdir(d, 0o755))
		syncDir(t, dir)
		c.do(t, d)
	}
	lose(t, m, 0)
	for k, c := range cases {
		for name, want := range c.expect {
			path := fmt.Sprintf("%s/%d/%s", dir, k, name)
			if got := content(t, path); got != want {
				t.Errorf("%s: %s is %q, want %q", c.name, name, got, want)
			}
		}
	}
	if k := lose(t, m, 0); k != 0 {
		t.Errorf("a second power loss undid %d more", k)
	}
}

// TestRandomWrites compares with a model of what was synced, over many writes,
// truncations and power losses, so that no undo is forgotten or done twice.
func TestRandomWrites(t *testing.T) {
	m, dir := mount(t)
	path := dir + "/f"
	put(t, path, "", true)
	syncDir(t, dir)
	rng := rand.New(rand.NewPCG(7, 7))
	var now, disk []byte
	for round := range 6 {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		for range 60 {
			switch rng.IntN(8) {
			case 0:
				must(t, f.Sync())
				disk = bytes.Clone(now)
			case 1:
				size := rng.IntN(40000)
				must(t, f.Truncate(int64(size)))
				now = append(now, make([]byte, max(0, size-len(now)))...)[:size]
			default:
				off, p := rng.IntN(30000), make([]byte, 1+rng.IntN(9000))
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				_, err := f.WriteAt(p, int64(off))
				must(t, err)
				now = append(now, make([]byte, max(0, off+len(p)-len(now)))...)
				copy(now[off:], p)
			}
		}
		must(t, f.Close())
		if got := content(t, path); got != string(now) {
			t.Fatalf("round %d: reads %d bytes that are not the %d written", round, len(got), len(now))
		}
		lose(t, m, 0)
		if got := content(t, path); got != string(disk) {
			t.Fatalf("round %d: after the power loss %d bytes, synced were %d", round, len(got), len(disk))
		}
		now = bytes.Clone(disk)
	}
}

// TestTorn shows that with a chance some of what was not synced is there and some
// is not, in whole sectors, and that what was synced is never touched.
func TestTorn(t *testing.T) {
	m, dir := mount(t)
	old, fresh := bytes.Repeat([]byte("o"), 64<<10), bytes.Repeat([]byte("n"), 64<<10)
	put(t, dir+"/f", string(old), true)
	put(t, dir+"/safe", string(old), true)
	syncDir(t, dir)
	f, err := os.OpenFile(dir+"/f", os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt(fresh, 0)
	must(t, err)
	must(t, f.Close())
	lose(t, m, 0.5)
	got := content(t, dir+"/f")
	sectors := map[byte]int{}
	for off := 0; off < len(got); off += sector {
		s := got[off : off+sector]
		if s != string(old[:sector]) && s != string(fresh[:sector]) {
			t.Fatalf("the sector at %d is torn", off)
		}
		sectors[s[0]]++
	}
	if len(got) != len(old) || sectors['o'] < 20 || sectors['n'] < 20 {
		t.Fatalf("%d bytes, sectors %v", len(got), sectors)
	}
	if content(t, dir+"/safe") != string(old) {
		t.Fatal("a synced file was touched")
	}
}

// TestFaults shows that each fault does what it says, only to what it matches,
// and ends when it is taken away.
func TestFaults(t *testing.T) {
	m, dir := mount(t)
	put(t, dir+"/log", "one", true)
	put(t, dir+"/other", "one", true)
	write := func(name string) error {
		f, err := os.OpenFile(dir+"/"+name, os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		if _, err := f.WriteString("two"); err != nil {
			return err
		}
		return f.Sync()
	}
	m.SetFault(&Fault{Calls: Sync, Match: "log", Errno: syscall.EIO})
	if err := write("log"); !errors.Is(err, syscall.EIO) {
		t.Fatalf("fsync with EIO: %v", err)
	}
	must(t, write("other"))
	if m.Met() != 1 {
		t.Fatalf("met %d calls", m.Met())
	}
	m.SetFault(&Fault{Calls: All, Full: true})
	if err := write("other"); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write to a full disk: %v", err)
	}
	var st syscall.Statfs_t
	must(t, syscall.Statfs(dir, &st))
	if st.Bavail != 0 {
		t.Fatal("a full disk shows room")
	}
	must(t, os.Remove(dir+"/other"))
	m.SetFault(&Fault{Calls: Write, Delay: 50 * time.Millisecond})
	begin := time.Now()
	must(t, write("log"))
	if d := time.Since(begin); d < 50*time.Millisecond {
		t.Fatalf("a slow write took %v", d)
	}
	m.SetFault(&Fault{Calls: Sync, Stuck: true})
	done := make(chan error, 1)
	go func() { done <- write("log") }()
	select {
	case err := <-done:
		t.Fatalf("a stuck write ended: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	m.SetFault(nil)
	must(t, <-done)
}

// TestRot shows that a flipped bit is seen by a reader who had the file in the cache.
func TestRot(t *testing.T) {
	m, dir := mount(t)
	must(t, os.Mkdir(dir+"/x", 0o755))
	put(t, dir+"/x/f", "aaaa", true)
	if content(t, dir+"/x/f") != "aaaa" {
		t.Fatal("not as written")
	}
	if f := m.Files("x"); len(f) != 1 || f[0] != "x/f" || m.Size(f[0]) != 4 || m.Size("x/g") != 0 {
		t.Fatalf("lists %v", f)
	}
	must(t, m.Rot("x/f", 17))
	if got := content(t, dir+"/x/f"); got != "aaca" {
		t.Fatalf("after the rot %q", got)
	}
	if err := m.Rot("x/g", 0); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("rot of nothing: %v", err)
	}
}
