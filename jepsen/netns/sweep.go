package netns

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// FSPrefix begins the file system name of every mount that a harness makes; the
// owner's process id follows.
const FSPrefix = "eggsj-"

var (
	ownLink      = regexp.MustCompile(`^ej(\d+)[a-z]`)
	ownNamespace = regexp.MustCompile(`^ej(\d+)[a-z]-\d+$`)
)

// Sweep removes the namespaces, links, processes and mounts of harnesses that do
// not run any more.
func Sweep() error {
	list, err := run("", "ip", "netns", "list")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(list, "\n") {
		name, _, _ := strings.Cut(line, " ")
		if m := ownNamespace.FindStringSubmatch(name); m != nil && dead(m[1]) {
			pids, _ := run("", "ip", "netns", "pids", name)
			for _, p := range strings.Fields(pids) {
				if pid, err := strconv.Atoi(p); err == nil && pid > 1 {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			_, _ = run("", "ip", "netns", "del", name)
		}
	}
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		return err
	}
	for _, l := range links {
		if m := ownLink.FindStringSubmatch(l.Name()); m != nil && dead(m[1]) {
			_, _ = run("", "ip", "link", "del", l.Name())
		}
	}
	return sweepMounts()
}

func sweepMounts() error {
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if pid, ok := strings.CutPrefix(f[0], FSPrefix); ok && dead(pid) {
			_ = syscall.Unmount(f[1], syscall.MNT_DETACH)
		}
	}
	return nil
}

// dead reports whether no harness with this process id runs. An id that another
// program has got since is dead too.
func dead(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return true
	}
	comm := strings.TrimSpace(string(b))
	return comm != "eggsjepsen" && !strings.HasSuffix(comm, ".test")
}
