package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"eggsfs/eggs"
)

// errnos is the one table from kinds of error to what a program sees. Where
// nothing was done it is ETIMEDOUT, where the outcome is unknown EIO.
var errnos = [eggs.Kinds]syscall.Errno{
	eggs.Other:         syscall.EIO,
	eggs.NotExist:      syscall.ENOENT,
	eggs.Exist:         syscall.EEXIST,
	eggs.NotDir:        syscall.ENOTDIR,
	eggs.IsDir:         syscall.EISDIR,
	eggs.NotEmpty:      syscall.ENOTEMPTY,
	eggs.NameTooLong:   syscall.ENAMETOOLONG,
	eggs.Invalid:       syscall.EINVAL,
	eggs.ReadOnly:      syscall.EROFS,
	eggs.CrossDir:      syscall.EXDEV,
	eggs.Loop:          syscall.EINVAL, // what rename(2) says of a directory moved into itself
	eggs.NoSpace:       syscall.ENOSPC,
	eggs.TooLarge:      syscall.EFBIG,
	eggs.Permission:    syscall.EACCES,
	eggs.Conflict:      syscall.EBUSY,
	eggs.Locked:        syscall.EBUSY,
	eggs.Expired:       syscall.EIO, // the file under construction is lost: no other word fits close(2)
	eggs.NotLeader:     syscall.ETIMEDOUT,
	eggs.Unavailable:   syscall.ETIMEDOUT,
	eggs.Timeout:       syscall.ETIMEDOUT,
	eggs.Indeterminate: syscall.EIO,
	eggs.Corrupt:       syscall.EIO,
	eggs.BadSession:    syscall.EIO,
	eggs.BadDisk:       syscall.EIO,
	eggs.Version:       syscall.EPROTO,
	eggs.WrongCluster:  syscall.EPROTO,
	eggs.Stale:         syscall.ESTALE,
	eggs.Busy:          syscall.EBUSY,
	eggs.Unsupported:   syscall.EOPNOTSUPP,
	eggs.Canceled:      syscall.EINTR,
	eggs.IO:            syscall.EIO,
	eggs.InUse:         syscall.EBUSY,
}

// statusOf is the errno of an error.
func statusOf(err error) gofuse.Status {
	if err == nil {
		return gofuse.OK
	}
	if k := eggs.KindOf(err); int(k) < len(errnos) {
		return gofuse.Status(errnos[k])
	}
	return gofuse.EIO
}
