package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"eggsfs/client"
	"eggsfs/eggs"
)

// options are the flags that every verb has.
type options struct {
	cluster string
	keyFile string
	output  string
	quiet   bool
	timeout time.Duration
}

func (o *options) addFlags(f *pflag.FlagSet) {
	cluster := os.Getenv("EGGS_CLUSTER")
	if cluster == "" {
		cluster = "127.0.0.1:3447"
	}
	f.StringVar(&o.cluster, "cluster", cluster, "addresses of any nodes, ADDR[,ADDR…] (EGGS_CLUSTER)")
	f.StringVar(&o.keyFile, "key-file", "", "the cluster's key (EGGS_KEY_FILE, then "+
		"$XDG_CONFIG_HOME/eggsfs/cluster.key, then /etc/eggsfs/cluster.key)")
	f.StringVarP(&o.output, "output", "o", "table", "table or json")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no talk, no progress")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "how long one request waits through a failover")
}

func (o *options) json() bool { return o.output == "json" }

// open connects to the cluster.
func (o *options) open(ctx context.Context) (*client.Client, error) {
	if o.output != "table" && o.output != "json" {
		return nil, usageError{fmt.Errorf("-o %s: must be table or json", o.output)}
	}
	return client.Open(ctx, client.Config{
		Addrs: strings.Split(o.cluster, ","), KeyFile: o.keyFile, Timeout: o.timeout,
	})
}

// say prints talk on stderr.
func (o *options) say(format string, a ...any) {
	if !o.quiet && !o.json() {
		fmt.Fprintf(os.Stderr, format+"\n", a...)
	}
}

// printJSON prints one value on stdout.
func printJSON(v any) error {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// cleanPath fails unless p is absolute, and returns it without "." and "..".
func cleanPath(p string) (string, error) {
	if !strings.HasPrefix(p, "/") {
		return "", usageError{fmt.Errorf("%s: paths are absolute in the file system, as /data/x", p)}
	}
	return path.Clean(p), nil
}

// parentOf finds the directory that holds, or will hold, the last name of p.
func parentOf(ctx context.Context, c *client.Client, p string) (eggs.InodeID, string, error) {
	p, err := cleanPath(p)
	if err != nil {
		return 0, "", err
	}
	if p == "/" {
		return 0, "", usageError{fmt.Errorf("/: this verb needs a name below the root")}
	}
	dir, err := c.Walk(ctx, path.Dir(p))
	if err != nil {
		return 0, "", err
	}
	if !dir.ID.IsDir() {
		return 0, "", &eggs.Error{Op: "eggs", Name: path.Dir(p), Kind: eggs.NotDir}
	}
	return dir.ID, path.Base(p), nil
}
