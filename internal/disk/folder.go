package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"eggsfs/eggs"
)

// Names in the folder.
const (
	identityName = "identity"
	tempName     = "tmp"
)

// Options say which folder, and whose it should be.
type Options struct {
	Path    string
	Want    eggs.DiskID    // the disk that must be there; 0: any, or format an empty folder
	Cluster eggs.ClusterID // refuse another cluster's disk; 0: do not look
	Node    eggs.NodeID    // noted when formatting

	// Fault is for tests: what it returns for an operation (sync, write, open,
	// read, rename, remove, check) and a name is what the operating system would have said.
	Fault func(op, name string) error
}

// Folder is an open disk folder. It is safe for concurrent use.
type Folder struct {
	path     string
	dir      *os.File // held open and locked
	fd       int
	identity Identity
	device   uint64
	inode    uint64
	fault    func(op, name string) error
	temps    atomic.Uint64

	syncMu sync.Mutex
	syncs  map[string]*dirSync
}

// Open locks a disk folder and reads its identity, formatting it if it is
// empty and o.Want is zero. Kinds: NotExist when the folder or the disk wanted is not there,
// Conflict when it is another disk's or not a disk's, WrongCluster, InUse, Version, Corrupt, IO.
func Open(o Options) (*Folder, error) {
	if o.Want == 0 {
		if err := mkdirAll(o.Path, 0o755, o.Fault); err != nil {
			return nil, err
		}
	}
	dir, err := os.OpenFile(o.Path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, wrap("disk.Open", o.Path, err)
	}
	f := &Folder{
		path: o.Path, dir: dir, fd: int(dir.Fd()), fault: o.Fault, syncs: map[string]*dirSync{},
	}
	if err := f.open(o); err != nil {
		dir.Close()
		return nil, err
	}
	return f, nil
}

func (f *Folder) open(o Options) error {
	const op = "disk.Open"
	err := unix.Flock(f.fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return &eggs.Error{
			Op: op, Name: f.path, Kind: eggs.InUse,
			Err: errors.New("another process serves this disk"),
		}
	}
	if err != nil {
		return wrap(op, f.path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return wrap(op, f.path, err)
	}
	f.device, f.inode = st.Dev, st.Ino
	id, err := f.readIdentity()
	switch {
	case errors.Is(err, eggs.NotExist):
		f.identity, err = f.format(o)
		return err
	case err != nil:
		return err
	}
	if err := id.mustBe(o); err != nil {
		return &eggs.Error{Op: op, Name: f.path, Err: err}
	}
	f.identity = id
	return f.emptyTemps()
}

// Close unlocks the folder.
func (f *Folder) Close() error { return f.dir.Close() }

// Path is where the folder was opened.
func (f *Folder) Path() string { return f.path }

// Identity is who the disk is.
func (f *Folder) Identity() Identity { return f.identity }

// Device tells folders of one file system by the same number: they share its room.
func (f *Folder) Device() uint64 { return f.device }

// Check fails unless the folder's path still leads to this folder, and its
// identity is still there: it sees disks that were pulled, unmounted, swapped or emptied.
func (f *Folder) Check() error {
	const op = "disk.Check"
	if err := f.faulty("check", ""); err != nil {
		return wrap(op, f.path, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(f.path, &st); err != nil {
		return wrap(op, f.path, err)
	}
	if st.Dev != f.device || st.Ino != f.inode {
		return &eggs.Error{
			Op: op, Name: f.path, Kind: eggs.Conflict,
			Err: fmt.Errorf("something else is there now than disk %s", f.identity.Disk),
		}
	}
	id, err := f.readIdentity()
	if err != nil {
		return err
	}
	if id.Disk != f.identity.Disk {
		return &eggs.Error{
			Op: op, Name: f.path, Kind: eggs.Conflict,
			Err: fmt.Errorf("disk %s is there now instead of %s", id.Disk, f.identity.Disk),
		}
	}
	return nil
}

// Space is the room of the file system that a folder is on.
type Space struct {
	Capacity uint64 // bytes that ordinary users could fill
	Free     uint64 // bytes that they still can
}

// Space asks the file system. Folders with one Device share what it says.
func (f *Folder) Space() (Space, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(f.fd, &st); err != nil {
		return Space{}, wrap("disk.Space", f.path, err)
	}
	unit := uint64(st.Bsize)
	return Space{
		Capacity: (st.Blocks - min(st.Blocks, st.Bfree-min(st.Bfree, st.Bavail))) * unit,
		Free:     st.Bavail * unit,
	}, nil
}

// OpenFile opens a file of the folder, with the flags of package os.
func (f *Folder) OpenFile(name string, flag int) (*os.File, error) {
	if err := f.faulty("open", name); err != nil {
		return nil, wrap("disk.OpenFile", f.at(name), err)
	}
	for {
		fd, err := unix.Openat(f.fd, name, flag|unix.O_CLOEXEC, 0o644)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, wrap("disk.OpenFile", f.at(name), err)
		}
		return os.NewFile(uintptr(fd), f.at(name)), nil
	}
}

// ReadAt reads from a file opened with OpenFile, as io.ReaderAt: io.EOF at its end.
func (f *Folder) ReadAt(file *os.File, b []byte, off int64) (int, error) {
	err := f.faulty("read", file.Name())
	n := 0
	if err == nil {
		n, err = file.ReadAt(b, off)
	}
	if err != nil && err != io.EOF {
		err = wrap("disk.ReadAt", file.Name(), err)
	}
	return n, err
}

// Sequential tells the kernel that a file will be read from here on in order.
func Sequential(file *os.File) {
	_ = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_SEQUENTIAL)
}

// ReadFile returns what a small file of the folder holds, at most limit bytes.
func (f *Folder) ReadFile(name string, limit int) ([]byte, error) {
	file, err := f.OpenFile(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, int64(limit)+1))
	if err != nil {
		return nil, wrap("disk.ReadFile", f.at(name), err)
	}
	if len(b) > limit {
		return nil, &eggs.Error{Op: "disk.ReadFile", Name: f.at(name), Kind: eggs.TooLarge}
	}
	return b, nil
}

// Mkdir makes a directory if it is not there, durably. One that is there may
// be of a process that was killed before it had synced the name.
func (f *Folder) Mkdir(name string) error {
	err := unix.Mkdirat(f.fd, name, 0o755)
	if err != nil && err != unix.EEXIST {
		return wrap("disk.Mkdir", f.at(name), err)
	}
	return f.SyncDir(filepath.Dir(name))
}

// Remove unlinks a file; that it was not there is Kind NotExist. It is durable after
// SyncDir of its directory.
func (f *Folder) Remove(name string) error {
	err := f.faulty("remove", name)
	if err == nil {
		err = unix.Unlinkat(f.fd, name, 0)
	}
	if err != nil {
		return wrap("disk.Remove", f.at(name), err)
	}
	return nil
}

// Names returns the names in a directory of the folder, in no order.
func (f *Folder) Names(dir string) ([]string, error) {
	d, err := f.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, wrap("disk.Names", f.at(dir), err)
	}
	return names, nil
}

// FileInfo is what List tells of a file.
type FileInfo struct {
	Size    int64
	Written eggs.Time
}

// Stat returns a file's size and when it was written.
func (f *Folder) Stat(name string) (FileInfo, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(f.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return FileInfo{}, wrap("disk.Stat", f.at(name), err)
	}
	return FileInfo{Size: st.Size, Written: eggs.Time(st.Mtim.Nano())}, nil
}

func (f *Folder) emptyTemps() error {
	if err := f.Mkdir(tempName); err != nil {
		return err
	}
	names, err := f.Names(tempName)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := f.Remove(tempName + "/" + n); err != nil {
			return err
		}
	}
	return nil
}

func (f *Folder) at(name string) string { return filepath.Join(f.path, name) }

func (f *Folder) faulty(op, name string) error {
	if f.fault == nil {
		return nil
	}
	return f.fault(op, name)
}

// empty reports whether the folder holds nothing that anyone could miss.
func (f *Folder) empty() (bool, error) {
	names, err := f.Names(".")
	if err != nil {
		return false, err
	}
	for _, n := range names {
		if n == "lost+found" {
			continue
		}
		if n == tempName { // from a formatting that was cut short
			if in, err := f.Names(n); err == nil && len(in) <= 1 &&
				!strings.ContainsFunc(strings.Join(in, ""), notTemp) {
				continue
			}
		}
		return false, nil
	}
	return true, nil
}

// notTemp tells runes that no name of a temporary file has.
func notTemp(r rune) bool { return r < '0' || r > '9' }

// wrap makes an error of the operating system one of the house.
func wrap(op, name string, err error) error {
	kind := eggs.IO
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		kind = eggs.NoSpace
	case errors.Is(err, fs.ErrNotExist):
		kind = eggs.NotExist
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
		kind = eggs.Busy
	}
	var path *fs.PathError
	if errors.As(err, &path) { // its path is in name already
		err = path.Err
	}
	return &eggs.Error{Op: op, Name: name, Kind: kind, Err: err}
}
