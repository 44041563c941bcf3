package node

import (
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"eggsfs/eggs"
)

// Roles of a node, as bits.
const (
	RoleMeta   uint32 = 1 // holds replicas of groups
	RoleBlock  uint32 = 2 // serves blocks
	RoleUpkeep uint32 = 4 // collects garbage
)

// Limits and defaults of the configuration.
const (
	MaxBlockServices = 100     // simulated disks a node; gossip carries as many
	MaxReplicas      = 7       // voters of a group: more only slow a commit down
	DefaultReserve   = 1 << 30 // bytes kept free on each disk's file system for log and state

	DefaultListen        = "127.0.0.1:3447"
	DefaultHTTP          = "127.0.0.1:5000"
	DefaultBlockServices = 10
	DefaultReplicas      = 3
)

// Disk is one block service of this node.
type Disk struct {
	Path  string
	Class uint8
}

// Config is everything a node can be told. The zero value of a field means what
// the data folder remembers or, on its first start, the default.
type Config struct {
	Data          string
	Listen        string
	Advertise     string
	HTTP          string
	Join          []string
	KeyFile       string
	BlockServices int // -1: none
	Disks         []Disk
	FailureDomain string
	Roles         uint32
	Replicas      int
	BlockTLS      string
	Reserve       uint64 // bytes
	Logger        *slog.Logger
	Pprof         string // HOST:PORT of Go's profiler; "" for none

	// GCInterval is how often the collector looks; more often costs reads, less
	// often keeps garbage longer.
	GCInterval time.Duration
	// RepairRate is how many bytes/s this node makes anew of blocks that were lost or
	// must leave their disk; default 64 MiB/s; negative: no limit. More is safer and costs clients.
	RepairRate int64
	// TestClockFile names a file that holds how far this node's clock is off, in ns; it is read each
	// second. For tests only: it needs UnsafeTestKnobs.
	TestClockFile   string
	UnsafeTestKnobs bool

	// ScrubRate is how many bytes/s disks read to find rot; default 8 MiB/s; negative: no limit.
	ScrubRate int64
	// Fatal ends the process when going on would not be safe. Default: panic.
	Fatal func(error)
}

// Validate fills in defaults and fails with Kind Invalid, in words, on what
// cannot work.
func (c *Config) Validate() error {
	if c.Data == "" {
		return invalid("--data is required: the folder that keeps everything of this node")
	}
	abs, err := filepath.Abs(c.Data)
	if err != nil {
		return invalid("--data %s: %v", c.Data, err)
	}
	c.Data = abs
	if err := c.checkAddresses(); err != nil {
		return err
	}
	if c.TestClockFile != "" && !c.UnsafeTestKnobs {
		return invalid("--test-clock-file is for tests, and can lose data: it needs --unsafe-test-knobs")
	}
	if c.BlockServices < -1 || c.BlockServices > MaxBlockServices {
		return invalid("--block-services %d: must be 0 to %d", c.BlockServices, MaxBlockServices)
	}
	if len(c.Disks) > MaxBlockServices {
		return invalid("--disk given %d times: at most %d", len(c.Disks), MaxBlockServices)
	}
	if c.Replicas != 0 && (c.Replicas < 1 || c.Replicas > MaxReplicas || c.Replicas%2 == 0) {
		return invalid("--replicas %d: must be 1, 3, 5 or 7, since an even number survives no more",
			c.Replicas)
	}
	switch c.BlockTLS {
	case "", "auto", "on", "off":
	default:
		return invalid("--block-tls %s: must be auto, on or off", c.BlockTLS)
	}
	c.defaults()
	return nil
}

func (c *Config) checkAddresses() error {
	for _, a := range []struct {
		flag, addr string
		listens    bool
	}{
		{"--listen", c.Listen, true},
		{"--advertise", c.Advertise, false},
		{"--http", c.HTTP, true},
		{"--pprof", c.Pprof, true},
	} {
		if a.addr == "" || a.flag == "--http" && a.addr == "off" {
			continue
		}
		if err := checkHostPort(a.flag, a.addr, a.listens); err != nil {
			return err
		}
	}
	for _, j := range c.Join {
		if err := checkHostPort("--join", j, false); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) defaults() {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Reserve == 0 {
		c.Reserve = DefaultReserve
	}
	if c.GCInterval == 0 {
		c.GCInterval = time.Minute
	}
	if c.Fatal == nil {
		c.Fatal = func(err error) { panic(err) }
	}
}

func invalid(format string, a ...any) error {
	return eggs.E("node.Validate", eggs.Invalid, fmt.Sprintf(format, a...))
}

func checkHostPort(flag, addr string, listens bool) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return invalid("%s %s: must be HOST:PORT", flag, addr)
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 0 || n > 65535 || n == 0 && !listens {
		return invalid("%s %s: the port must be 1 to 65535", flag, addr)
	}
	if host == "" && !listens {
		return invalid("%s %s: no host", flag, addr)
	}
	return nil
}

// ParseRoles reads "meta,block,upkeep".
func ParseRoles(s string) (uint32, error) {
	var roles uint32
	for _, r := range strings.Split(s, ",") {
		switch strings.TrimSpace(r) {
		case "meta":
			roles |= RoleMeta
		case "block":
			roles |= RoleBlock
		case "upkeep":
			roles |= RoleUpkeep
		default:
			return 0, invalid("--roles %s: %q is none of meta, block, upkeep", s, r)
		}
	}
	return roles, nil
}

// ParseDisk reads "PATH[,class=hdd|flash]".
func ParseDisk(s string) (Disk, error) {
	path, rest, _ := strings.Cut(s, ",")
	d := Disk{Path: path}
	if path == "" {
		return d, invalid("--disk %q: no path", s)
	}
	switch rest {
	case "":
	case "class=hdd":
		d.Class = eggs.ClassHDD
	case "class=flash", "class=ssd", "class=nvme":
		d.Class = eggs.ClassFlash
	default:
		return d, invalid("--disk %s: %q is not class=hdd or class=flash", s, rest)
	}
	return d, nil
}
