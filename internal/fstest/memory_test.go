package fstest

import (
	"errors"
	"testing"

	"eggsfs/client"
	"eggsfs/eggs"
)

// The memory must keep the contract itself, or what is tested on it proves nothing.
func TestMemory(t *testing.T) {
	m := NewMemory()
	Suite(t, m, m.Client())
}

// The hooks are how other tests make things fail; an outcome unknown is a Close
// that fails after its effect.
func TestHook(t *testing.T) {
	m := NewMemory()
	ctx := t.Context()
	m.SetHook(func(c Call) error {
		if c.Op == "Closed" && c.Name == "f" {
			return eggs.E("test", eggs.Indeterminate, "")
		}
		if c.Op == "Mkdir" {
			return eggs.E("test", eggs.Timeout, "")
		}
		return nil
	})
	if _, err := m.Mkdir(ctx, eggs.Root, "d", client.CreateOptions{}); !errors.Is(err, eggs.Timeout) {
		t.Fatal(err)
	}
	w, err := m.Create(ctx, eggs.Root, "f", client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(ctx); !errors.Is(err, eggs.Indeterminate) {
		t.Fatal(err)
	}
	if _, err := m.Lookup(ctx, eggs.Root, "f"); err != nil {
		t.Fatal(err)
	}
	m.SetHook(nil)
	m.SetRoom(3)
	w, _ = m.Create(ctx, eggs.Root, "g", client.CreateOptions{})
	if _, err := w.Write([]byte("four")); !errors.Is(err, eggs.NoSpace) {
		t.Fatal(err)
	}
	if _, err := w.Close(ctx); !errors.Is(err, eggs.NoSpace) {
		t.Fatal(err)
	}
	if len(m.Versions(eggs.Root, "g")) != 0 {
		t.Fatal("a failed file has versions")
	}
}
