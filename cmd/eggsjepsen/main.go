// Command eggsjepsen runs real clusters of EggsFS under faults and judges what their
// clients saw.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes, as the help says them.
const (
	exitOK     = 0
	exitFailed = 1
	exitCould  = 2
)

// errFailed is a run that was done and has failed; all is said already.
var errFailed = errors.New("failed")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newRoot().ExecuteContext(ctx)
	code := exitOK
	switch {
	case errors.Is(err, errFailed):
		code = exitFailed
	case err != nil:
		fmt.Fprintln(os.Stderr, "eggsjepsen:", err)
		code = exitCould
	}
	stop()
	os.Exit(code)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use: "eggsjepsen", Short: "run EggsFS under faults and judge what its clients saw",
		Long: `eggsjepsen starts a cluster of the real binaries, each node on an address of its own
(network namespaces when root, else loopback), has clients work on it while it is
being broken, heals it, and judges the recorded history. The report is DIR/report.html.

Exit codes: 0 all passed, 1 something failed, 2 it could not run.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(runCommand(), listCommand(), judgeCommand(), mutantsCommand(), mountCommand())
	return root
}
