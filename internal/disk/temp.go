package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Temp is a file that is being written. It has no name that anyone looks for until
// Rename. Exactly one of Rename and Discard ends it.
type Temp struct {
	folder *Folder
	file   *os.File
	name   string
	direct bool
}

// Temp starts a file.
func (f *Folder) Temp() (*Temp, error) {
	name := tempName + "/" + strconv.FormatUint(f.temps.Add(1), 10)
	file, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	return &Temp{folder: f, file: file, name: name}, nil
}

// Reserve asks the file system for room for the file's first size bytes now, without
// changing how long it is. A file system that cannot is no error.
func Reserve(file *os.File, size int64) error {
	for {
		switch err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size); err {
		case nil, unix.EOPNOTSUPP, unix.ENOSYS:
			return nil
		case unix.EINTR:
		default:
			return wrap("disk.Reserve", file.Name(), err)
		}
	}
}

// Direct switches the page cache off or on for what is written next. Writes past it must be
// whole pages from page-aligned memory at page-aligned offsets. It reports whether
// the file system can.
func (t *Temp) Direct(on bool) bool {
	flag := 0
	if on {
		flag = unix.O_DIRECT
	}
	_, err := unix.FcntlInt(t.file.Fd(), unix.F_SETFL, flag)
	t.direct = on && err == nil
	return err == nil
}

// Reserve asks for room for size bytes, so that lack of it shows before they are sent.
func (t *Temp) Reserve(size int64) error { return Reserve(t.file, size) }

// Write appends.
func (t *Temp) Write(p []byte) (int, error) {
	if err := t.folder.faulty("write", t.name); err != nil {
		return 0, t.wrap("disk.Write", err)
	}
	n, err := t.file.Write(p)
	if t.direct && errors.Is(err, unix.EINVAL) { // this file system wants more than whole pages
		t.Direct(false)
		var m int
		m, err = t.file.Write(p[n:])
		n += m
	}
	if err != nil {
		return n, t.wrap("disk.Write", err)
	}
	return n, nil
}

// Sync returns when the data and all that is needed to read it are on the disk. After an
// error it must not be tried again: the kernel has forgotten what it could not write.
func (t *Temp) Sync() error {
	if err := t.folder.faulty("sync", t.name); err != nil {
		return t.wrap("disk.Sync", err)
	}
	if err := fdatasync(t.file); err != nil {
		return t.wrap("disk.Sync", err)
	}
	return nil
}

// Rename gives the file its name, replacing what has it, and closes it. The name is durable
// after SyncDir of its directory. replaced tells whether the name was taken.
func (t *Temp) Rename(name string) (replaced bool, err error) {
	f := t.folder
	if err = f.faulty("rename", name); err == nil {
		err = unix.Renameat2(f.fd, t.name, f.fd, name, unix.RENAME_NOREPLACE)
		if err == unix.EEXIST {
			replaced = true
		}
		if err != nil && err != unix.ENOENT { // EINVAL: a file system without NOREPLACE
			err = unix.Renameat(f.fd, t.name, f.fd, name)
		}
	}
	if err != nil {
		t.Discard()
		return false, wrap("disk.Rename", f.at(name), err)
	}
	t.file.Close()
	return replaced, nil
}

// Discard removes the file.
func (t *Temp) Discard() {
	t.file.Close()
	_ = t.folder.Remove(t.name) // what stays is removed at the next Open
}

func (t *Temp) wrap(op string, err error) error { return wrap(op, t.folder.at(t.name), err) }

// WriteFile puts a small file in place, whole and durable, or leaves what was there.
func (f *Folder) WriteFile(name string, data []byte) error {
	t, err := f.Temp()
	if err != nil {
		return err
	}
	_, err = t.Write(data)
	if err == nil {
		err = t.Sync()
	}
	if err != nil {
		t.Discard()
		return err
	}
	if _, err := t.Rename(name); err != nil {
		return err
	}
	return f.SyncDir(filepath.Dir(name))
}

// dirSync shares the syncs of one directory.
type dirSync struct {
	running sync.Mutex // held by the round that is being synced
	round   *syncRound // the round that has not begun, or nil; under Folder.syncMu
}

// syncRound is one sync and those who wait for it.
type syncRound struct {
	once sync.Once
	err  error
}

// SyncDir makes the names of a directory durable. Those who ask while a sync
// is going on share the next one.
func (f *Folder) SyncDir(name string) error {
	f.syncMu.Lock()
	s := f.syncs[name]
	if s == nil {
		s = &dirSync{}
		f.syncs[name] = s
	}
	if s.round == nil {
		s.round = &syncRound{}
	}
	round := s.round
	f.syncMu.Unlock()
	round.once.Do(func() {
		s.running.Lock()
		defer s.running.Unlock()
		f.syncMu.Lock()
		s.round = nil // whoever asks from here on may have renamed too late for this one
		f.syncMu.Unlock()
		round.err = f.syncDir(name)
	})
	return round.err
}

func (f *Folder) syncDir(name string) error {
	if err := f.faulty("sync", name); err != nil {
		return wrap("disk.SyncDir", f.at(name), err)
	}
	d, err := f.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return wrap("disk.SyncDir", f.at(name), err)
	}
	return nil
}

func fdatasync(file *os.File) error {
	for {
		if err := unix.Fdatasync(int(file.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// Datasync makes the data of a file opened with OpenFile durable; as Temp.Sync.
func (f *Folder) Datasync(file *os.File) error {
	err := f.faulty("sync", file.Name())
	if err == nil {
		err = fdatasync(file)
	}
	if err != nil {
		return wrap("disk.Datasync", file.Name(), err)
	}
	return nil
}

// WriteAt writes to a file opened with OpenFile.
func (f *Folder) WriteAt(file *os.File, b []byte, off int64) error {
	err := f.faulty("write", file.Name())
	if err == nil {
		_, err = file.WriteAt(b, off)
	}
	if err != nil {
		return wrap("disk.WriteAt", file.Name(), err)
	}
	return nil
}
