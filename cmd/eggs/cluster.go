package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

func clusterCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "cluster", Short: "what is wanted of the cluster as a whole", Args: args(cobra.NoArgs), Long: exitCodes,
	}
	get := &cobra.Command{
		Use: "get", Short: "show what is wanted", Args: args(cobra.NoArgs), Long: exitCodes,
		RunE: withMembers(o, func(_ context.Context, _ *client.Client, m *members, _ []string) error {
			return printCluster(o, m.facts)
		}),
	}
	set := &cobra.Command{
		Use: "set KEY=VALUE…", Short: "change what is wanted", Args: args(cobra.MinimumNArgs(1)),
		Long: `set changes what is wanted of the cluster; the nodes carry it out.

  replicas=N         voters of each group, 1, 3, 5 or 7, once there are nodes enough
  retire-after=TIME  how long a disk may be silent before its blocks are made anew, as 1h; or never

` + exitCodes,
		Example: "  eggs cluster set replicas=5 retire-after=2h",
		RunE: withMembers(o, func(ctx context.Context, c *client.Client, _ *members, a []string) error {
			put, err := parseCluster(a)
			if err != nil {
				return err
			}
			_, err = c.CDC(ctx, &wire.CdcRequest{Op: &wire.CdcRequest_PutCluster{PutCluster: put}})
			return err
		}),
	}
	cmd.AddCommand(get, set)
	return cmd
}

func printCluster(o *options, f *wire.Facts) error {
	after := "1h"
	switch {
	case f.RetireAfterNs < 0:
		after = "never"
	case f.RetireAfterNs > 0:
		after = time.Duration(f.RetireAfterNs).String()
	}
	if o.json() {
		return printJSON(map[string]any{
			"cluster": eggs.ClusterID(f.Cluster).String(), "replicas": f.Replicas, "retire_after": after,
		})
	}
	fmt.Printf("cluster=%s\nreplicas=%d\nretire-after=%s\n", eggs.ClusterID(f.Cluster), f.Replicas, after)
	return nil
}

func parseCluster(list []string) (*wire.PutCluster, error) {
	put := &wire.PutCluster{}
	for _, s := range list {
		key, value, _ := strings.Cut(s, "=")
		switch key {
		case "replicas":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > 7 || n%2 == 0 {
				return nil, usageError{fmt.Errorf("%s: must be 1, 3, 5 or 7, since an even number survives no more", s)}
			}
			put.Replicas = uint32(n)
		case "retire-after":
			if value == "never" {
				put.RetireAfterNs = -1
				continue
			}
			d, err := time.ParseDuration(value)
			if err != nil || d < time.Second {
				return nil, usageError{fmt.Errorf("%s: must be a time of a second or more, as 1h, or never", s)}
			}
			put.RetireAfterNs = int64(d)
		default:
			return nil, usageError{fmt.Errorf("%s: the keys are replicas and retire-after", s)}
		}
	}
	return put, nil
}
