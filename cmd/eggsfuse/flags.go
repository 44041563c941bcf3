package main

import (
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"

	"eggsfs/client"
	"eggsfs/fuse"
)

const long = `eggsfuse mounts EggsFS, or its directory SUBDIR, at MOUNTPOINT, and returns when
the mount answers; a daemon goes on in the background. ADDR is HOST[:PORT] of any
nodes of the cluster, $EGGS_CLUSTER or 127.0.0.1:3447 when there is none.

Files are written once. While a file is being made, by the handle that creates it,
a program may do what it likes; close(2) returns when the file is durable and every
mount finds it. From then on it does not change: to open it for writing without
truncating it fails with EROFS. Opening with O_TRUNC, as "cp" and ">" do, makes a new
version that replaces the old one at close.

The key is looked for at --key-file, $EGGS_KEY_FILE,
$XDG_CONFIG_HOME/eggsfs/cluster.key and /etc/eggsfs/cluster.key.

umount(8), "fusermount3 -u" and SIGTERM unmount; files that are open for writing
then are not published. The mount point of a daemon that died is replaced.

As mount.eggs, and by "mount -t fuse.eggsfuse", it takes the options of mount(8);
each of the flags below may be given to -o too, such as -o key-file=PATH,dir-timeout=5s.

Exit codes: 0 mounted, or unmounted with --foreground; 1 failure; 2 usage.`

const example = `  eggsfuse 10.0.0.1:3447,10.0.0.2:3447 /mnt/eggs
  eggsfuse --key-file cluster.key 10.0.0.1/home/me ~/eggs
  eggsfuse --foreground --debug /mnt/eggs
  10.0.0.1:3447  /mnt/eggs  fuse.eggsfuse  _netdev,allow_other  0 0      in /etc/fstab`

// defaultPort is where nodes listen unless told otherwise.
const defaultPort = "3447"

// settings are what flags and options say.
type settings struct {
	keyFile, blockTLS, logFile, pprof string
	options                           []string
	foreground, debug, debugFuse      bool
	timeout                           time.Duration

	addrs  []string
	subdir string
	mount  fuse.Config
	log    *slog.Logger
}

func (s *settings) addFlags(f *pflag.FlagSet) {
	m := &s.mount
	f.SortFlags = false
	f.StringVar(&s.keyFile, "key-file", "", "the cluster's key")
	f.BoolVarP(&s.foreground, "foreground", "f", false, "stay in the foreground, log to stderr")
	f.BoolVarP(&s.debug, "debug", "d", false, "log what is done to files")
	f.BoolVar(&s.debugFuse, "debug-fuse", false, "log each message from and to the kernel")
	f.StringArrayVarP(&s.options, "options", "o", nil, "options of mount(8), separated by commas")
	f.BoolVar(&m.AllowOther, "allow-other", false, "let other users in (always for root)")
	f.BoolVar(&m.ReadOnly, "read-only", false, "change nothing")
	f.DurationVar(&m.FileTimeout, "file-timeout", 0,
		"how long the kernel may use names and attributes of files without asking")
	f.DurationVar(&m.NegativeTimeout, "negative-timeout", 0, "the same for the absence of a name")
	f.DurationVar(&m.DirTimeout, "dir-timeout", time.Second, "the same for directories")
	f.Var(size(&m.ReadAhead, 4<<20), "read-ahead", "bytes the kernel reads ahead (root only)")
	f.IntVar(&m.MaxBackground, "max-background", 128, "requests of the kernel's read-ahead in flight")
	f.Var(size(&m.FileMemory, 4<<20), "file-memory", "bytes of one file being made kept in memory")
	f.Var(size(&m.TotalMemory, 256<<20), "memory", "the same for all of them")
	f.StringVar(&m.SpillDir, "spill-dir", os.TempDir(), "where large files lie that are not written front to back")
	f.Var(size(&m.SpillMax, 64<<30), "spill-max", "bytes of all of those")
	f.DurationVar(&s.timeout, "timeout", connectTime, "how long a request waits through a failover")
	f.StringVar(&s.blockTLS, "block-tls", "auto", "TLS for blocks: auto (all but loopback), on, off")
	f.StringVar(&s.logFile, "log-file", "", "where the daemon logs to (default: syslog)")
	f.StringVar(&s.pprof, "pprof", "", "HOST:PORT for Go's profiler (default: none)")
}

// read puts flags, options and words together.
func (s *settings) read(f *pflag.FlagSet, words []string) error {
	for _, list := range s.options {
		for _, o := range strings.Split(list, ",") {
			if err := s.option(f, strings.TrimSpace(o)); err != nil {
				return err
			}
		}
	}
	source := os.Getenv("EGGS_CLUSTER")
	switch len(words) {
	case 1:
		s.mount.Mountpoint = words[0]
	case 2:
		source, s.mount.Mountpoint = words[0], words[1]
	default:
		return fmt.Errorf("got %d words, want [ADDR[,ADDR…][/SUBDIR]] MOUNTPOINT", len(words))
	}
	if err := s.parseSource(source); err != nil {
		return err
	}
	if s.mount.DirTimeout == 0 {
		s.mount.DirTimeout = -1 // for Config, 0 is the default and this none
	}
	if s.timeout <= 0 {
		return fmt.Errorf("--timeout %v: must be more than 0", s.timeout)
	}
	if s.keyFile == "" {
		s.keyFile = client.FindKeyFile()
	}
	var err error
	if s.mount.SpillDir, err = filepath.Abs(s.mount.SpillDir); err != nil {
		return err
	}
	if s.log, err = s.logger(); err != nil {
		return err
	}
	s.mount.Logger, s.mount.Debug, s.mount.DebugKernel = s.log, s.debug, s.debugFuse
	return nil
}

// parseSource reads ADDR[,ADDR…][/SUBDIR].
func (s *settings) parseSource(source string) error {
	if source == "" {
		source = "127.0.0.1"
	}
	list, subdir, _ := strings.Cut(source, "/")
	s.subdir = strings.Trim(subdir, "/")
	for _, a := range strings.Split(list, ",") {
		if a == "" {
			return fmt.Errorf("%q: an address is empty", source)
		}
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			host, port = strings.Trim(a, "[]"), defaultPort
			if strings.Contains(host, ":") && net.ParseIP(host) == nil {
				return fmt.Errorf("%q: an address is HOST[:PORT]", a)
			}
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil || host == "" {
			return fmt.Errorf("%q: an address is HOST[:PORT]", a)
		}
		s.addrs = append(s.addrs, net.JoinHostPort(host, port))
	}
	s.mount.FsName = source
	return nil
}

// logger logs to a file, to stderr in the foreground, else to syslog.
func (s *settings) logger() (*slog.Logger, error) {
	level := slog.LevelInfo
	if s.debug {
		level = slog.LevelDebug
	}
	var w io.Writer = os.Stderr
	switch {
	case s.logFile != "":
		f, err := os.OpenFile(s.logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, fmt.Errorf("--log-file: %w", err)
		}
		w = f
	case !s.foreground:
		sys, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_NOTICE, "eggsfuse")
		if err != nil {
			return slog.New(slog.DiscardHandler), nil //nolint:nilerr // no syslog here: then no log
		}
		w = sys
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), nil
}

// sizeValue is a flag in bytes, such as 4MiB.
type sizeValue[T int | int64] struct{ to *T }

func (v sizeValue[T]) Type() string { return "size" }

func (v sizeValue[T]) String() string {
	if v.to == nil {
		return ""
	}
	return humanize.IBytes(uint64(*v.to))
}

func (v sizeValue[T]) Set(text string) error {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > 1<<62 {
		return fmt.Errorf("%q is not a size such as 4MiB", text)
	}
	*v.to = T(n)
	return nil
}

func size[T int | int64](to *T, def T) sizeValue[T] {
	*to = def
	return sizeValue[T]{to}
}
