package raftgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

func openTestLog(t testing.TB, path string, o LogOptions) *Log {
	t.Helper()
	if o.Fatal == nil {
		o.Fatal = func(err error) { t.Errorf("fatal: %v", err) }
	}
	l, err := OpenLog(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// modelGroup is what a group's log should hold.
type modelGroup struct {
	first, last uint64
	data        map[uint64]string
	term        uint64
	voteTerm    uint64
	vote        string
	durable     uint64 // up to here the state has it
}

func (m *modelGroup) check(t *testing.T, g *GroupLog, step int) {
	t.Helper()
	first, _ := g.FirstIndex()
	last, _ := g.LastIndex()
	if first != m.first || last != m.last {
		t.Fatalf("group %v: %d..%d, want %d..%d", g.id, first, last, m.first, m.last)
	}
	var l raft.Log
	for i := first; i != 0 && i <= last; i += uint64(step) {
		if err := g.GetLog(i, &l); err != nil || l.Index != i || string(l.Data) != m.data[i] ||
			l.Term != uint64(len(l.Data)) || (i%5 == 0) != (l.Extensions != nil) {
			t.Fatalf("group %v index %d: %v %+v, want %q", g.id, i, err, l, m.data[i])
		}
	}
	for _, i := range []uint64{first - 1, last + 1} {
		if err := g.GetLog(i, &l); err != raft.ErrLogNotFound {
			t.Fatalf("group %v index %d: %v", g.id, i, err)
		}
	}
	term, _ := g.GetUint64([]byte(keyTerm))
	voteTerm, _ := g.GetUint64([]byte(keyVoteTerm))
	vote, _ := g.Get([]byte(keyVoteFor))
	if term != m.term || voteTerm != m.voteTerm || string(vote) != m.vote {
		t.Fatalf("group %v: term %d vote %d %q, want %d %d %q", g.id, term, voteTerm, vote, m.term,
			m.voteTerm, m.vote)
	}
}

func (m *modelGroup) append(t *testing.T, r *rand.Rand, g *GroupLog, from uint64) {
	t.Helper()
	if from > m.last+1 || from <= m.first { // a gap, or from the start: what was is void
		m.data, m.first = map[uint64]string{}, 0
	}
	var logs []*raft.Log
	for i := range uint64(1 + r.IntN(10)) {
		data := bytes.Repeat([]byte{byte(r.IntN(256))}, r.IntN(40))
		l := &raft.Log{
			Index: from + i, Term: uint64(len(data)), Data: data, Type: raft.LogCommand,
			AppendedAt: time.Now(),
		}
		if l.Index%5 == 0 {
			l.Extensions = []byte("x")
		}
		if m.first == 0 {
			m.first = l.Index
		}
		m.last, m.data[l.Index] = l.Index, string(data)
		logs = append(logs, l)
	}
	if err := g.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

func (m *modelGroup) step(t *testing.T, r *rand.Rand, g *GroupLog) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	span := m.last - m.first
	switch k := r.IntN(40); {
	case k == 0 && span > 5: // conflict
		from := m.first + 1 + r.Uint64N(span)
		must(g.DeleteRange(from, m.last))
		m.last = from - 1
	case k == 1 && span > 50: // a snapshot was installed
		to := m.last - r.Uint64N(40)
		must(g.DeleteRange(m.first, to))
		m.first = to + 1
		if to == m.last {
			m.first, m.last, m.data = 0, 0, map[uint64]string{}
		}
	case k == 2:
		m.term += 1 + r.Uint64N(2)
		must(g.SetUint64([]byte(keyTerm), m.term))
	case k == 3:
		m.voteTerm, m.vote = m.voteTerm+1, fmt.Sprint("node", r.IntN(5))
		must(g.SetUint64([]byte(keyVoteTerm), m.voteTerm))
		must(g.Set([]byte(keyVoteFor), []byte(m.vote)))
	case k == 4 && span > 5: // overwrite
		m.append(t, r, g, m.first+r.Uint64N(span))
	case k == 5 && m.last > 0: // a gap, after an installed snapshot
		m.append(t, r, g, m.last+2+r.Uint64N(5))
	default:
		m.append(t, r, g, m.last+1)
	}
	m.durable = max(m.durable, m.last-min(m.last, r.Uint64N(30)))
	m.durable = min(m.durable, m.last)
}

// truncate does to the file what MaybeTruncate does, and learns what became of each group.
func truncateModel(t *testing.T, l *Log, ms []*modelGroup, tail int64) {
	t.Helper()
	c := &logCut{tail: tail}
	for i, m := range ms {
		c.durable[i] = m.durable
	}
	if _, err := l.cut(c); err != nil {
		t.Fatal(err)
	}
	for i, m := range ms {
		first, _ := l.Group(eggs.GroupID(i)).FirstIndex()
		if first < m.first || first > max(m.durable, m.first) {
			t.Fatalf("group %d: first %d after truncation, was %d, durable %d", i, first, m.first, m.durable)
		}
		m.first = first
	}
}

// Why: the log is where acknowledged changes and votes live. Random appends, conflicts, installed
// snapshots, votes and truncations of nine groups, with reopening, run against a model.
func TestLogAgainstModel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.log")
	o := LogOptions{noSync: true, segment: 128 << 10, moveStart: 100 << 10}
	l := openTestLog(t, path, o)
	r := rand.New(rand.NewPCG(3, 5))
	ms := make([]*modelGroup, 9)
	for i := range ms {
		ms[i] = &modelGroup{data: map[uint64]string{}}
	}
	for n := range 6000 {
		i := min(r.IntN(12), 8) // the last group gets more; the first ones idle after a while
		if n > 3000 && i < 3 {
			continue
		}
		ms[i].step(t, r, l.Group(eggs.GroupID(i)))
		if n%400 == 399 {
			truncateModel(t, l, ms, int64(r.IntN(200_000)*r.IntN(3)/2)) // a third keeps nothing
		}
		if n%1000 == 999 {
			for i, m := range ms {
				m.check(t, l.Group(eggs.GroupID(i)), 3)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = openTestLog(t, path, o)
			for i, m := range ms {
				m.check(t, l.Group(eggs.GroupID(i)), 1)
			}
		}
	}
	if l.first < 1000 {
		t.Errorf("the floor is at %d: truncation did nothing", l.first)
	}
	l.Close()
}

// Why: what many groups append at once must share commits, or 257 groups
// wait for the disk one after another.
func TestLogSharesCommits(t *testing.T) {
	commits := 0
	l := openTestLog(t, filepath.Join(t.TempDir(), "raft.log"), LogOptions{
		commit: func(f func() error) error { commits++; return f() },
	})
	var wg sync.WaitGroup
	for i := range eggs.Groups {
		wg.Go(func() {
			for n := range uint64(4) {
				if err := l.Group(eggs.GroupID(i)).StoreLog(&raft.Log{Index: n + 1}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if s := l.Stats(); s.Records != 4*eggs.Groups || s.Commits != uint64(commits) || s.Busy <= 0 {
		t.Errorf("%+v", s)
	}
	l.Close()
	if commits > 4*eggs.Groups/4 {
		t.Errorf("%d commits for %d appends", commits, 4*eggs.Groups)
	}
}

// Why: a node that lost its log has lost its votes, and must say so instead of starting anew.
func TestLogMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.log")
	if _, err := OpenLog(path, LogOptions{MustExist: true}); !errors.Is(err, eggs.NotExist) {
		t.Fatal(err)
	}
	openTestLog(t, path, LogOptions{}).Close()
	openTestLog(t, path, LogOptions{MustExist: true}).Close()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	for _, must := range []bool{true, false} {
		if _, err := OpenLog(path, LogOptions{MustExist: must}); !errors.Is(err, eggs.Corrupt) {
			t.Fatalf("an emptied file: %v", err)
		}
	}
}

// Why: two processes on one file would overwrite each other's pages.
func TestLogInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.log")
	l := openTestLog(t, path, LogOptions{})
	defer l.Close()
	if _, err := OpenLog(path, LogOptions{}); !errors.Is(err, eggs.InUse) {
		t.Fatal(err)
	}
}

// Why: raft grants a vote when both halves of persistVote have returned. At no instant may
// the file hold half of a pair, or the caller hear of a vote that is not in the file.
func TestLogVoteIsOnePair(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "raft.log")
	n := 0
	var l *Log
	during := func() (term, voteTerm uint64, vote string) {
		n++
		crashed := filepath.Join(dir, fmt.Sprint("crash", n))
		copyFile(t, path, crashed)
		if err := os.CopyFS(crashed+".journal", os.DirFS(path+".journal")); err != nil {
			t.Error(err)
		}
		c := openTestLog(t, crashed, LogOptions{noSync: true})
		defer c.Close()
		g := c.Group(4)
		term, _ = g.GetUint64([]byte(keyTerm))
		voteTerm, _ = g.GetUint64([]byte(keyVoteTerm))
		v, _ := g.Get([]byte(keyVoteFor))
		return term, voteTerm, string(v)
	}
	step := ""
	l = openTestLog(t, path, LogOptions{noSync: true, commit: func(f func() error) error {
		if term, voteTerm, vote := during(); fmt.Sprintf("%d %d %s", term, voteTerm, vote) != step {
			t.Errorf("before the commit: %d %d %q, want %q", term, voteTerm, vote, step)
		}
		return f()
	}})
	g := l.Group(4)
	vote := func(term uint64, who string) {
		if err := g.SetUint64([]byte(keyVoteTerm), term); err != nil {
			t.Fatal(err)
		}
		if v, _ := g.GetUint64([]byte(keyVoteTerm)); v == term {
			t.Fatal("half a vote is visible")
		}
		if err := g.Set([]byte(keyVoteFor), []byte(who)); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want string) {
		t.Helper()
		if term, voteTerm, vote := during(); fmt.Sprintf("%d %d %s", term, voteTerm, vote) != want {
			t.Fatalf("after %s: %d %d %q", want, term, voteTerm, vote)
		}
		step = want
	}
	step = "0 0 "
	g.SetUint64([]byte(keyTerm), 3)
	expect("3 0 ")
	vote(3, "a")
	expect("3 3 a")
	g.SetUint64([]byte(keyTerm), 3) // no commit
	g.SetUint64([]byte(keyTerm), 4)
	expect("4 3 a")
	vote(4, "b")
	expect("4 4 b")
	if err := g.Set([]byte(keyVoteFor), []byte("c")); !errors.Is(err, eggs.Invalid) {
		t.Fatalf("a candidate without a term: %v", err)
	}
	l.Close()
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// Why: a leader whose disk stalls goes on sending heartbeats, so the node must end; and whoever
// waits for a commit that may yet reach the disk must not hear that it failed.
func TestLogCommitOutlivesTimeout(t *testing.T) {
	stall, fatal := make(chan struct{}), make(chan error, 1)
	l := openTestLog(t, filepath.Join(t.TempDir(), "raft.log"), LogOptions{
		CommitTimeout: 10 * time.Millisecond,
		Fatal:         func(err error) { fatal <- err },
		commit:        func(f func() error) error { <-stall; return f() },
	})
	answered := make(chan error, 1)
	go func() { answered <- l.Group(0).StoreLog(&raft.Log{Index: 1}) }()
	if err := <-fatal; !errors.Is(err, eggs.Timeout) {
		t.Error(err)
	}
	select {
	case err := <-answered:
		t.Errorf("answered %v while the commit runs", err)
	default:
	}
	close(stall)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	l.Close()
}

// Why: after a commit that failed nobody knows what the file holds: nobody is
// answered, and nothing is written any more.
func TestLogCommitFails(t *testing.T) {
	fatal := make(chan error, 1)
	commits := 0
	l := openTestLog(t, filepath.Join(t.TempDir(), "raft.log"), LogOptions{
		Fatal:  func(err error) { fatal <- err },
		commit: func(f func() error) error { commits++; return errors.New("EIO") },
	})
	answers := make(chan error, 2)
	for i := range 2 {
		go func() { answers <- l.Group(eggs.GroupID(i)).StoreLog(&raft.Log{Index: 1}) }()
		if i == 0 {
			if err := <-fatal; !errors.Is(err, eggs.IO) {
				t.Fatal(err)
			}
		}
	}
	select {
	case err := <-answers:
		t.Fatalf("answered %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	l.Close()
	for range 2 {
		if err := <-answers; !errors.Is(err, eggs.Indeterminate) && !errors.Is(err, eggs.Unavailable) {
			t.Errorf("%v", err)
		}
	}
	if commits != 1 {
		t.Errorf("%d commits", commits)
	}
}

// Why: no-ops and barriers never reach the state machine, so waiting for their index would never
// end.
func TestLogStateIndex(t *testing.T) {
	l := openTestLog(t, filepath.Join(t.TempDir(), "raft.log"), LogOptions{noSync: true})
	defer l.Close()
	g := l.Group(1)
	types := []raft.LogType{raft.LogCommand, raft.LogNoop, raft.LogConfiguration, raft.LogBarrier, raft.LogNoop}
	for i, typ := range types {
		if err := g.StoreLog(&raft.Log{Index: uint64(i + 11), Type: typ}); err != nil {
			t.Fatal(err)
		}
	}
	for limit, want := range map[uint64]uint64{9: 9, 10: 10, 11: 11, 12: 11, 13: 13, 14: 13, 15: 13, 99: 13} {
		if got := g.StateIndex(limit); got != want {
			t.Errorf("StateIndex(%d) = %d, want %d", limit, got, want)
		}
	}
}
