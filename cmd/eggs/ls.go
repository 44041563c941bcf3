package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"eggsfs/client"
	"eggsfs/eggs"
)

// item is one line of ls and stat, as JSON has it.
type item struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind"`
	ID      string    `json:"id"`
	Mode    string    `json:"mode,omitempty"`
	UID     uint32    `json:"uid"`
	GID     uint32    `json:"gid"`
	Size    int64     `json:"size"`
	Mtime   time.Time `json:"mtime"`
	Symlink string    `json:"symlink,omitempty"`
	Shard   int       `json:"shard"`
	Owner   string    `json:"owner,omitempty"`
}

func itemOf(name string, a client.Attr) item {
	i := item{
		Name: name, Kind: a.ID.Kind().String(), ID: a.ID.String(), Mode: fmt.Sprintf("%04o", a.Mode),
		UID: a.UID, GID: a.GID, Size: a.Size, Mtime: a.Mtime.Std().UTC(), Symlink: a.Symlink,
		Shard: int(a.ID.Shard()),
	}
	if a.ID.IsDir() && a.Owner != 0 {
		i.Owner = a.Owner.String()
	}
	return i
}

func lsCommand(o *options) *cobra.Command {
	var long bool
	cmd := &cobra.Command{
		Use: "ls [PATH…]", Short: "list directories", Args: args(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, paths []string) error {
			if len(paths) == 0 {
				paths = []string{"/"}
			}
			c, err := o.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			for n, p := range paths {
				items, err := list(cmd.Context(), c, p, long || o.json())
				if err != nil {
					return err
				}
				if len(paths) > 1 && !o.json() {
					if n > 0 {
						fmt.Println()
					}
					fmt.Printf("%s:\n", p)
				}
				if err := printItems(o, items, long); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "with kind, mode, owner, size and time")
	return cmd
}

func list(ctx context.Context, c *client.Client, p string, attrs bool) ([]item, error) {
	p, err := cleanPath(p)
	if err != nil {
		return nil, err
	}
	a, err := c.Walk(ctx, p)
	if err != nil {
		return nil, err
	}
	if !a.ID.IsDir() {
		return []item{itemOf(p, a)}, nil
	}
	items := []item{}
	for after := uint64(0); ; {
		entries, _, end, err := c.ReadDir(ctx, a.ID, after, 5000, attrs)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			after = e.Cursor
			x := client.Attr{ID: e.Target}
			if e.Attr != nil {
				x = *e.Attr
			}
			items = append(items, itemOf(e.Name, x))
		}
		if end {
			break
		}
	}
	sort.Slice(items, func(i, j int) bool { return items[i].Name < items[j].Name })
	return items, nil
}

func printItems(o *options, items []item, long bool) error {
	if o.json() {
		return printJSON(items)
	}
	if !long {
		for _, i := range items {
			fmt.Println(i.Name)
		}
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 1, 2, ' ', 0)
	for _, i := range items {
		name := i.Name
		if i.Symlink != "" {
			name += " -> " + i.Symlink
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\n", modeString(i), i.UID, i.GID, i.Size,
			i.Mtime.Format("2006-01-02 15:04:05"), name)
	}
	return w.Flush()
}

func modeString(i item) string {
	var m uint32
	_, _ = fmt.Sscanf(i.Mode, "%o", &m)
	mode := fs.FileMode(m & 0o777)
	switch i.Kind {
	case eggs.KindDirectory.String():
		mode |= fs.ModeDir
	case eggs.KindSymlink.String():
		mode |= fs.ModeSymlink
	}
	return mode.String()
}

func statCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "stat PATH…", Short: "show what is known of a file or directory", Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, paths []string) error {
			c, err := o.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			for _, p := range paths {
				p, err := cleanPath(p)
				if err != nil {
					return err
				}
				a, err := c.Walk(cmd.Context(), p)
				if err != nil {
					return err
				}
				if err := printStat(o, itemOf(p, a), a); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func printStat(o *options, i item, a client.Attr) error {
	if o.json() {
		return printJSON(i)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 1, 2, ' ', 0)
	fmt.Fprintf(w, "path\t%s\nkind\t%s\nid\t%s\nshard\t%d\n", i.Name, i.Kind, i.ID, i.Shard)
	if i.Owner != "" {
		fmt.Fprintf(w, "parent\t%s\n", i.Owner)
	}
	if i.Symlink != "" {
		fmt.Fprintf(w, "target\t%s\n", i.Symlink)
	}
	fmt.Fprintf(w, "mode\t%s (%s)\nuid, gid\t%d, %d\nsize\t%d\n", i.Mode, modeString(i), i.UID, i.GID, i.Size)
	fmt.Fprintf(w, "modified\t%s\naccessed\t%s\nchanged\t%s\n", a.Mtime, a.Atime, a.Ctime)
	return w.Flush()
}
