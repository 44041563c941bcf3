package raftshard

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata")

// TestScripts runs testdata/*.txt. A block is a command with what belongs to
// it on the lines below, "----", and the answer up to an empty line. The language
// is in testdata/README.md. After every script the invariants hold, and
// a second machine that replays the log, in other batches, has the same state.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			runScript(t, file)
		})
	}
}

func runScript(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := newScript(t)
	defer s.group.mem.Close()
	var out bytes.Buffer
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	for i := 0; i < len(lines); {
		if line := lines[i]; line == "" || line[0] == '#' {
			out.WriteString(line + "\n")
			i++
			continue
		}
		start := i
		var input []string
		for ; i < len(lines) && lines[i] != "----"; i++ {
			input = append(input, lines[i])
			if lines[i] == "" {
				t.Fatalf("%s:%d: a command without ----", file, start+1)
			}
		}
		i++
		var want []string
		for ; i < len(lines) && lines[i] != ""; i++ {
			want = append(want, lines[i])
		}
		got := strings.TrimRight(s.run(input), "\n")
		if w := strings.Join(want, "\n"); got != w && !*update {
			t.Errorf("%s:%d: %s\ngot:\n%s\nwant:\n%s", file, start+1, input[0], got, w)
		}
		out.WriteString(strings.Join(input, "\n") + "\n----\n" + got + "\n")
	}
	if *update {
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.verify(file)
}

// script is one script under way.
type script struct {
	t     *testing.T
	shard eggs.ShardID
	key   *auth.Key
	group *lone
	it    *Shard
	clock eggs.Time
	disks []eggs.DiskID
	gone  []eggs.DiskID // retired

	ids      map[string]uint64 // $f, /, d …
	names    map[uint64]string
	auto     map[byte]int
	sessions map[string]*scriptSession
	cookies  map[uint64][]byte
	certs    map[[2]uint64][]*wire.Certificate // (file, offset): what writes or erases
	held     map[string][]byte                 // entries prepared and not applied
	last     *wire.ShardRequest
	fence    uint64 // counter of other directories' and files' numbers
}

type scriptSession struct{ id, next, lowest uint64 }

const scriptT0 = eggs.Time(1_800_000_000_000_000_000)

func newScript(t *testing.T) *script {
	key, err := auth.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s := &script{
		t: t, shard: eggs.Root.Shard(), key: key, clock: scriptT0,
		ids: map[string]uint64{}, names: map[uint64]string{}, auto: map[byte]int{},
		sessions: map[string]*scriptSession{}, cookies: map[uint64][]byte{},
		certs: map[[2]uint64][]*wire.Certificate{}, held: map[string][]byte{},
	}
	s.group = newLone(NewMachine(s.shard, key))
	s.group.keep = true
	s.disks = []eggs.DiskID{1, 2, 3, 4, 5, 6}
	s.serve()
	s.name("/", uint64(eggs.Root))
	return s
}

// serve makes the shard that answers from the group's machine.
func (s *script) serve() {
	s.it = New(Config{
		Shard: s.shard, Group: s.group, Machine: s.group.machine, Blocks: s,
		Clock: func() eggs.Time { return s.clock },
	})
}

// Choose takes preferred disks first, then the lowest.
func (s *script) Choose(c BlockChoice) ([]eggs.DiskID, error) {
	var out []eggs.DiskID
	take := func(d eggs.DiskID) {
		for _, x := range slices.Concat(out, c.Blacklist, c.Apart) {
			if x == d {
				return
			}
		}
		if len(out) < c.Parity.Blocks() {
			out = append(out, d)
		}
	}
	for _, d := range c.Prefer {
		for _, x := range s.disks {
			if x == d {
				take(d)
			}
		}
	}
	for _, d := range s.disks {
		take(d)
	}
	if len(out) < c.Parity.Blocks() {
		return nil, eggs.E("test.Choose", eggs.NoSpace, fmt.Sprintf("%d disks", len(s.disks)))
	}
	return out, nil
}

// Retired says what the leader's facts say.
func (s *script) Retired(d eggs.DiskID) bool { return slices.Contains(s.gone, d) }

// verify runs the invariants and replays the log on two other machines.
func (s *script) verify(what string) {
	s.t.Helper()
	view := s.group.mem.View()
	for _, f := range Check(view, s.shard) {
		s.t.Errorf("%s: invariant %d: %s", what, f.Invariant, s.rename(f.Text))
	}
	view.Close()
	one := newLone(NewMachine(s.shard, nil))
	defer one.mem.Close()
	for i, e := range s.group.entries {
		if i%7 == 3 {
			one.mem.Reopen(NewMachine(s.shard, nil))
		}
		one.mem.Apply(e)
	}
	two := newLone(NewMachine(s.shard, nil))
	defer two.mem.Close()
	two.mem.ApplyBatch(s.group.entries...)
	if a, b, c := s.group.mem.Hash(), one.mem.Hash(), two.mem.Hash(); a != b || a != c {
		s.t.Errorf("%s: replays differ: %08x %08x %08x", what, a, b, c)
	}
}

func (s *script) name(name string, id uint64) {
	s.ids[name], s.names[id] = id, name
}

// id reads a symbol.
func (s *script) id(sym string) uint64 {
	if sym == "" || sym == "-" {
		return 0
	}
	if id, ok := s.ids[sym]; ok {
		return id
	}
	s.t.Fatalf("no %q", sym)
	return 0
}

// sym prints an id.
func (s *script) sym(id uint64) string {
	if id == 0 {
		return "-"
	}
	if n, ok := s.names[id]; ok {
		return n
	}
	kind := "?dfs"[id>>61]
	s.auto[kind]++
	n := fmt.Sprintf("%c#%d", kind, s.auto[kind])
	s.name(n, id)
	return n
}

var hexID = regexp.MustCompile(`\b[0-9a-f]{16}\b`)

// rename replaces ids in a text.
func (s *script) rename(text string) string {
	for name, x := range s.sessions {
		text = strings.ReplaceAll(text, fmt.Sprintf("%016x", x.id), name)
	}
	return hexID.ReplaceAllStringFunc(text, func(h string) string {
		id, err := strconv.ParseUint(h, 16, 64)
		if err != nil || !eggs.InodeID(id).Valid() {
			return h
		}
		return s.sym(id)
	})
}

// time prints a time since the script began.
func (s *script) time(t int64) string {
	d := t - int64(scriptT0)
	if sec := d / 1e9; sec != 0 {
		text := (time.Duration(sec) * time.Second).String()
		text = strings.TrimSuffix(strings.TrimSuffix(text, "0s"), "0m")
		return fmt.Sprintf("%s+%d", text, d%1e9)
	}
	return strconv.FormatInt(d, 10)
}

func (s *script) error(e *wire.Error) string {
	if e == nil {
		return ""
	}
	return "error: " + s.rename(e.AsError().Error()) + "\n"
}

// block prints a block id's counter.
func block(id uint64) string { return strconv.FormatUint(id>>8, 10) }

// args is a line of words, key=value pairs among them.
type args struct {
	s     *script
	words []string
	keys  map[string]string
}

func (s *script) parse(line string) *args {
	a := &args{s: s, keys: map[string]string{}}
	for _, w := range splitWords(line) {
		if k, v, ok := strings.Cut(w, "="); ok && !strings.HasPrefix(w, "\"") && len(a.words) > 0 {
			a.keys[k] = unquote(v)
		} else {
			a.words = append(a.words, unquote(w))
		}
	}
	return a
}

func splitWords(line string) (words []string) {
	var w strings.Builder
	quoted := false
	for _, r := range line {
		switch {
		case r == '"':
			quoted = !quoted
			w.WriteRune(r)
		case r == ' ' && !quoted:
			if w.Len() > 0 {
				words = append(words, w.String())
			}
			w.Reset()
		default:
			w.WriteRune(r)
		}
	}
	if w.Len() > 0 {
		words = append(words, w.String())
	}
	return words
}

func unquote(w string) string {
	if u, err := strconv.Unquote(w); err == nil && strings.HasPrefix(w, "\"") {
		return u
	}
	return w
}

func (a *args) word(i int) string {
	if i < len(a.words) {
		return a.words[i]
	}
	return ""
}

func (a *args) id(i int) uint64 { return a.s.id(a.word(i)) }

func (a *args) has(flag string) bool {
	for _, w := range a.words {
		if w == flag {
			return true
		}
	}
	return false
}

func (a *args) num(key string, otherwise uint64) uint64 {
	v, ok := a.keys[key]
	if !ok {
		return otherwise
	}
	base := 10
	if key == "mode" {
		base = 8
	}
	n, err := strconv.ParseUint(v, base, 64)
	if err != nil {
		a.s.t.Fatalf("%s=%s: %v", key, v, err)
	}
	return n
}

func (a *args) list(key string) (out []uint64) {
	for _, w := range strings.Split(a.keys[key], ",") {
		if w == "" {
			continue
		}
		n, err := strconv.ParseUint(w, 10, 64)
		if err != nil {
			a.s.t.Fatalf("%s=%s: %v", key, a.keys[key], err)
		}
		out = append(out, n)
	}
	return out
}

// timeOf reads what time prints.
func (a *args) timeOf(key string) int64 {
	v, ok := a.keys[key]
	if !ok {
		return 0
	}
	sec, ns, two := strings.Cut(v, "+")
	if !two {
		sec, ns = "0s", v
	}
	d, err := time.ParseDuration(sec)
	n, err2 := strconv.ParseInt(ns, 10, 64)
	if err != nil || err2 != nil {
		a.s.t.Fatalf("%s=%s: not a time", key, v)
	}
	return int64(scriptT0) + int64(d) + n
}
