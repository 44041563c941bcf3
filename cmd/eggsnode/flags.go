package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/lmittmann/tint"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"eggsfs/eggs"
	"eggsfs/node"
)

const long = `eggsnode is a server of EggsFS. The first one makes a cluster; every other
one joins it, with the same key. After that the data folder knows who it is,
where it listens and whom it knew, so that --data is all it needs.

It prints one line that begins with "ready" when every replica assigned to it
is a caught-up voter and its disks serve. SIGTERM hands leadership over and
stops; SIGKILL at any instant loses nothing that was acknowledged.

Every flag can be set in the environment (EGGS_LISTEN for --listen) and in the
file that --config names (listen: …). A flag wins over the environment, that
over the file, that over what the data folder remembers.

Exit codes: 0 stopped, 1 failure, 2 usage.`

const example = `  eggsnode --data /srv/eggs                                    the first node
  eggsnode --data /srv/eggs --listen 10.0.0.2:3447 --join 10.0.0.1:3447 --key-file cluster.key
  eggsnode --data /srv/eggs                                    any later start`

func addFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.String("data", "", "folder that keeps everything of this node (required)")
	f.String("listen", "", "the node's one address, HOST:PORT, TCP and UDP (default "+node.DefaultListen+")")
	f.String("advertise", "", "what others dial (default: the listen address)")
	f.String("http", "", `status page, /metrics, /healthz, /readyz, /api/; "off" for none (default `+
		node.DefaultHTTP+")")
	f.StringSlice("join", nil, "addresses of any nodes of the cluster; only a hint after the first start")
	f.String("key-file", "", "the cluster's key (default DATA/cluster.key)")
	f.Int("block-services", node.DefaultBlockServices, "disks simulated as folders DATA/blocks/00 …")
	f.StringArray("disk", nil, "a real disk, PATH[,class=hdd|flash]; once for each, instead of --block-services")
	f.String("failure-domain", "", "nodes that can fail together carry one name (default: the node)")
	f.String("roles", "", "what this node does (default meta,block,upkeep)")
	f.Int("replicas", 0, fmt.Sprintf("first node only: voters of each group once there are nodes enough "+
		"(default %d)", node.DefaultReplicas))
	f.String("block-tls", "", "TLS for blocks: auto (all but loopback), on, off (default auto)")
	f.String("reserve", "1 GiB", "room kept free on each disk, for log and state")
	f.Duration("gc-interval", time.Minute, "how often the collector looks for garbage")
	f.String("repair-rate", "64 MiB", "bytes a second that this node makes anew of blocks lost or leaving; 0: no limit")
	f.String("scrub-rate", "8 MiB", "bytes a second that disks read to find rot; 0: no limit")
	f.String("pprof", "", "HOST:PORT for Go's profiler, for whoever looks into speed (default: none)")
	f.String("test-clock-file", "", "for tests: a file that holds how far the clock is off, in ns")
	f.Bool("unsafe-test-knobs", false, "for tests: allow what can lose data")
	for _, name := range []string{"test-clock-file", "unsafe-test-knobs"} {
		if err := f.MarkHidden(name); err != nil {
			panic(err) // the name is not one of those above
		}
	}
	f.String("config", "", "a YAML file of these settings")
	f.String("log-format", "text", "text or json")
	f.String("log-level", "info", "debug, info, warn or error")
}

// readConfig puts flags, environment and file together. It fails with words on
// anything unknown.
func readConfig(f *pflag.FlagSet) (node.Config, error) {
	var cfg node.Config
	k := koanf.New(".")
	path, _ := f.GetString("config")
	if path == "" {
		path = os.Getenv("EGGS_CONFIG")
	}
	if path != "" {
		if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
			return cfg, fmt.Errorf("--config %s: %w", path, err)
		}
		for _, key := range k.Keys() {
			if f.Lookup(key) == nil || key == "config" {
				return cfg, fmt.Errorf("--config %s: unknown key %q", path, key)
			}
		}
	}
	if err := k.Load(env.Provider(".", env.Opt{Prefix: "EGGS_", TransformFunc: func(key, v string) (string, any) {
		name := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(key, "EGGS_")), "_", "-")
		if f.Lookup(name) == nil {
			return "", nil // another program's: EGGS_CLUSTER and the like
		}
		if name == "join" {
			return name, strings.Split(v, ",")
		}
		return name, v
	}}), nil); err != nil {
		return cfg, fmt.Errorf("environment: %w", err)
	}
	if err := k.Load(posflag.Provider(f, ".", k), nil); err != nil {
		return cfg, fmt.Errorf("flags: %w", err)
	}
	return fromSettings(k, f)
}

func fromSettings(k *koanf.Koanf, f *pflag.FlagSet) (node.Config, error) {
	cfg := node.Config{
		Data: k.String("data"), Listen: k.String("listen"), Advertise: k.String("advertise"),
		HTTP: k.String("http"), Join: k.Strings("join"), KeyFile: k.String("key-file"),
		FailureDomain: k.String("failure-domain"), Replicas: k.Int("replicas"),
		BlockTLS: k.String("block-tls"), GCInterval: k.Duration("gc-interval"), Pprof: k.String("pprof"),
		TestClockFile: k.String("test-clock-file"), UnsafeTestKnobs: k.Bool("unsafe-test-knobs"),
	}
	if k.Exists("block-services") && (f.Changed("block-services") ||
		k.Int("block-services") != node.DefaultBlockServices) {
		cfg.BlockServices = k.Int("block-services")
		if cfg.BlockServices == 0 {
			cfg.BlockServices = -1
		}
	}
	for _, s := range k.Strings("disk") {
		d, err := node.ParseDisk(s)
		if err != nil {
			return cfg, err
		}
		cfg.Disks = append(cfg.Disks, d)
	}
	if s := k.String("roles"); s != "" {
		roles, err := node.ParseRoles(s)
		if err != nil {
			return cfg, err
		}
		cfg.Roles = roles
	}
	reserve, err := humanize.ParseBytes(k.String("reserve"))
	if err != nil {
		return cfg, fmt.Errorf("--reserve %s: not a size", k.String("reserve"))
	}
	cfg.Reserve = reserve
	for name, to := range map[string]*int64{"repair-rate": &cfg.RepairRate, "scrub-rate": &cfg.ScrubRate} {
		n, err := humanize.ParseBytes(k.String(name))
		if err != nil || n > 1<<50 {
			return cfg, fmt.Errorf("--%s %s: not a size", name, k.String(name))
		}
		if *to = int64(n); n == 0 {
			*to = -1
		}
	}
	cfg.Logger, err = newLogger(os.Stderr, k.String("log-format"), k.String("log-level"))
	if err != nil {
		return cfg, err
	}
	return cfg, cfg.Validate()
}

func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %s: must be debug, info, warn or error", level)
	}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})), nil
	case "text":
		return slog.New(tint.NewTextHandler(w, &tint.Options{
			Level: l, TimeFormat: time.RFC3339, NoColor: !isTerminal(w) || os.Getenv("NO_COLOR") != "",
		})), nil
	}
	return nil, eggs.E("eggsnode", eggs.Invalid, "--log-format "+format+": must be text or json")
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
