//go:build mutants

package mutant

import "os"

// Built tells whether this build has planted bugs at all.
const Built = true

var chosen = os.Getenv("EGGS_MUTANT")

// On reports whether a planted bug is on: the one that EGGS_MUTANT names.
func On(name string) bool { return name == chosen }
