package cdc

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"eggsfs/eggs"
	"eggsfs/wire"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata")

// play runs a script's commands against the model of the shards and prints
// what the shards were asked and what the client was answered.
type play struct {
	*world
	model *namespace
	out   strings.Builder
	mu    sync.Mutex
	past  map[string]pastVersion // by path, the last one unlinked
	names map[uint64]string      // of directories, by the path they were made at
	last  *wire.CdcRequest       // what retry sends again
}

// TestScript plays testdata/*.txt: commands, a rule, and what they printed. The
// scripts show each transaction's steps; -update rewrites the answers, for a human to read.
func TestScript(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			old, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var now string
			synctest.Test(t, func(t *testing.T) { now = runScript(t, string(old)) })
			if now == string(old) {
				return
			}
			if !*update {
				t.Fatalf("%s is another now; -update rewrites it:\n%s", file, now)
			}
			if err := os.WriteFile(file, []byte(now), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func runScript(t *testing.T, script string) string {
	m := newNamespace()
	p := &play{
		world: newWorld(t, m), model: m, past: map[string]pastVersion{},
		names: map[uint64]string{root: "/"},
	}
	p.after = p.print
	var out strings.Builder
	for _, block := range strings.Split(strings.TrimSpace(script), "\n\n") {
		commands, _, _ := strings.Cut(block, "\n----")
		p.out.Reset()
		for _, line := range strings.Split(commands, "\n") {
			if line != "" && line[0] != '#' {
				p.command(strings.Fields(line))
			}
		}
		out.WriteString(strings.TrimSpace(commands) + "\n----\n" + p.out.String() + "\n")
	}
	p.after, p.before = nil, nil
	p.holds()
	return strings.TrimRight(out.String(), "\n") + "\n"
}

func (p *play) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(&p.out, format+"\n", args...)
}

// print shows a step that was delivered, and what the shard remembers for it.
func (p *play) print(_ int, r *wire.ShardRequest) error {
	verb, where := p.verb(r.Verbs[0])
	answer := "ok"
	p.model.mu.Lock()
	reply := p.model.fences[r.Shard].memory[r.Fence.Transaction][r.Fence.Step]
	p.model.mu.Unlock()
	if reply == nil {
		answer = eggs.Stale.String()
	} else if reply.Error != nil {
		answer = eggs.Kind(reply.Error.Kind).String()
	}
	p.say("  %d.%d/%d %s %s: %s", r.Fence.Transaction, r.Fence.Step>>8, r.Fence.Step&255,
		verb, where, answer)
	return nil
}

func (p *play) dir(id uint64) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if name := p.names[id]; name != "" {
		return name
	}
	return "#" + strconv.FormatUint(eggs.InodeID(id).Number(), 10)
}

func (p *play) verb(v *wire.Verb) (verb, where string) {
	in := func(dir uint64, name string) string {
		return strings.TrimSuffix(p.dir(dir), "/") + "/" + name
	}
	switch v := v.Verb.(type) {
	case *wire.Verb_CreateDirectory:
		return "CreateDirectory", p.dir(v.CreateDirectory.Id)
	case *wire.Verb_UncreateDirectory:
		return "UncreateDirectory", p.dir(v.UncreateDirectory.Id)
	case *wire.Verb_CreateEdge:
		return "CreateEdge", in(v.CreateEdge.Dir, v.CreateEdge.Name)
	case *wire.Verb_LockEdge:
		return "LockEdge", in(v.LockEdge.Dir, v.LockEdge.Name)
	case *wire.Verb_UnlockEdge:
		verb = "UnlockEdge"
		if v.UnlockEdge.Moved {
			verb = "UnlockEdge(moved)"
		}
		return verb, in(v.UnlockEdge.Dir, v.UnlockEdge.Name)
	case *wire.Verb_RemoveOwner:
		return "RemoveOwner", p.dir(v.RemoveOwner.Dir)
	case *wire.Verb_RemoveEdge:
		return "RemoveEdge", in(v.RemoveEdge.Dir, v.RemoveEdge.Name)
	case *wire.Verb_MakeTransient:
		return "MakeTransient", "#" + strconv.FormatUint(
			eggs.InodeID(v.MakeTransient.File).Number(), 10)
	}
	return "?", ""
}

// split finds a path's directory. A directory that was removed is found by the
// path that it was made at.
func (p *play) split(path string) (dir uint64, name string) {
	at := strings.LastIndexByte(path, '/')
	parent, name := path[:at], path[at+1:]
	if parent == "" {
		return root, name
	}
	for id, made := range p.names {
		if made == parent {
			dir = id
		}
	}
	if dir == 0 {
		p.t.Fatalf("no directory %q was made", parent)
	}
	return dir, name
}

func (p *play) command(words []string) {
	w := append(words, "", "", "")
	if w[0] != "retry" && !(w[0] == "fall" && w[1] == "") {
		p.settle() // what an earlier command left to be logged would be replayed in any order
	}
	switch w[0] {
	case "mkdir":
		dir, name := p.split(w[1])
		reply := p.request(mkdir(dir, name))
		if reply.Error == nil {
			p.names[reply.Id] = w[1]
		}
	case "rmdir":
		dir, name := p.split(w[1])
		p.request(rmdir(dir, name, 0))
	case "rename":
		from, a := p.split(w[1])
		to, b := p.split(w[2])
		p.request(rename(from, a, to, b, w[3] == "noreplace"))
	case "unlink-for-good":
		v := p.past[w[1]]
		p.request(unlink(v.dir, v.name, v.target, v.time))
	case "retry":
		p.send(p.last)
	case "link", "symlink":
		dir, name := p.split(w[1])
		kind := map[string]eggs.InodeKind{"link": eggs.KindFile, "symlink": eggs.KindSymlink}[w[0]]
		id, err := p.link(dir, name, kind)
		p.client(id, err)
	case "unlink":
		dir, name := p.split(w[1])
		target, at, err := p.unlink(dir, name)
		p.past[w[1]] = pastVersion{dir, name, target, at}
		p.client(target, err)
	case "settle":
		p.settle()
	case "fall": // fall N: the leader falls after the N-th step of the next request
		p.fall(w[1])
	case "lose": // lose N: the reply to the N-th step of the next request is lost
		n, _ := strconv.Atoi(w[1])
		first := p.sent
		p.after = func(at int, r *wire.ShardRequest) error {
			_ = p.print(at, r)
			if at-first == n {
				p.say("  the reply is lost")
				return errLost
			}
			return nil
		}
	case "late": // late: everything that was ever sent arrives once more
		p.settle()
		for _, r := range p.record {
			p.deliver(r)
		}
	case "ls":
		p.list()
	default:
		p.t.Fatalf("no command %q", w[0])
	}
}

func (p *play) fall(step string) {
	n, _ := strconv.Atoi(step)
	if n == 0 {
		p.g.lead((p.g.leader + 1) % 3)
		return
	}
	first := p.sent
	p.after = func(at int, r *wire.ShardRequest) error {
		_ = p.print(at, r)
		if at-first == n {
			p.say("  the leader falls")
			p.g.lead((p.g.leader + 1) % 3)
		}
		return nil
	}
}

func (p *play) client(id uint64, err error) {
	if err != nil {
		p.say("%v", err)
		return
	}
	p.say("ok #%d", eggs.InodeID(id).Number())
}

func (p *play) request(r *wire.CdcRequest) *wire.CdcReply {
	p.last = p.number(r)
	return p.send(r)
}

func (p *play) send(r *wire.CdcRequest) *wire.CdcReply {
	reply := p.until(r)
	switch {
	case reply.Error != nil:
		p.say("%v", eggs.Kind(reply.Error.Kind))
	case reply.Replaced != 0:
		p.say("ok #%d in the place of #%d", eggs.InodeID(reply.Id).Number(),
			eggs.InodeID(reply.Replaced).Number())
	default:
		p.say("ok #%d", eggs.InodeID(reply.Id).Number())
	}
	return reply
}

// list prints all that there is.
func (p *play) list() {
	p.settle()
	for _, line := range strings.Split(strings.TrimSpace(p.model.dump()), "\n") {
		words := strings.Fields(line)
		for i, word := range words {
			id, name, _ := strings.Cut(word, "/")
			n, err := strconv.ParseUint(id, 16, 64)
			if err != nil || n < root {
				continue
			}
			if words[i] = p.dir(n); name != "" {
				words[i] = strings.TrimSuffix(words[i], "/") + "/" + name
			}
		}
		p.say("%s", strings.Join(words, " "))
	}
}
