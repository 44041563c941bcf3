package wire

import (
	"context"
	"errors"

	"eggsfs/eggs"
)

// Limits of an error on the wire: a person reads it.
const (
	maxErrorText  = 2 << 10 // bytes of cause, and of operation
	maxErrorName  = 512     // bytes: a name, a path or an address
	maxErrorDisks = 64      // more than the blocks of a span
)

// ErrorOf puts an error on the wire: nil for nil. The operations and things of
// nested eggs.Errors without a Kind of their own are joined into one. An error without Kind
// that is a context's becomes Indeterminate: whoever gave up cannot say what happened.
func ErrorOf(err error) *Error {
	if err == nil {
		return nil
	}
	kind := eggs.KindOf(err)
	if kind == eggs.Other &&
		(errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		kind = eggs.Indeterminate
	}
	w := &Error{Kind: uint32(kind)}
	cause := err
	for {
		e, ok := cause.(*eggs.Error)
		if !ok || e == nil {
			break
		}
		if w.Op != "" && e.Op != "" {
			w.Op += ": "
		}
		w.Op += e.Op
		if w.Inode == 0 {
			w.Inode = uint64(e.Inode)
		}
		if w.Name == "" {
			w.Name = e.Name
		}
		cause = e.Err
		if e.Kind != eggs.Other || cause == nil {
			break
		}
	}
	if cause != nil && cause != error(kind) {
		w.Text = cause.Error()
	}
	fillHints(w, err)
	w.Op, w.Text = cut(w.Op, maxErrorText), cut(w.Text, maxErrorText)
	w.Name = cut(w.Name, maxErrorName)
	return w
}

// fillHints takes who leads and which disks failed from wherever in the chain they are.
func fillHints(w *Error, err error) {
	for err != nil {
		if e, ok := err.(*eggs.Error); ok {
			if w.Node == 0 {
				w.Node = uint64(e.Node)
			}
			if len(w.Disks) == 0 {
				for _, d := range e.Disks[:min(len(e.Disks), maxErrorDisks)] {
					w.Disks = append(w.Disks, uint64(d))
				}
			}
		}
		err = errors.Unwrap(err)
	}
}

// AsError is the error that ErrorOf was given, as far as it crossed: nil for nil.
func (e *Error) AsError() error {
	if e == nil {
		return nil
	}
	x := &eggs.Error{
		Op: e.Op, Inode: eggs.InodeID(e.Inode), Name: e.Name,
		Kind: eggs.Kind(e.Kind), Node: eggs.NodeID(e.Node),
	}
	if e.Text != "" {
		x.Err = errors.New(e.Text)
	}
	for _, d := range e.Disks {
		x.Disks = append(x.Disks, eggs.DiskID(d))
	}
	return x
}
