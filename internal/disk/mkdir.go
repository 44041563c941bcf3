package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MkdirAll makes a folder and those that are missing above it, and returns when
// none of their names can be lost by a loss of power any more. A folder that is there is
// no error. Errors are *eggs.Error of Kind NoSpace, IO and the like.
func MkdirAll(path string, mode os.FileMode) error { return mkdirAll(path, mode, nil) }

// mkdirAll makes one level after another and syncs a name before anything is made
// below it. So of what is found, only the lowest folder may be of a process
// that was killed before the sync, and that one is synced too.
func mkdirAll(path string, mode os.FileMode, fault func(op, name string) error) error {
	const op = "disk.MkdirAll"
	path = filepath.Clean(path)
	parent := filepath.Dir(path)
	st, err := os.Stat(path)
	switch {
	case err == nil && !st.IsDir():
		return wrap(op, path, unix.ENOTDIR)
	case err == nil:
		if err = syncPath(parent, fault); errors.Is(err, fs.ErrPermission) {
			err = nil // whoever may not open the parent did not make the folder
		}
	case errors.Is(err, fs.ErrNotExist) && parent != path:
		if err := mkdirAll(parent, mode, fault); err != nil {
			return err
		}
		if err = os.Mkdir(path, mode); err == nil || errors.Is(err, fs.ErrExist) {
			err = syncPath(parent, fault)
		}
	}
	if err != nil {
		return wrap(op, path, err)
	}
	return nil
}

func syncPath(path string, fault func(op, name string) error) error {
	if fault != nil {
		if err := fault("sync", path); err != nil {
			return err
		}
	}
	d, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
