package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"eggsfs/client"
	"eggsfs/eggs"
)

func mkdirCommand(o *options) *cobra.Command {
	var parents bool
	cmd := &cobra.Command{
		Use: "mkdir PATH…", Short: "make directories", Args: args(cobra.MinimumNArgs(1)),
		Example: "  eggs mkdir -p /data/2026/run1",
		RunE: func(cmd *cobra.Command, paths []string) error {
			ctx := cmd.Context()
			c, err := o.open(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			for _, p := range paths {
				if err := makeDir(ctx, c, p, parents); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&parents, "parents", "p", false, "make what is missing above; no error if it is there")
	return cmd
}

func makeDir(ctx context.Context, c *client.Client, p string, parents bool) error {
	p, err := cleanPath(p)
	if err != nil {
		return err
	}
	opts := client.CreateOptions{Mode: 0o755}
	if !parents {
		dir, name, err := parentOf(ctx, c, p)
		if err != nil {
			return err
		}
		_, err = c.Mkdir(ctx, dir, name, opts)
		return err
	}
	dir := eggs.Root
	for _, name := range strings.Split(strings.Trim(p, "/"), "/") {
		if name == "" {
			continue
		}
		a, err := c.Mkdir(ctx, dir, name, opts)
		if errors.Is(err, eggs.Exist) {
			var e client.Entry
			if e, err = c.Lookup(ctx, dir, name); err == nil && !e.Target.IsDir() {
				err = &eggs.Error{Op: "eggs.mkdir", Name: p, Kind: eggs.NotDir}
			}
			a.ID = e.Target
		}
		if err != nil {
			return err
		}
		dir = a.ID
	}
	return nil
}

func mvCommand(o *options) *cobra.Command {
	var noReplace bool
	cmd := &cobra.Command{
		Use: "mv FROM TO", Short: "rename a file, symlink or directory", Args: args(cobra.ExactArgs(2)),
		Long: `mv renames FROM to TO; when TO is a directory, FROM keeps its name in it.
A file that had the name becomes a snapshot. The change is atomic: at no
instant is there no name, and a reader sees the old content or the new.

` + exitCodes,
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx := cmd.Context()
			c, err := o.open(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			fromDir, from, err := parentOf(ctx, c, a[0])
			if err != nil {
				return err
			}
			toDir, to, err := target(ctx, c, a[1], from)
			if err != nil {
				return err
			}
			return c.Rename(ctx, fromDir, from, toDir, to, noReplace)
		},
	}
	cmd.Flags().BoolVarP(&noReplace, "no-replace", "n", false, "fail if TO exists")
	return cmd
}

// target is where something called name goes when it is sent to p: into p when
// that is a directory, else to p itself.
func target(ctx context.Context, c *client.Client, p, name string) (eggs.InodeID, string, error) {
	clean, err := cleanPath(p)
	if err != nil {
		return 0, "", err
	}
	a, err := c.Walk(ctx, clean)
	switch {
	case err == nil && a.ID.IsDir():
		return a.ID, name, nil
	case err != nil && !errors.Is(err, eggs.NotExist):
		return 0, "", err
	case strings.HasSuffix(p, "/"):
		return 0, "", &eggs.Error{Op: "eggs", Name: p, Kind: eggs.NotDir}
	}
	return parentOf(ctx, c, clean)
}

func lnCommand(o *options) *cobra.Command {
	var symbolic bool
	cmd := &cobra.Command{
		Use: "ln -s TARGET PATH", Short: "make a symlink", Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if !symbolic {
				return usageError{errors.New("ln: there are no hard links, give -s")}
			}
			ctx := cmd.Context()
			c, err := o.open(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			dir, name, err := target(ctx, c, a[1], path.Base(a[0]))
			if err != nil {
				return err
			}
			_, err = c.Symlink(ctx, dir, name, a[0], client.CreateOptions{})
			return err
		},
	}
	cmd.Flags().BoolVarP(&symbolic, "symbolic", "s", false, "make a symlink (required)")
	return cmd
}

func rmCommand(o *options) *cobra.Command {
	var recursive, force bool
	cmd := &cobra.Command{
		Use: "rm PATH…", Short: "remove files, and directories with -r", Args: args(cobra.MinimumNArgs(1)),
		Long: `rm removes names. The content stays as a snapshot until the directory's snapshot
policy lets it go; 'eggs gc' then frees the blocks.

` + exitCodes,
		RunE: func(cmd *cobra.Command, paths []string) error {
			ctx := cmd.Context()
			c, err := o.open(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			var failed []error
			for _, p := range paths {
				err := remove(ctx, c, p, recursive)
				if force && errors.Is(err, eggs.NotExist) {
					err = nil
				}
				if err != nil {
					failed = append(failed, fmt.Errorf("%s: %w", p, err))
				}
			}
			if len(failed) > 0 && len(failed) < len(paths) {
				return partlyError{errors.Join(failed...)}
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "directories with all that is in them")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "no error for what does not exist")
	return cmd
}

func remove(ctx context.Context, c *client.Client, p string, recursive bool) error {
	dir, name, err := parentOf(ctx, c, p)
	if err != nil {
		return err
	}
	e, err := c.Lookup(ctx, dir, name)
	if err != nil {
		return err
	}
	if !e.Target.IsDir() {
		return c.Unlink(ctx, dir, name, e.Target)
	}
	if !recursive {
		return &eggs.Error{Op: "eggs.rm", Name: p, Kind: eggs.IsDir, Err: errors.New("give -r to remove it")}
	}
	return removeTree(ctx, c, dir, e)
}

// removeTree empties a directory, then removes it.
func removeTree(ctx context.Context, c *client.Client, parent eggs.InodeID, e client.Entry) error {
	for after := uint64(0); ; {
		entries, _, end, err := c.ReadDir(ctx, e.Target, after, 1000, false)
		if err != nil {
			return err
		}
		for _, x := range entries {
			after = x.Cursor
			if x.Target.IsDir() {
				err = removeTree(ctx, c, e.Target, x)
			} else {
				err = c.Unlink(ctx, e.Target, x.Name, x.Target)
			}
			if err != nil && !errors.Is(err, eggs.NotExist) {
				return err
			}
		}
		if end {
			return c.Rmdir(ctx, parent, e.Name)
		}
	}
}
