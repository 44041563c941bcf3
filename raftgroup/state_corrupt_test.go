package raftgroup

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"eggsfs/eggs"
)

// Why: a wrong byte below the state machine must end the node with the store's name, and never
// reach a reader, nor go on into a snapshot for others.
func TestStateDamaged(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenState(dir, StateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	g := openTestGroup(t, s, 3)
	for i := uint64(1); i < 8000; i += 1000 {
		g.ApplyBatch(putLogs(i, i+999))
	}
	want := g.Hash()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	r := rand.New(rand.NewPCG(4, 4))
	for _, table := range tables {
		b, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			b[r.IntN(len(b)/2)] ^= 0x55
		}
		if err := os.WriteFile(table, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fatal := make(chan error, 8)
	var s2 *State
	opened := make(chan error, 1)
	go func() { // a fault ends its goroutine
		defer close(opened)
		var err error
		s2, err = OpenState(dir, StateOptions{MustExist: true, Fatal: func(err error) { fatal <- err }})
		if err != nil {
			opened <- err
			return
		}
		g, err := s2.Group(3, &putMachine{})
		if err != nil {
			opened <- err
			return
		}
		if h := g.Hash(); h != want {
			t.Errorf("read hash %08x, want %08x, and no error", h, want)
		}
	}()
	err = <-opened
	if err == nil {
		select {
		case err = <-fatal:
		default:
		}
	}
	if !errors.Is(err, eggs.Corrupt) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("%v", err)
	}
	t.Log(err)
}

// Why: a node whose identity says that it had state must not begin with an empty one.
func TestStateMissing(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenState(dir, StateOptions{MustExist: true}); !errors.Is(err, eggs.NotExist) {
		t.Fatal(err)
	}
	s, err := OpenState(dir, StateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenState(dir, StateOptions{}); !errors.Is(err, eggs.InUse) {
		t.Errorf("opened twice: %v", err)
	}
	s.Close()
	manifests, err := filepath.Glob(filepath.Join(dir, "MANIFEST-*"))
	if err != nil || len(manifests) != 1 {
		t.Fatal(manifests, err)
	}
	if err := os.Remove(manifests[0]); err != nil {
		t.Fatal(err)
	}
	_, err = OpenState(dir, StateOptions{})
	if !errors.Is(err, eggs.Corrupt) || !strings.Contains(err.Error(), dir) {
		t.Errorf("no manifest: %v", err)
	}
}
