package client

import (
	"context"
	"strings"

	"eggsfs/eggs"
)

// maxLinks is how many symlinks a path may lead through, as Linux has it.
const maxLinks = 40

// Walk finds the inode of an absolute path. Symlinks on the way are followed,
// a last one is not. Kinds NotExist, NotDir, Loop.
func (c *Client) Walk(ctx context.Context, path string) (Attr, error) {
	if !strings.HasPrefix(path, "/") {
		return Attr{}, fail("Walk", 0, path, eggs.Invalid)
	}
	a, err := c.walk(ctx, path)
	return a, fail("Walk", 0, path, err)
}

func (c *Client) walk(ctx context.Context, path string) (Attr, error) {
	at, err := c.stat(ctx, eggs.Root)
	if err != nil {
		return Attr{}, err
	}
	stack := []Attr{at} // the directories from the root to here
	todo := strings.Split(path, "/")
	links := 0
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		here := stack[len(stack)-1]
		switch name {
		case "", ".":
			continue
		case "..":
			stack = stack[:max(len(stack)-1, 1)]
			continue
		}
		if !here.ID.IsDir() {
			return Attr{}, eggs.NotDir
		}
		e, err := c.lookup(ctx, here.ID, name)
		if err != nil {
			return Attr{}, err
		}
		if e.Target.Kind() == eggs.KindSymlink && more(todo) {
			if links++; links > maxLinks {
				return Attr{}, eggs.Loop
			}
			if strings.HasPrefix(e.Attr.Symlink, "/") {
				stack = stack[:1]
			}
			todo = append(strings.Split(e.Attr.Symlink, "/"), todo...)
			continue
		}
		stack = append(stack, *e.Attr)
	}
	return stack[len(stack)-1], nil
}

// more reports whether names follow: a symlink with a name behind it is not the last.
func more(todo []string) bool {
	for _, n := range todo {
		if n != "" && n != "." {
			return true
		}
	}
	return false
}
