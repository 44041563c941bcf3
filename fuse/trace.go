package fuse

import (
	"context"
	"log/slog"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
)

// traced logs every request to the cluster: --debug. Reads and writes of content are not
// logged, publishing is.
type traced struct {
	client.API
	log *slog.Logger
}

func (t traced) done(op string, id eggs.InodeID, name string, start time.Time, err *error) {
	args := []any{"inode", id, "took", time.Since(start)}
	if name != "" {
		args = append(args, "name", name)
	}
	if *err != nil {
		args = append(args, "err", *err)
	}
	t.log.Debug(op, args...)
}

func (t traced) Lookup(ctx context.Context, dir eggs.InodeID, name string) (e client.Entry, err error) {
	defer t.done("lookup", dir, name, time.Now(), &err)
	return t.API.Lookup(ctx, dir, name)
}

func (t traced) Stat(ctx context.Context, id eggs.InodeID) (a client.Attr, err error) {
	defer t.done("stat", id, "", time.Now(), &err)
	return t.API.Stat(ctx, id)
}

func (t traced) StatMany(ctx context.Context, ids []eggs.InodeID) (a []client.Attr, err error) {
	defer t.done("stat many", 0, "", time.Now(), &err)
	return t.API.StatMany(ctx, ids)
}

func (t traced) ReadDir(
	ctx context.Context, dir eggs.InodeID, after uint64, limit int, attrs bool,
) (list []client.Entry, owner eggs.InodeID, end bool, err error) {
	defer t.done("readdir", dir, "", time.Now(), &err)
	return t.API.ReadDir(ctx, dir, after, limit, attrs)
}

func (t traced) Mkdir(
	ctx context.Context, dir eggs.InodeID, name string, o client.CreateOptions,
) (a client.Attr, err error) {
	defer t.done("mkdir", dir, name, time.Now(), &err)
	return t.API.Mkdir(ctx, dir, name, o)
}

func (t traced) Rmdir(ctx context.Context, dir eggs.InodeID, name string) (err error) {
	defer t.done("rmdir", dir, name, time.Now(), &err)
	return t.API.Rmdir(ctx, dir, name)
}

func (t traced) Unlink(ctx context.Context, dir eggs.InodeID, name string, target eggs.InodeID) (err error) {
	defer t.done("unlink", dir, name, time.Now(), &err)
	return t.API.Unlink(ctx, dir, name, target)
}

func (t traced) Symlink(
	ctx context.Context, dir eggs.InodeID, name, target string, o client.CreateOptions,
) (a client.Attr, err error) {
	defer t.done("symlink", dir, name, time.Now(), &err)
	return t.API.Symlink(ctx, dir, name, target, o)
}

func (t traced) Rename(
	ctx context.Context, fromDir eggs.InodeID, from string, toDir eggs.InodeID, to string, noReplace bool,
) (err error) {
	defer t.done("rename", fromDir, from, time.Now(), &err)
	return t.API.Rename(ctx, fromDir, from, toDir, to, noReplace)
}

func (t traced) SetAttr(ctx context.Context, id eggs.InodeID, s client.SetAttr) (a client.Attr, err error) {
	defer t.done("setattr", id, "", time.Now(), &err)
	return t.API.SetAttr(ctx, id, s)
}

func (t traced) SetXattr(
	ctx context.Context, id eggs.InodeID, name string, value []byte, create, replace bool,
) (err error) {
	defer t.done("setxattr", id, name, time.Now(), &err)
	return t.API.SetXattr(ctx, id, name, value, create, replace)
}

func (t traced) RemoveXattr(ctx context.Context, id eggs.InodeID, name string) (err error) {
	defer t.done("removexattr", id, name, time.Now(), &err)
	return t.API.RemoveXattr(ctx, id, name)
}

func (t traced) Create(
	ctx context.Context, dir eggs.InodeID, name string, o client.CreateOptions,
) (w client.Writer, err error) {
	defer t.done("create", dir, name, time.Now(), &err)
	return t.API.Create(ctx, dir, name, o)
}

func (t traced) Open(ctx context.Context, id eggs.InodeID) (r client.Reader, err error) {
	defer t.done("open", id, "", time.Now(), &err)
	return t.API.Open(ctx, id)
}

func (t traced) StatFS(ctx context.Context) (s client.StatFS, err error) {
	defer t.done("statfs", 0, "", time.Now(), &err)
	return t.API.StatFS(ctx)
}
