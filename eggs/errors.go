package eggs

import (
	"errors"
	"strings"
)

// Kind is the class of an error. It crosses the wire as its number, so numbers
// are never reused. A Kind is itself an error, for errors.Is(err, eggs.NotExist).
type Kind uint16

// The kinds of error.
const (
	Other         Kind = 0  // the Kind of the cause, if there is one
	NotExist      Kind = 1  // no such inode, entry, block, disk, node
	Exist         Kind = 2  // the name is taken
	NotDir        Kind = 3  // a directory was wanted
	IsDir         Kind = 4  // anything but a directory was wanted
	NotEmpty      Kind = 5  // the directory has entries
	NameTooLong   Kind = 6  // over MaxName bytes
	Invalid       Kind = 7  // the request makes no sense, whatever the state
	ReadOnly      Kind = 8  // a finished file, or a removed directory, does not change
	CrossDir      Kind = 9  // spans two directories in a way that is not supported
	Loop          Kind = 10 // a directory would come to lie in itself
	NoSpace       Kind = 11 // too few disks with room to place a span
	TooLarge      Kind = 12 // over a limit that the text names
	Permission    Kind = 13 // wrong key, wrong cookie, wrong certificate
	Conflict      Kind = 14 // the thing is not in the state that the request names
	Locked        Kind = 15 // a transaction holds the entry; try again
	Expired       Kind = 16 // the file under construction is past its deadline
	NotLeader     Kind = 17 // ask the node that the error names, if it names one
	Unavailable   Kind = 18 // no majority, or a node is out of reach; nothing was done
	Timeout       Kind = 19 // not done in the time allowed; nothing was done
	Indeterminate Kind = 20 // it may or may not have been done
	Corrupt       Kind = 21 // a checksum is wrong; the text says where
	BadSession    Kind = 22 // the session is unknown or expired; the request was not executed
	BadDisk       Kind = 23 // these block services failed
	Version       Kind = 24 // the peer speaks no common protocol version
	WrongCluster  Kind = 25 // the peer belongs to another cluster, or is not who was meant
	Stale         Kind = 26 // a fenced step of a finished transaction, or a write below a mark
	Busy          Kind = 27 // a bounded queue is full; nothing was done
	Unsupported   Kind = 28 // EggsFS does not do this
	Canceled      Kind = 29 // the caller gave up before anything was sent
	IO            Kind = 30 // the operating system refused a read or write
	InUse         Kind = 31 // another process holds it

	// Kinds is one more than the greatest Kind.
	Kinds = 32
)

var kindNames = [Kinds]string{
	"error", "does not exist", "exists already", "not a directory", "is a directory",
	"directory not empty", "name too long", "invalid", "read-only", "crosses directories",
	"would make a loop", "no space", "too large", "permission denied", "state conflict",
	"locked by a transaction", "expired", "not the leader", "unavailable", "timed out",
	"outcome unknown", "corrupt", "unknown session", "disk failed", "protocol version",
	"wrong cluster", "stale", "busy", "not supported", "canceled", "input/output error", "in use",
}

// String returns the kind in words.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "error"
}

// Error makes a Kind an error of its own, to be wrapped or compared with.
func (k Kind) Error() string { return k.String() }

// Error is the one error type that crosses a package or a machine.
// Zero fields are left out when it is printed.
type Error struct {
	Op    string   // Package and operation, such as "raftshard.LinkFile".
	Inode InodeID  // What was touched; a directory when Name is set.
	Name  string   // The entry within that directory, or a path, address or disk.
	Kind  Kind     // If Other, the Kind of Err is the one reported.
	Err   error    // What lay underneath.
	Node  NodeID   // With NotLeader, who leads, if known.
	Disks []DiskID // With BadDisk, which ones.
}

// Error prints op, thing, kind and cause, in that order.
func (e *Error) Error() string {
	var b strings.Builder
	part := func(s string) {
		if s == "" {
			return
		}
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(s)
	}
	part(e.Op)
	thing := ""
	if e.Inode != 0 {
		thing = e.Inode.String()
	}
	if e.Name != "" {
		if thing != "" {
			thing += " "
		}
		thing += "\"" + e.Name + "\""
	}
	part(thing)
	if e.Kind != Other {
		part(e.Kind.String())
	}
	for _, d := range e.Disks {
		part("disk " + d.String())
	}
	if e.Err != nil {
		var k Kind
		if !(errors.As(e.Err, &k) && k == e.Kind && e.Err == error(k)) {
			part(e.Err.Error())
		}
	}
	if b.Len() == 0 {
		return "error"
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is this error's Kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && e.Kind != Other && e.Kind == k
}

// KindOf returns the Kind of the outermost Error or Kind in err's chain that has one,
// and Other if there is none.
func KindOf(err error) Kind {
	for err != nil {
		switch e := err.(type) {
		case *Error:
			if e.Kind != Other {
				return e.Kind
			}
		case Kind:
			return e
		}
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, x := range many.Unwrap() {
				if k := KindOf(x); k != Other {
					return k
				}
			}
			return Other
		}
		err = errors.Unwrap(err)
	}
	return Other
}

// E makes an Error of an operation and a kind, with a cause in words when text is not empty.
func E(op string, kind Kind, text string) *Error {
	e := &Error{Op: op, Kind: kind}
	if text != "" {
		e.Err = errors.New(text)
	}
	return e
}
