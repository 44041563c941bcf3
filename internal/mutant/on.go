//go:build mutants

package mutant

import "os"

var chosen = os.Getenv("EGGS_MUTANT")

// On reports whether a planted bug is on: the one that EGGS_MUTANT names.
func On(name string) bool { return name == chosen }
