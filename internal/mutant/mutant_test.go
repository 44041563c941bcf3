package mutant

import "testing"

// TestOff: an ordinary build must have no planted bug, whatever the environment says.
func TestOff(t *testing.T) {
	for _, name := range All {
		t.Setenv("EGGS_MUTANT", name)
		if On(name) {
			t.Errorf("%s is on in an ordinary build", name)
		}
	}
}
