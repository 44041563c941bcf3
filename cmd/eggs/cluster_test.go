package main

import (
	"testing"
	"time"
)

// TestParseCluster: what can't be wished for is told, never guessed; what is left out stays.
func TestParseCluster(t *testing.T) {
	p, err := parseCluster([]string{"replicas=5", "retire-after=90m"})
	if err != nil || p.Replicas != 5 || time.Duration(p.RetireAfterNs) != 90*time.Minute || p.Id != 0 {
		t.Fatalf("%v, %v", p, err)
	}
	if p, err = parseCluster([]string{"retire-after=never"}); err != nil || p.RetireAfterNs >= 0 || p.Replicas != 0 {
		t.Fatalf("%v, %v", p, err)
	}
	for _, bad := range []string{"replicas=4", "replicas=9", "replicas", "retire-after=5", "retire-after=-1h", "x=1"} {
		if _, err := parseCluster([]string{bad}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
