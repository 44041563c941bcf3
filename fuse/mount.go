package fuse

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"eggsfs/eggs"
)

// FSType is the type in /proc/mounts.
const FSType = "fuse.eggsfs"

// endWait is how long Unmount waits for files that are being published: longer than a
// failover takes.
const endWait = 10 * time.Second

// Mounted is a mount that answers.
type Mounted struct {
	fs     *fileSystem
	server *gofuse.Server
	path   string
	served chan struct{} // closed when the kernel is done with us
	end    sync.Once
	endErr error
}

// Mount mounts, and returns when the mount answers.
//
// A mount point whose daemon died is replaced. One that is mounted and answers
// is refused with Kind InUse.
func Mount(c Config) (*Mounted, error) {
	c.setDefaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	path, err := mountpoint(c.Mountpoint)
	if err != nil {
		return nil, err
	}
	if err := clearDead(path, c.Logger); err != nil {
		return nil, err
	}
	f := newFileSystem(c)
	server, err := serve(f, path, &c)
	if err != nil {
		f.cancel()
		f.births.close()
		return nil, &eggs.Error{Op: "fuse.Mount", Name: path, Kind: eggs.IO, Err: err}
	}
	m := &Mounted{fs: f, server: server, path: path, served: make(chan struct{})}
	if err := f.learnDevice(path); err != nil {
		f.blind = true
		c.Logger.Warn("the mount's device is not known: files are published at every close", "err", err)
	}
	f.setReadAhead(c.ReadAhead)
	go f.reap()
	go func() {
		server.Serve()
		f.births.close()
		close(m.served)
	}()
	if err := server.WaitMount(); err != nil {
		m.Unmount()
		return nil, &eggs.Error{Op: "fuse.Mount", Name: path, Kind: eggs.IO, Err: err}
	}
	return m, nil
}

// serve opens the connection to the kernel: directly as root, else by fusermount3.
func serve(f *fileSystem, path string, c *Config) (*gofuse.Server, error) {
	o := options(c)
	if os.Geteuid() == 0 {
		direct := o
		direct.DirectMountStrict = true
		direct.DirectMountFlags = directFlags(c)
		s, err := gofuse.NewServer(f, path, &direct)
		if err == nil {
			return s, nil
		}
		c.Logger.Warn("mount(2) failed, trying fusermount3", "err", err)
	}
	o.Options = append(o.Options, fusermountOptions(c)...)
	s, err := gofuse.NewServer(f, path, &o)
	if err != nil && errors.Is(err, exec.ErrNotFound) {
		err = fmt.Errorf("%w (Debian package fuse3)", err)
	}
	return s, err
}

func options(c *Config) gofuse.MountOptions {
	level := slog.LevelWarn
	if c.DebugKernel {
		level = slog.LevelInfo
	}
	// ATOMIC_O_TRUNC: an OPEN says that it truncates. HANDLE_KILLPRIV_V2: no question about
	// capabilities with each write. EXPORT_SUPPORT is not offered: a node's name would be asked for.
	extra := uint64(gofuse.CAP_ATOMIC_O_TRUNC | gofuse.CAP_HANDLE_KILLPRIV_V2 | gofuse.CAP_READDIRPLUS_AUTO)
	return gofuse.MountOptions{
		AllowOther:               c.AllowOther,
		Options:                  []string{"default_permissions"},
		MaxBackground:            c.MaxBackground,
		MaxWrite:                 maxWrite,
		MaxReadAhead:             maxWrite,
		FsName:                   c.FsName,
		Name:                     strings.TrimPrefix(FSType, "fuse."),
		Debug:                    c.DebugKernel,
		Logger:                   slog.NewLogLogger(c.Logger.Handler(), level),
		DisableSplice:            true, // what is read lies in memory
		RememberInodes:           true, // there is nothing to forget
		EnableSymlinkCaching:     true, // a symlink's target never changes
		ExplicitDataCacheControl: true, // an id's content never changes
		ExtraCapabilities:        extra,
	}
}

func directFlags(c *Config) uintptr {
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	set := func(on bool, bit uintptr) {
		if on {
			flags |= bit
		}
	}
	set(c.ReadOnly, unix.MS_RDONLY)
	set(c.NoExec, unix.MS_NOEXEC)
	if c.Suid {
		flags &^= unix.MS_NOSUID
	}
	if c.Dev {
		flags &^= unix.MS_NODEV
	}
	return flags
}

func fusermountOptions(c *Config) []string {
	var o []string
	for word, on := range map[string]bool{"ro": c.ReadOnly, "noexec": c.NoExec, "suid": c.Suid, "dev": c.Dev} {
		if on {
			o = append(o, word)
		}
	}
	return o
}

// mountpoint makes a path absolute, and free of symlinks but for its last element, which
// may be a mount point that does not answer.
func mountpoint(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		var dir string
		if dir, err = filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
			abs = filepath.Join(dir, filepath.Base(abs))
		}
	}
	if err == nil {
		if real, e := filepath.EvalSymlinks(abs); e == nil {
			abs = real
		}
		return abs, nil
	}
	return "", &eggs.Error{Op: "fuse.Mount", Name: path, Kind: eggs.NotExist, Err: err}
}

// clearDead looks at the mount point, and takes away the mount of a daemon that died.
func clearDead(path string, log *slog.Logger) error {
	bad := func(k eggs.Kind, text string) error {
		return &eggs.Error{Op: "fuse.Mount", Name: path, Kind: k, Err: errors.New(text)}
	}
	for range 8 { // daemons that died on top of each other
		ours := fsType(path) == FSType
		fi, err := os.Stat(path)
		if err == nil && ours {
			// The kernel answers for a dead root from its cache; this name it asks about, and
			// the daemon answers without its cluster.
			if _, err = os.Lstat(filepath.Join(path, probe)); err == nil {
				return bad(eggs.InUse, "an EggsFS mount is there already")
			}
		}
		switch {
		case errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED):
			if !ours {
				return bad(eggs.InUse, "another file system's dead mount is there")
			}
			if err := detach(path); err != nil {
				return bad(eggs.InUse, "a dead mount is there and cannot be removed: "+err.Error())
			}
			log.Warn("replaced the mount of a daemon that died", "path", path)
			continue
		case errors.Is(err, os.ErrNotExist):
			return bad(eggs.NotExist, "the mount point does not exist")
		case err != nil:
			return &eggs.Error{Op: "fuse.Mount", Name: path, Kind: eggs.IO, Err: err}
		case !fi.IsDir():
			return bad(eggs.NotDir, "the mount point is not a directory")
		}
		return nil
	}
	return bad(eggs.InUse, "dead mounts come back as fast as they are removed")
}

// probe is a name that the FUSE library answers by itself.
const probe = ".go-fuse-epoll-hack"

// fsType is the type of what is mounted at a path on top of all else, or "".
func fsType(path string) string {
	list, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return i.Mountpoint != path, false
	})
	if err != nil || len(list) == 0 {
		return ""
	}
	return list[len(list)-1].FSType
}

// detach takes a mount out of the tree at once; what is open stays open.
func detach(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err == nil {
		return nil
	}
	if out, e := exec.Command("fusermount3", "-u", "-z", path).CombinedOutput(); e != nil {
		return fmt.Errorf("%w; fusermount3: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// learnDevice finds the device number by which descriptors are recognised.
func (f *fileSystem) learnDevice(path string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return err
	}
	f.major, f.minor = st.Dev_major, st.Dev_minor
	f.blind = f.config.blind
	return nil
}

// setReadAhead raises the kernel's read-ahead above its 128 KiB; only root may, and without
// it reading is slower, so it is no error.
func (f *fileSystem) setReadAhead(bytes int) {
	path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", f.major, f.minor)
	if err := os.WriteFile(path, []byte(strconv.Itoa(bytes>>10)), 0o644); err != nil {
		f.log.Debug("the kernel's read-ahead stays as it is", "err", err)
	}
}

// Path is the mount point, absolute.
func (m *Mounted) Path() string { return m.path }

// Wait returns when the mount has ended, by Unmount or by umount(8).
func (m *Mounted) Wait() { <-m.served }

// Done is closed when the mount has ended.
func (m *Mounted) Done() <-chan struct{} { return m.served }

// Unmount ends the mount. Files that are being published are waited for; files that
// are open for writing are not published. When a program still uses the mount, it
// is taken out of the tree and ends with the last user or with this process.
func (m *Mounted) Unmount() error {
	m.end.Do(func() {
		m.fs.end(endWait)
		select {
		case <-m.served:
			return
		default:
		}
		if err := m.server.Unmount(); err == nil {
			return
		}
		if err := detach(m.path); err != nil {
			m.endErr = &eggs.Error{Op: "fuse.Unmount", Name: m.path, Kind: eggs.IO, Err: err}
		}
	})
	return m.endErr
}
