package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// court is a cluster of nodes with two disks each, as the coordinator's leader sees it.
func court(nodes int) *silence {
	s := &silence{
		facts: &wire.Facts{Version: 1}, unserved: map[uint64]eggs.Time{}, served: map[uint64]bool{}, alive: map[uint64]bool{},
		now: eggs.TimeOf(time.Unix(1_000_000, 0)), need: 3,
	}
	for n := range uint64(nodes) {
		s.facts.Nodes = append(s.facts.Nodes, &wire.NodeFact{Id: n + 1, Domain: fmt.Sprint("rack", n+1)})
		s.alive[n+1] = true
		for d := range uint64(2) {
			id := (n+1)*100 + d
			s.facts.Disks = append(s.facts.Disks, &wire.DiskFact{Id: id, Node: n + 1})
			s.served[id] = true
		}
	}
	return s
}

// run decides until there is nothing to decide, and does what was decided.
func (s *silence) run(t *testing.T) (retired []uint64, hold string) {
	t.Helper()
	s.look()
	s.pass(silentGrace)
	for range 100 {
		s.look()
		v, h := s.decide()
		if v == nil {
			return retired, h
		}
		d := factOfDisk(s.facts, v.disk.Id)
		switch v.mask {
		case maskSilent:
			d.SilentSince = v.disk.SilentSince
		case maskRetired:
			if v.disk.Why == "" || v.text == "" {
				t.Error("a disk is retired without words")
			}
			d.Retired, d.RetiredAt = true, int64(s.now)
			retired = append(retired, d.Id)
		}
	}
	t.Fatal("it decides without end")
	return nil, ""
}

func (s *silence) down(node uint64) {
	s.alive[node] = false
	s.served[node*100], s.served[node*100+1] = false, false
}

func (s *silence) pass(d time.Duration) { s.now += eggs.Time(d) }

// TestRetireSilent: a disk is retired when it was silent for the set time, not before, and not
// when it served in between.
func TestRetireSilent(t *testing.T) {
	s := court(4)
	s.served[100] = false
	if r, _ := s.run(t); r != nil {
		t.Fatalf("retired at once: %v", r)
	}
	s.pass(58 * time.Minute)
	s.served[100] = true
	s.run(t)
	s.served[100] = false
	s.run(t)
	s.pass(58 * time.Minute)
	if r, _ := s.run(t); r != nil {
		t.Fatalf("silent twice, never for an hour: %v", r)
	}
	s.pass(2 * time.Minute)
	if r, _ := s.run(t); len(r) != 1 || r[0] != 100 {
		t.Fatalf("after an hour: %v", r)
	}
	s = court(4)
	s.facts.RetireAfterNs = -1
	s.down(1)
	s.run(t)
	s.pass(1000 * time.Hour)
	if r, _ := s.run(t); r != nil {
		t.Fatalf("never was asked for: %v", r)
	}
}

// TestRetireGuards: what keeps an outage from becoming a loss.
func TestRetireGuards(t *testing.T) {
	silent := func(nodes int, down ...uint64) *silence {
		s := court(nodes)
		for _, n := range down {
			s.down(n)
		}
		s.run(t)
		s.pass(2 * time.Hour)
		return s
	}
	s := silent(5, 1, 2)
	if r, hold := s.run(t); len(r) != 2 || r[0]/100 != r[1]/100 || !strings.Contains(hold, "another failure domain") {
		t.Errorf("two domains at a time: %v, %q", r, hold)
	}
	s.pass(61 * time.Minute)
	if r, _ := s.run(t); len(r) != 2 {
		t.Errorf("the other domain, when repair has had its time: %v", r)
	}
	s = silent(5, 1, 2, 3)
	if r, hold := s.run(t); r != nil || !strings.Contains(hold, "2 of 5") {
		t.Errorf("without a majority in sight: %v, %q", r, hold)
	}
	s = silent(4, 1)
	s.need = 7
	if r, hold := s.run(t); r != nil || !strings.Contains(hold, "add disks") {
		t.Errorf("with too few disks left: %v, %q", r, hold)
	}
	s = silent(4, 1)
	s.since = s.now - eggs.Time(30*time.Second)
	if r, _ := s.run(t); r != nil {
		t.Errorf("by a leader that has just begun: %v", r)
	}
	s.pass(31 * time.Second)
	if r, _ := s.run(t); len(r) != 2 {
		t.Errorf("by one that has looked for a minute: %v", r)
	}
}
