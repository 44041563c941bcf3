// Command eggsnode is a server of EggsFS: any mix of the roles meta, block and
// upkeep. It reads its flags, starts a node, waits for a signal and stops it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"eggsfs/eggs"
	"eggsfs/node"
)

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

const (
	stopTimeout  = 10 * time.Second // how long SIGTERM waits for leadership to move away
	closeTimeout = 20 * time.Second // that, and closing what is open
)

func main() {
	code := 0
	cmd := &cobra.Command{
		Use:           "eggsnode --data DIR [--join ADDR[,ADDR…]]",
		Short:         "a server of EggsFS",
		Long:          long,
		Example:       example,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       eggs.BuildVersion,
	}
	addFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := readConfig(cmd.Flags())
		if err != nil {
			code = exitUsage
			return err
		}
		code = exitFailure
		if err := run(cfg); err != nil {
			if errors.Is(err, eggs.Invalid) {
				code = exitUsage
			}
			return err
		}
		code = 0
		return nil
	}
	if err := cmd.Execute(); err != nil {
		if code == 0 {
			code = exitUsage
		}
		fmt.Fprintln(os.Stderr, "eggsnode:", err)
		if code == exitUsage {
			fmt.Fprintln(os.Stderr, "Try 'eggsnode --help'.")
		}
		os.Exit(code)
	}
}

func run(cfg node.Config) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	cfg.Fatal = func(err error) {
		fmt.Fprintln(os.Stderr, "eggsnode: cannot go on safely:", err)
		os.Exit(exitFailure)
	}
	n, err := node.Start(cfg)
	if err != nil {
		return err
	}
	ready := n.Ready()
	for {
		select {
		case <-ready:
			ready = nil
			fmt.Println(n.ReadyLine())
			_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
		case err := <-n.Failed():
			n.Close()
			return err
		case <-signals:
			_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
			ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
			defer cancel()
			go func() { // neither a second signal nor a broken disk waits for ever
				select {
				case <-signals:
				case <-time.After(closeTimeout):
					fmt.Fprintln(os.Stderr, "eggsnode: closing takes too long, ending; nothing acknowledged is lost")
				}
				os.Exit(exitFailure)
			}()
			return n.Stop(ctx)
		}
	}
}
