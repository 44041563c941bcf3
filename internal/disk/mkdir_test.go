package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"eggsfs/eggs"
)

// powerless is a folder whose power can be lost: a name that was not there at the
// last sync of its directory is gone then, with all that is below it.
type powerless struct {
	t       *testing.T
	folder  string // that names of Fault are relative to
	durable map[string]bool
	left    int // operations until the power goes; negative: it stays
}

// fault is Options.Fault.
func (p *powerless) fault(op, name string) error {
	if p.left == 0 {
		return unix.EIO
	}
	p.left--
	if op != "sync" {
		return nil
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(p.folder, name)
	}
	if st, err := os.Stat(name); err != nil || !st.IsDir() {
		return nil
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range entries {
		p.durable[filepath.Join(name, e.Name())] = true
	}
	return nil
}

// lose is a loss of power.
func (p *powerless) lose(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !p.durable[path] {
			if err := os.RemoveAll(path); err != nil {
				p.t.Fatal(err)
			}
		} else if e.IsDir() {
			p.lose(path)
		}
	}
}

// A new disk is there after a loss of power, with the folders above it: when only the
// identity was synced and not the name of its folder, all blocks were gone.
func TestNewDiskSurvivesPowerLoss(t *testing.T) {
	top := t.TempDir()
	p := &powerless{t: t, folder: filepath.Join(top, "data/blocks/00"), durable: map[string]bool{}, left: -1}
	f, err := Open(Options{Path: p.folder, Fault: p.fault})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"blocks", "blocks/00"} {
		if err := f.Mkdir(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.WriteFile("blocks/00/x", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	id := f.Identity().Disk
	f.Close()
	p.lose(top)
	f = open(t, Options{Path: p.folder, Want: id})
	if b, err := f.ReadFile("blocks/00/x", 10); string(b) != "kept" || err != nil {
		t.Fatalf("after a loss of power: %q, %v", b, err)
	}
}

// Power that goes, or a process that is killed, at any step of making a disk
// leaves what the next start can use, and what that start made stays.
func TestMakingDiskIsCutShort(t *testing.T) {
	for _, cut := range []string{"power", "kill"} {
		for step := 0; ; step++ {
			top := t.TempDir()
			p := &powerless{
				t: t, folder: filepath.Join(top, "data/blocks/00"), durable: map[string]bool{}, left: step,
			}
			f, err := Open(Options{Path: p.folder, Fault: p.fault})
			if err == nil {
				f.Close()
				if step < 5 {
					t.Fatalf("only %d steps: the model sees not all of them", step)
				}
				break
			}
			if cut == "power" {
				p.lose(top)
			}
			p.left = -1
			what := fmt.Sprintf("%s, cut at step %d", cut, step)
			if f, err = Open(Options{Path: p.folder, Fault: p.fault}); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			id := f.Identity().Disk
			f.Close()
			p.lose(top)
			if f, err = Open(Options{Path: p.folder, Want: id}); err != nil {
				t.Fatalf("%s, then a start and a loss of power: %v", what, err)
			}
			f.Close()
		}
	}
}

// Errors of making folders are the words' errors, and what is there is no error.
func TestMkdirAll(t *testing.T) {
	top := t.TempDir()
	for range 2 {
		if err := MkdirAll(filepath.Join(top, "a/b"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(filepath.Join(top, "a")); err != nil || st.Mode().Perm() != 0o700 {
		t.Fatal(st, err)
	}
	if err := os.WriteFile(filepath.Join(top, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"file", "file/x"} {
		err := MkdirAll(filepath.Join(top, path), 0o700)
		if eggs.KindOf(err) != eggs.IO || !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
