package fuse

import (
	"errors"
	"syscall"
	"testing"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"eggsfs/eggs"
)

// A kind without an errno would reach programs as success.
func TestEveryKindHasAnErrno(t *testing.T) {
	for k := eggs.Kind(0); k < eggs.Kinds; k++ {
		if errnos[k] == 0 {
			t.Errorf("kind %d (%v) has no errno", k, k)
		}
		if got := statusOf(&eggs.Error{Op: "x", Err: &eggs.Error{Kind: k}}); got != gofuse.Status(errnos[k]) {
			t.Errorf("kind %v wrapped: %v", k, got)
		}
	}
	if statusOf(nil) != gofuse.OK || statusOf(errors.New("x")) != gofuse.EIO {
		t.Error("nil or a foreign error is wrong")
	}
	if statusOf(&eggs.Error{Kind: eggs.Kinds + 5}) != gofuse.EIO {
		t.Error("a kind of a newer version is not EIO")
	}
	for k, e := range map[eggs.Kind]syscall.Errno{
		eggs.Indeterminate: syscall.EIO, eggs.Timeout: syscall.ETIMEDOUT, eggs.CrossDir: syscall.EXDEV,
		eggs.NoSpace: syscall.ENOSPC, eggs.ReadOnly: syscall.EROFS, eggs.Exist: syscall.EEXIST,
	} {
		if errnos[k] != e {
			t.Errorf("%v is %v, and the contract says %v", k, errnos[k], e)
		}
	}
}
