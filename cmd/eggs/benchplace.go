package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
)

const (
	benchBuffer = 1 << 20 // bytes of each write and read of a large file
	benchPage   = 4 << 10 // bytes of each random read
	benchList   = 5000    // entries of a page of a listing
)

// open makes, or finds again, the folder of this run.
func (b *bench) open(ctx context.Context) (place, error) {
	name := b.keep + b.reuse
	if name == "" {
		name = fmt.Sprintf("bench-%d", time.Now().UnixNano())
	}
	if b.dir != "" {
		f := &folder{b: b, top: filepath.Join(b.dir, name)}
		if b.reuse != "" {
			return f, nil
		}
		return f, f.prepare()
	}
	c, err := b.o.open(ctx)
	if err != nil {
		return nil, err
	}
	l := &library{b: b, c: c, name: name, ids: make([]eggs.InodeID, b.count), large: make([]eggs.InodeID, b.streams)}
	if b.reuse != "" {
		err = l.find(ctx)
	} else {
		err = l.prepare(ctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return l, nil
}

// pattern is bytes that are not all the same.
func pattern(size int) []byte {
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(i * 7)
	}
	return p
}

func home(i int) string      { return "home" + strconv.Itoa(i) }
func fileName(i int) string  { return "f" + strconv.Itoa(i) }
func dirName(i int) string   { return "d" + strconv.Itoa(i) }
func largeName(s int) string { return "large" + strconv.Itoa(s) }

// readAll reads the s-th large file from its begin to its end, and fails when it is not whole.
func (b *bench) readAll(ctx context.Context, p place, s int) error {
	f, err := p.open(ctx, s)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, benchBuffer)
	for off, end := int64(0), b.stream<<20; off < end; off += benchBuffer {
		if n, err := f.ReadAt(buf, off); n < len(buf) {
			return fmt.Errorf("%s at %d: %d bytes of %d: %w", largeName(s), off, n, len(buf), err)
		}
	}
	return nil
}

// randomReads reads pages of the large files in random order, none twice.
func (b *bench) randomReads(p place) action {
	pages := int(b.stream<<20) / benchPage
	order := rand.New(rand.NewPCG(1, 2)).Perm(pages * b.streams)
	files := make([]func() (large, error), b.streams)
	for s := range files {
		files[s] = sync.OnceValues(func() (large, error) {
			f, err := p.open(context.Background(), s)
			if err == nil {
				b.opened(f)
			}
			return f, err
		})
	}
	return action{"random", min(b.random, len(order)), b.callers, func(_ context.Context, i int) (int, error) {
		f, err := files[order[i]/pages]()
		if err != nil {
			return 0, err
		}
		buf := make([]byte, benchPage)
		off := int64(order[i]%pages) * benchPage
		if n, err := f.ReadAt(buf, off); n < len(buf) {
			return 0, fmt.Errorf("random read at %d: %d bytes of %d: %w", off, n, len(buf), err)
		}
		return 1, nil
	}}
}

// opened keeps f, to be closed at the end.
func (b *bench) opened(f io.Closer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files = append(b.files, f)
}

// folder does everything through the operating system.
type folder struct {
	b   *bench
	top string
}

func (f *folder) prepare() error {
	for i := range f.b.dirs {
		if err := os.MkdirAll(filepath.Join(f.top, home(i)), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (f *folder) path(i int, name string) string { return filepath.Join(f.top, home(i%f.b.dirs), name) }

func (f *folder) create(_ context.Context, i int) error {
	return os.WriteFile(f.path(i, fileName(i)), pattern(f.b.size), 0o644)
}

func (f *folder) stat(_ context.Context, i int) error {
	_, err := os.Lstat(f.path(i, fileName(i)))
	return err
}

func (f *folder) mkdir(_ context.Context, i int) error { return os.Mkdir(f.path(i, dirName(i)), 0o755) }

func (f *folder) unlink(_ context.Context, i int) error { return os.Remove(f.path(i, fileName(i))) }

func (f *folder) rmdir(_ context.Context, i int) error { return os.Remove(f.path(i, dirName(i))) }

func (f *folder) list(_ context.Context, attrs bool) (int, error) {
	total := 0
	for i := range f.b.dirs {
		d, err := os.Open(filepath.Join(f.top, home(i)))
		if err != nil {
			return 0, err
		}
		entries, err := d.ReadDir(-1) // in the directory's order, not sorted
		d.Close()
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			if !attrs {
				break
			}
			if _, err := e.Info(); err != nil {
				return 0, err
			}
		}
		total += len(entries)
	}
	return total, nil
}

func (f *folder) write(_ context.Context, s int) error {
	file, err := os.Create(filepath.Join(f.top, largeName(s)))
	if err != nil {
		return err
	}
	buf := pattern(benchBuffer)
	for range f.b.stream {
		if _, err := file.Write(buf); err != nil {
			file.Close()
			return err
		}
	}
	if f.b.sync {
		if err := file.Sync(); err != nil {
			file.Close()
			return err
		}
	}
	return file.Close()
}

func (f *folder) open(_ context.Context, s int) (large, error) {
	return os.Open(filepath.Join(f.top, largeName(s)))
}

func (f *folder) close(keep bool) error {
	if keep {
		return nil
	}
	return os.RemoveAll(f.top)
}

// library does the same through the client library.
type library struct {
	b     *bench
	c     *client.Client
	name  string
	top   eggs.InodeID
	homes []eggs.InodeID
	ids   []eggs.InodeID // of the files
	large []eggs.InodeID
}

var benchDir = client.CreateOptions{Mode: 0o755}

func (l *library) prepare(ctx context.Context) error {
	top, err := l.c.Mkdir(ctx, eggs.Root, l.name, benchDir)
	if err != nil {
		return err
	}
	l.top = top.ID
	for i := range l.b.dirs {
		a, err := l.c.Mkdir(ctx, l.top, home(i), benchDir)
		if err != nil {
			return err
		}
		l.homes = append(l.homes, a.ID)
	}
	return nil
}

// find looks up what an earlier run made.
func (l *library) find(ctx context.Context) error {
	top, err := l.c.Lookup(ctx, eggs.Root, l.name)
	if err != nil {
		return err
	}
	l.top = top.Target
	for i := range l.b.dirs {
		e, err := l.c.Lookup(ctx, l.top, home(i))
		if err != nil {
			return err
		}
		l.homes = append(l.homes, e.Target)
	}
	for s := range l.large {
		if e, err := l.c.Lookup(ctx, l.top, largeName(s)); err == nil {
			l.large[s] = e.Target
		} else if eggs.KindOf(err) != eggs.NotExist {
			return err
		}
	}
	return l.pages(ctx, false, func(e client.Entry) {
		i, err := strconv.Atoi(strings.TrimPrefix(e.Name, "f"))
		if err == nil && i < len(l.ids) {
			l.ids[i] = e.Target
		}
	})
}

// pages calls f for each entry of every directory.
func (l *library) pages(ctx context.Context, attrs bool, f func(client.Entry)) error {
	for _, dir := range l.homes {
		for after := uint64(0); ; {
			entries, _, end, err := l.c.ReadDir(ctx, dir, after, benchList, attrs)
			if err != nil {
				return err
			}
			for _, e := range entries {
				f(e)
			}
			if end || len(entries) == 0 {
				break
			}
			after = entries[len(entries)-1].Cursor
		}
	}
	return nil
}

func (l *library) home(i int) eggs.InodeID { return l.homes[i%len(l.homes)] }

func (l *library) create(ctx context.Context, i int) error {
	w, err := l.c.Create(ctx, l.home(i), fileName(i), client.CreateOptions{Mode: 0o644})
	if err != nil {
		return err
	}
	l.ids[i] = w.ID()
	if _, err := w.Write(pattern(l.b.size)); err != nil {
		w.Abort()
		return err
	}
	_, err = w.Close(ctx)
	return err
}

func (l *library) stat(ctx context.Context, i int) error {
	_, err := l.c.Stat(ctx, l.ids[i])
	return err
}

func (l *library) mkdir(ctx context.Context, i int) error {
	_, err := l.c.Mkdir(ctx, l.home(i), dirName(i), benchDir)
	return err
}

func (l *library) unlink(ctx context.Context, i int) error {
	return l.c.Unlink(ctx, l.home(i), fileName(i), 0)
}

func (l *library) rmdir(ctx context.Context, i int) error {
	return l.c.Rmdir(ctx, l.home(i), dirName(i))
}

func (l *library) list(ctx context.Context, attrs bool) (int, error) {
	total, bare := 0, 0
	err := l.pages(ctx, attrs, func(e client.Entry) {
		if total++; attrs && e.Attr == nil {
			bare++
		}
	})
	if err == nil && bare > 0 {
		err = fmt.Errorf("%d of %d entries came without attributes", bare, total)
	}
	return total, err
}

func (l *library) write(ctx context.Context, s int) error {
	w, err := l.c.Create(ctx, l.top, largeName(s), client.CreateOptions{Mode: 0o644})
	if err != nil {
		return err
	}
	buf := pattern(benchBuffer)
	for range l.b.stream {
		if _, err := w.Write(buf); err != nil {
			w.Abort()
			return err
		}
	}
	l.large[s] = w.ID()
	_, err = w.Close(ctx)
	return err
}

func (l *library) open(ctx context.Context, s int) (large, error) { return l.c.Open(ctx, l.large[s]) }

func (l *library) close(keep bool) error {
	if keep {
		return l.c.Close()
	}
	err := removeTree(context.Background(), l.c, eggs.Root, client.Entry{Name: l.name, Target: l.top})
	return errors.Join(err, l.c.Close())
}
