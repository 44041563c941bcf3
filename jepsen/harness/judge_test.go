package harness

import (
	"testing"
	"time"

	"eggsfs/jepsen/check"
	"eggsfs/jepsen/nemesis"
	"eggsfs/jepsen/report"
)

// TestWorth: a run that broke nothing, or in which nobody was there to notice, must
// not count as a pass.
func TestWorth(t *testing.T) {
	faults := func(met ...uint64) []nemesis.Injected {
		var all []nemesis.Injected
		for _, m := range met {
			all = append(all, nemesis.Injected{Kind: "kill-one", Met: m})
		}
		return all
	}
	loads := func(ok int) []report.Load { return []report.Load{{Name: "names", OK: ok}} }
	failed := append(faults(1, 1, 1), nemesis.Injected{Kind: "slow", Met: 1, Err: "no tap"})
	for i, c := range []struct {
		ok     bool
		time   time.Duration
		loads  []report.Load
		faults []nemesis.Injected
		wanted bool
	}{
		{true, time.Minute, loads(1000), faults(1, 1, 1), true},
		{true, time.Minute, loads(1000), nil, false},
		{false, time.Minute, loads(1000), nil, true},
		{false, time.Minute, loads(999), faults(1, 1, 1), true},
		{false, time.Minute, loads(1000), faults(1, 1), true},
		{false, time.Minute, loads(1000), faults(1, 1, 1, 0), true},
		{false, time.Minute, loads(1000), failed, true},
		{true, 20 * time.Second, loads(10), faults(1), true},
		{false, 20 * time.Second, loads(10), faults(0), true},
	} {
		if v := worth(c.time, c.loads, c.faults, c.wanted); check.Passed(v) != c.ok {
			t.Errorf("case %d: %+v", i, v)
		}
	}
}
