// Command eggs is the operator's and the user's command line of EggsFS: one
// file a verb. Data goes to stdout, talk to stderr.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"eggsfs/eggs"
)

// Exit codes, as the help says them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUnreachable = 4
	exitPermission  = 5
	exitPartly      = 6
)

const exitCodes = `Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 cluster out of reach or
timed out, 5 permission, 6 partly done.`

// usageError is a mistake on the command line.
type usageError struct{ error }

// partlyError is what is left when some of many things failed.
type partlyError struct{ error }

// codeError carries an exit code of a verb's own, already explained.
type codeError struct{ code int }

func (e codeError) Error() string { return "" }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := newRoot()
	err := cmd.ExecuteContext(ctx)
	os.Exit(report(err))
}

// report prints an error once and returns the exit code that stands for it.
func report(err error) int {
	if err == nil {
		return exitOK
	}
	var code codeError
	if errors.As(err, &code) {
		return code.code
	}
	fmt.Fprintln(os.Stderr, "eggs:", err)
	return exitCode(err)
}

func exitCode(err error) int {
	var usage usageError
	var partly partlyError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "Try 'eggs help'.")
		return exitUsage
	case errors.As(err, &partly):
		return exitPartly
	}
	switch eggs.KindOf(err) {
	case eggs.NotExist:
		return exitNotFound
	case eggs.Unavailable, eggs.Timeout, eggs.Indeterminate, eggs.NotLeader:
		return exitUnreachable
	case eggs.Permission, eggs.WrongCluster, eggs.Version:
		return exitPermission
	}
	return exitFailure
}

func newRoot() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:   "eggs VERB",
		Short: "the command line of EggsFS, a distributed file system for large write-once files",
		Long: `eggs works on a cluster of EggsFS: on its files (ls, put, get, …), and on the
cluster itself (status, gc, …). Paths are absolute in the file system.

` + exitCodes,
		Example: `  eggs dev --nodes 3 --mount /tmp/mnt     a whole cluster on this machine, until Ctrl-C
  eggs put big.tar /data/big.tar
  eggs ls -l /data
  eggs status`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       eggs.BuildVersion,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	o.addFlags(root.PersistentFlags())
	groups := []*cobra.Group{
		{ID: "files", Title: "Files:"},
		{ID: "look", Title: "Look:"},
		{ID: "care", Title: "Care:"},
		{ID: "tools", Title: "Tools:"},
	}
	root.AddGroup(groups...)
	for id, cmds := range map[string][]*cobra.Command{
		"files": {
			lsCommand(o), statCommand(o), catCommand(o), mkdirCommand(o), putCommand(o), getCommand(o),
			mvCommand(o), rmCommand(o), lnCommand(o), transientCommand(o),
		},
		"look": {statusCommand(o), explainCommand(o), eventsCommand(o)},
		"care": {
			nodeCommand(o), diskCommand(o), clusterCommand(o), policyCommand(o), gcCommand(o), checkCommand(o),
			scrubCommand(o), migrateCommand(o),
		},
		"tools": {devCommand(o), benchCommand(o), versionCommand()},
	} {
		for _, c := range cmds {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	root.SetHelpCommandGroupID("tools")
	root.SetCompletionCommandGroupID("tools")
	return root
}

// args is cobra's check of positional arguments, with our exit code.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if err := check(cmd, a); err != nil {
			return usageError{fmt.Errorf("%s: %w", cmd.Name(), err)}
		}
		return nil
	}
}
