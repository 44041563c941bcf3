package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"eggsfs/client"
	"eggsfs/eggs"
)

// copyBuffer is how much one read or write moves: few calls, little memory.
const copyBuffer = 4 << 20 // bytes

func catCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "cat PATH…", Short: "write files to standard output", Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, paths []string) error {
			c, err := o.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			for _, p := range paths {
				if err := readTo(cmd.Context(), c, p, os.Stdout, nil); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// readTo copies a file's content to w.
func readTo(ctx context.Context, c *client.Client, p string, w io.Writer, started func(size int64) io.Writer) error {
	p, err := cleanPath(p)
	if err != nil {
		return err
	}
	a, err := c.Walk(ctx, p)
	if err != nil {
		return err
	}
	switch a.ID.Kind() {
	case eggs.KindDirectory:
		return &eggs.Error{Op: "eggs", Name: p, Kind: eggs.IsDir}
	case eggs.KindSymlink:
		to := a.Symlink
		if !strings.HasPrefix(to, "/") {
			to = path.Join(path.Dir(p), to)
		}
		return readTo(ctx, c, to, w, started)
	}
	r, err := c.Open(ctx, a.ID)
	if err != nil {
		return err
	}
	defer r.Close()
	if started != nil {
		w = io.MultiWriter(w, started(r.Size()))
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, io.NewSectionReader(r, 0, r.Size()), make([]byte, copyBuffer))
	return err
}

func putCommand(o *options) *cobra.Command {
	var exclusive bool
	cmd := &cobra.Command{
		Use: "put LOCAL|- PATH", Short: "copy a local file into the file system", Args: args(cobra.ExactArgs(2)),
		Long: `put copies LOCAL (or standard input, "-") to PATH. The file appears whole when put
returns, never before; one that had the name becomes a snapshot.

` + exitCodes,
		Example: "  tar c src | eggs put - /backup/src.tar",
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx := cmd.Context()
			in, size, mode, err := openLocal(a[0])
			if err != nil {
				return err
			}
			defer in.Close()
			c, err := o.open(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			dir, name, err := target(ctx, c, a[1], filepath.Base(a[0]))
			if err != nil {
				return err
			}
			opts := client.CreateOptions{
				Mode: mode, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Exclusive: exclusive,
			}
			return o.put(ctx, c, in, size, dir, name, opts)
		},
	}
	cmd.Flags().BoolVar(&exclusive, "exclusive", false, "fail if PATH exists")
	return cmd
}

func openLocal(name string) (*os.File, int64, uint32, error) {
	if name == "-" {
		return os.Stdin, -1, 0o644, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, 0, err
	}
	return f, st.Size(), uint32(st.Mode().Perm()), nil
}

func (o *options) put(ctx context.Context, c *client.Client, in io.Reader, size int64,
	dir eggs.InodeID, name string, opts client.CreateOptions,
) error {
	w, err := c.Create(ctx, dir, name, opts)
	if err != nil {
		return err
	}
	p := o.progress(name, size)
	defer p.stop()
	src := &interruptible{ctx, in}
	if _, err := io.CopyBuffer(io.MultiWriter(struct{ io.Writer }{w}, p), src, make([]byte, copyBuffer)); err != nil {
		w.Abort()
		return err
	}
	_, err = w.Close(ctx)
	return err
}

// interruptible stops reading when its context ends.
type interruptible struct {
	ctx context.Context
	io.Reader
}

func (r *interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

func getCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "get PATH LOCAL|-", Short: "copy a file out of the file system", Args: args(cobra.ExactArgs(2)),
		Long: `get copies PATH to LOCAL, which appears whole under its name when get returns, or
to standard output ("-").

` + exitCodes,
		RunE: func(cmd *cobra.Command, a []string) error {
			c, err := o.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			if a[1] == "-" {
				return readTo(cmd.Context(), c, a[0], os.Stdout, nil)
			}
			local := a[1]
			if st, err := os.Stat(local); err == nil && st.IsDir() {
				local = filepath.Join(local, path.Base(a[0]))
			}
			return o.get(cmd.Context(), c, a[0], local)
		},
	}
}

func (o *options) get(ctx context.Context, c *client.Client, p, local string) error {
	tmp, err := os.CreateTemp(filepath.Dir(local), "."+filepath.Base(local)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	var bar *progress
	err = readTo(ctx, c, p, tmp, func(size int64) io.Writer {
		bar = o.progress(path.Base(p), size)
		return bar
	})
	if bar != nil {
		bar.stop()
	}
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if err == nil {
		err = tmp.Close()
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), local)
}

// progress shows how far a copy is: a bar on a terminal, a line every 10 s
// elsewhere, nothing with -q or -o json.
type progress struct {
	bars *mpb.Progress
	bar  *mpb.Bar
	say  func(format string, a ...any)
	name string
	done int64
	size int64
	last time.Time
}

func (o *options) progress(name string, size int64) *progress {
	p := &progress{name: name, size: size, say: o.say, last: time.Now()}
	if o.quiet || o.json() || !term.IsTerminal(int(os.Stderr.Fd())) {
		return p
	}
	p.bars = mpb.New(mpb.WithOutput(os.Stderr), mpb.WithWidth(40))
	total := max(size, 0)
	p.bar = p.bars.AddBar(total, mpb.PrependDecorators(decor.Name(name+" ")),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.Name("  "),
			decor.AverageSpeed(decor.SizeB1024(0), "% .1f")))
	return p
}

func (p *progress) Write(b []byte) (int, error) {
	p.done += int64(len(b))
	if p.bar != nil {
		p.bar.IncrBy(len(b))
	} else if now := time.Now(); now.Sub(p.last) >= 10*time.Second {
		p.last = now
		p.say("%s: %d MiB", p.name, p.done>>20)
	}
	return len(b), nil
}

func (p *progress) stop() {
	if p.bar != nil {
		p.bar.SetTotal(-1, true)
		p.bars.Wait()
	}
}

func transientCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "transient-files", Short: "list files under construction or being destroyed", Args: args(cobra.NoArgs),
		Long: `transient-files lists files that have no name yet, or no longer: each with what it
was meant to be called and its deadline. The collector destroys one after its deadline.

` + exitCodes,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			files := []transientItem{}
			for s := range eggs.Shards {
				more, err := transients(cmd.Context(), c, eggs.ShardID(s))
				if err != nil {
					return err
				}
				files = append(files, more...)
			}
			if o.json() {
				return printJSON(files)
			}
			for _, f := range files {
				fmt.Printf("%s  %12d bytes  until %s  %s/%s\n", f.ID, f.Size,
					f.Deadline.Format(time.RFC3339), f.Dir, f.Name)
			}
			o.say("%d transient files", len(files))
			return nil
		},
	}
}

type transientItem struct {
	ID       string    `json:"id"`
	Shard    int       `json:"shard"`
	Dir      string    `json:"dir"`
	Name     string    `json:"name"`
	Size     int64     `json:"size"`
	Deadline time.Time `json:"deadline"`
	Expired  bool      `json:"expired"`
}

func transients(ctx context.Context, c *client.Client, s eggs.ShardID) ([]transientItem, error) {
	var items []transientItem
	for after := eggs.InodeID(0); ; {
		files, _, end, err := c.ListTransient(ctx, s, after, 1000, false)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			after = f.ID
			items = append(items, transientItem{
				ID: f.ID.String(), Shard: int(s), Dir: f.Dir.String(), Name: f.Name, Size: f.Size,
				Deadline: f.Deadline.Std().UTC(), Expired: f.Expired,
			})
		}
		if end {
			return items, nil
		}
		if len(files) == 0 {
			return nil, errors.New("a shard answered an empty page that is not the last")
		}
	}
}
