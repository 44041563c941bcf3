package fuse

import (
	"log/slog"
	"os"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
)

// Config says what to mount where. Zero values mean the defaults.
type Config struct {
	Client     client.API
	Mountpoint string
	Root       eggs.InodeID // the directory to show; default the file system's root
	FsName     string       // the first column of df; default "eggsfs"
	Logger     *slog.Logger // default: discard

	Debug       bool // log each request to the cluster
	DebugKernel bool // log each message from and to the kernel

	// AllowOther lets other users in; the kernel checks modes and owners. Always set for root,
	// since a root's mount that nobody else can use is a surprise.
	AllowOther bool
	ReadOnly   bool
	NoExec     bool
	Suid, Dev  bool // honour set-user-id bits and device files; off as with any FUSE mount

	// How long the kernel may use what it was told, without asking again. Longer saves
	// requests and shows other mounts' changes later. Directories: 1 s by default,
	// negative for none.
	FileTimeout     time.Duration // names and attributes of files and symlinks
	NegativeTimeout time.Duration // absence of names
	DirTimeout      time.Duration // names and attributes of directories

	ReadAhead     int // bytes the kernel reads ahead of a sequential reader; as root only; default 4 MiB
	MaxBackground int // requests of the kernel's read-ahead and write-back in flight; default 128

	FileMemory  int64  // bytes of one file under construction kept in memory; default 4 MiB
	TotalMemory int64  // the same for all files; beyond, each keeps 64 KiB; default 256 MiB
	SpillDir    string // where files lie that are not written front to back; default the system's
	SpillMax    int64  // bytes of all of them together, then ENOSPC; default 64 GiB

	blind bool // recognise no descriptor, as if the callers might not be looked at: for tests
}

const (
	mib = 1 << 20

	// maxWrite is the largest read or write the kernel sends: its own bound.
	maxWrite = mib
	// smallMemory is what each draft keeps when TotalMemory is used up: most files
	// of a source tree fit.
	smallMemory = 64 << 10
)

func (c *Config) setDefaults() {
	if c.Root == 0 {
		c.Root = eggs.Root
	}
	if c.FsName == "" {
		c.FsName = "eggsfs"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.DirTimeout == 0:
		c.DirTimeout = time.Second
	case c.DirTimeout < 0:
		c.DirTimeout = 0
	}
	if c.ReadAhead == 0 {
		c.ReadAhead = 4 * mib
	}
	if c.MaxBackground == 0 {
		c.MaxBackground = 128
	}
	if c.FileMemory == 0 {
		c.FileMemory = 4 * mib
	}
	if c.TotalMemory == 0 {
		c.TotalMemory = 256 * mib
	}
	if c.SpillDir == "" {
		c.SpillDir = os.TempDir()
	}
	if c.SpillMax == 0 {
		c.SpillMax = 64 << 30
	}
	if os.Geteuid() == 0 {
		c.AllowOther = true
	}
}

// validate refuses what cannot work, in words.
func (c *Config) validate() error {
	bad := func(text string) error { return eggs.E("fuse.Mount", eggs.Invalid, text) }
	switch {
	case c.Client == nil:
		return bad("no client")
	case c.Mountpoint == "":
		return bad("no mount point")
	case !c.Root.IsDir():
		return bad("the root is not a directory")
	case c.FileTimeout < 0 || c.NegativeTimeout < 0:
		return bad("a time-out is negative")
	case c.MaxBackground < 1 || c.MaxBackground > 65535:
		return bad("MaxBackground is not within 1 to 65535")
	case c.FileMemory < smallMemory || c.FileMemory > 64*mib:
		return bad("FileMemory is not within 64 KiB to 64 MiB")
	case c.TotalMemory < c.FileMemory:
		return bad("TotalMemory is less than FileMemory")
	case c.ReadAhead < 0 || c.SpillMax < 0:
		return bad("a size is negative")
	}
	return nil
}
