package fuse

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limits of one look at /proc. Beyond them the look says "nobody", which publishes; a
// holder that writes after that starts a new version, so a wrong answer costs an
// intermediate version, never data.
const (
	maxDescriptors = 4096 // of one process: 4,096 looks take some 10 ms
	maxFamily      = 256  // descendants
	maxAncestors   = 64
)

// openFile is what a descriptor is compared with: the inode, and whether it may write.
type openFile struct {
	major, minor uint32
	ino          uint64
	writes       bool
}

var errUnreadable = errors.New("the process may not be looked at")

func procPath(pid uint32, rest string) string {
	return "/proc/" + strconv.FormatUint(uint64(pid), 10) + rest
}

// holds reports whether a process has a descriptor of f. It fails with errUnreadable; a
// process that is gone holds nothing.
func holds(pid uint32, f openFile) (bool, error) {
	dir, err := unix.Open(procPath(pid, "/fd"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, lookError(err)
	}
	defer unix.Close(dir)
	var buf [4096]byte
	for seen := 0; seen < maxDescriptors; {
		n, err := unix.ReadDirent(dir, buf[:])
		if err != nil {
			return false, lookError(err)
		}
		if n <= 0 {
			break
		}
		for at := 0; at+direntName < n; {
			size := int(buf[at+16]) | int(buf[at+17])<<8
			name := buf[at+direntName : at+size] // a number and a NUL, or "." or ".."
			if at += size; name[0] == '.' {
				continue
			}
			seen++
			if is(dir, name, f) && sameWay(pid, name, f.writes) {
				return true, nil
			}
		}
	}
	return false, nil
}

// direntName is where the name begins in what getdents64(2) returns.
const direntName = 19

func lookError(err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return errUnreadable
}

// is reports whether a descriptor, named as getdents64 does, is one of the inode, without
// asking the file system that it belongs to: that may be this one. It is called for every
// descriptor of the caller at every close, so it takes the name as it is.
func is(dir int, name []byte, f openFile) bool {
	var st unix.Statx_t
	const flags, mask = unix.AT_STATX_DONT_SYNC | unix.AT_NO_AUTOMOUNT, unix.STATX_INO
	_, _, e := unix.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(&name[0])),
		flags, mask, uintptr(unsafe.Pointer(&st)), 0)
	return e == 0 && st.Ino == f.ino && st.Dev_major == f.major && st.Dev_minor == f.minor
}

// sameWay reports whether a descriptor is open for writing, if writes.
func sameWay(pid uint32, name []byte, writes bool) bool {
	if !writes {
		return false // a reader cannot be told from another reader, and changes nothing
	}
	fd, _, _ := bytes.Cut(name, []byte{0})
	text, err := os.ReadFile(procPath(pid, "/fdinfo/"+string(fd)))
	if err != nil {
		return false
	}
	_, rest, ok := bytes.Cut(text, []byte("flags:\t"))
	if !ok {
		return false
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	flags, err := strconv.ParseUint(string(line), 8, 64)
	return err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY
}

// mapped reports whether a process has a shared, writable mapping of the inode.
func mapped(pid uint32, f openFile) bool {
	text, err := os.ReadFile(procPath(pid, "/maps"))
	if err != nil {
		return false
	}
	dev := hex2(f.major) + ":" + hex2(f.minor)
	ino := strconv.FormatUint(f.ino, 10)
	for line := range bytes.Lines(text) {
		w := bytes.Fields(line) // range, modes, offset, device, inode, path
		if len(w) >= 5 && len(w[1]) == 4 && w[1][1] == 'w' && w[1][3] == 's' &&
			string(w[3]) == dev && string(w[4]) == ino {
			return true
		}
	}
	return false
}

func hex2(n uint32) string {
	s := strconv.FormatUint(uint64(n), 16)
	if len(s) < 2 {
		return "0" + s
	}
	return s
}

// stat is what is read of /proc/PID/stat.
type stat struct {
	state   byte // Z and X: it has ended
	ppid    uint32
	pending uint64 // signals of the thread, bit n-1 for signal n
	code    int    // as wait(2) reports it; while a fatal signal is being handled too
}

func readStat(pid uint32) (stat, bool) {
	var buf [1024]byte // some 300 are used; one read returns all
	fd, err := unix.Open(procPath(pid, "/stat"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return stat{}, false
	}
	n, err := unix.Read(fd, buf[:])
	unix.Close(fd)
	if err != nil || n <= 0 {
		return stat{}, false
	}
	text := buf[:n]
	i := bytes.LastIndexByte(text, ')')
	if i < 0 {
		return stat{}, false
	}
	w := bytes.Fields(text[i+1:]) // from field 3, the state
	if len(w) < 50 {
		return stat{}, false
	}
	num := func(field int) uint64 {
		n, _ := strconv.ParseUint(string(w[field-3]), 10, 64)
		return n
	}
	return stat{state: w[0][0], ppid: uint32(num(4)), pending: num(31), code: int(num(52))}, true
}

// signal is what a process is ending by, or 0.
func (s stat) signal() syscall.Signal {
	switch sig := syscall.Signal(s.code & 0x7f); sig {
	case syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
		return 0 // shown of a stopped process
	default:
		return sig
	}
}

// killed reports whether a process is ending by a signal.
func killed(pid uint32) bool {
	st, ok := readStat(pid)
	return ok && st.signal() != 0
}

// beingKilled reports whether a process is ending by a signal and has not ended yet.
func beingKilled(pid uint32) bool {
	st, ok := readStat(pid)
	return ok && st.signal() != 0 && st.state != 'Z' && st.state != 'X'
}

// dying reports whether a process is gone, ending, or about to be.
func dying(pid uint32) bool {
	st, ok := readStat(pid)
	return !ok || st.pending&(1<<(syscall.SIGKILL-1)) != 0 || st.signal() != 0
}

// children appends the children of all threads of a process.
func children(pid uint32, to []uint32) []uint32 {
	tasks, err := os.Open(procPath(pid, "/task"))
	if err != nil {
		return to
	}
	defer tasks.Close()
	names, _ := tasks.Readdirnames(maxDescriptors)
	for _, task := range names {
		text, err := os.ReadFile(procPath(pid, "/task/"+task+"/children"))
		if err != nil {
			continue
		}
		for _, w := range bytes.Fields(text) {
			if n, err := strconv.ParseUint(string(w), 10, 32); err == nil {
				to = append(to, uint32(n))
			}
		}
	}
	return to
}

// descendants lists the processes below pid, at most maxFamily.
func descendants(pid uint32) []uint32 {
	list := children(pid, nil)
	for i := 0; i < len(list) && len(list) < maxFamily; i++ {
		list = children(list[i], list)
	}
	return list
}

// ancestors lists the processes above pid, nearest first, as far as last, which may be 0.
func ancestors(pid, last uint32) []uint32 {
	var list []uint32
	for range maxAncestors {
		st, ok := readStat(pid)
		if !ok || st.ppid == 0 {
			break
		}
		pid = st.ppid
		list = append(list, pid)
		if last != 0 && sameGroup(last, pid) {
			break
		}
	}
	return list
}

// sameGroup reports whether two threads are of one process.
func sameGroup(a, b uint32) bool {
	if a == b {
		return true
	}
	if a == 0 || b == 0 {
		return false
	}
	var st unix.Stat_t
	return unix.Stat(procPath(a, "/task/"+strconv.FormatUint(uint64(b), 10)), &st) == nil
}

// related reports whether pid is one of the processes, or below one.
func related(pid uint32, processes []uint32) bool {
	for range maxAncestors {
		for _, p := range processes {
			if sameGroup(p, pid) {
				return true
			}
		}
		st, ok := readStat(pid)
		if !ok || st.ppid == 0 {
			return false
		}
		pid = st.ppid
	}
	return false
}

// births counts processes: it gives a number that changes whenever one is born. Two
// equal ones mean that none was, unless all process ids went round.
type births struct{ file *os.File }

func openBirths() *births {
	f, err := os.Open("/proc/loadavg")
	if err != nil {
		return &births{}
	}
	return &births{f}
}

// count returns 0 when it cannot be known.
func (b *births) count() uint64 {
	if b.file == nil {
		return 0
	}
	var buf [128]byte
	n, _ := b.file.ReadAt(buf[:], 0)
	line := bytes.TrimSpace(buf[:n])
	last, err := strconv.ParseUint(string(line[bytes.LastIndexByte(line, ' ')+1:]), 10, 64)
	if err != nil {
		return 0
	}
	return last
}

func (b *births) close() {
	if b.file != nil {
		b.file.Close()
	}
}
