// Command eggsfuse mounts EggsFS. It reads its flags, or the options of
// mount(8), connects, mounts, and goes on in the background until it is unmounted.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	_ "net/http/pprof" // only served when --pprof says where
	"os"
	"os/signal"
	"path"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/fuse"
)

// Exit codes, as the help says them.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// gcPercent trades memory for time: a mount's heap is small, and at the default of 100
// it would be collected several times a second.
const gcPercent = 400

// blockedReaders is how many goroutines wait in read(2) of the kernel's requests. Go
// takes the processor of one that waits back only after a while, in which answers from
// the cluster would wait as well.
const blockedReaders = 2

// connect makes the client; tests put another in its place.
var connect = func(ctx context.Context, c client.Config) (client.API, error) { return client.Open(ctx, c) }

func main() { os.Exit(run(os.Args)) }

// run is the program, and returns its exit code.
func run(args []string) int {
	asHelper := strings.HasPrefix(path.Base(args[0]), "mount.")
	rest := args[1:]
	if asHelper {
		var fake bool
		if rest, fake = fromMount(rest); fake {
			return exitOK
		}
	}
	code := exitOK
	var s settings
	cmd := &cobra.Command{
		Use:           "eggsfuse [flags] [ADDR[,ADDR…][/SUBDIR]] MOUNTPOINT",
		Short:         "mount EggsFS",
		Long:          long,
		Example:       example,
		Version:       eggs.BuildVersion,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	s.addFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, words []string) error {
		code = exitUsage
		if err := s.read(cmd.Flags(), words); err != nil {
			return err
		}
		code = exitFailure
		err := s.start(args)
		if err == nil {
			code = exitOK
		}
		return err
	}
	cmd.SetArgs(rest)
	err := cmd.Execute()
	if err != nil && code == exitOK {
		code = exitUsage
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "eggsfuse:", inWords(err))
		if code == exitUsage {
			fmt.Fprintln(os.Stderr, "Try 'eggsfuse --help'.")
		}
	}
	return code
}

// start mounts: in the background, in the foreground, or as the process in the background.
func (s *settings) start(args []string) error {
	switch {
	case report != nil:
		err := s.serve(func() { report.ok() })
		if err != nil {
			report.failed(err)
		}
		return err
	case s.foreground:
		return s.serve(func() {})
	}
	return background(args)
}

// serve connects, mounts, calls ready, and returns when the mount has ended.
func (s *settings) serve(ready func()) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + blockedReaders)
	}
	if s.pprof != "" {
		go func() { s.log.Warn("the profiler ended", "err", http.ListenAndServe(s.pprof, nil)) }()
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	c, err := connect(ctx, client.Config{
		Addrs: s.addrs, KeyFile: s.keyFile, Logger: s.log, Timeout: s.timeout, BlockTLS: s.blockTLS,
	})
	if err != nil {
		return err
	}
	defer c.Close()
	root, err := c.Walk(ctx, "/"+s.subdir)
	if err != nil {
		return err
	}
	if !root.ID.IsDir() {
		return fmt.Errorf("/%s is not a directory", s.subdir)
	}
	s.mount.Client, s.mount.Root = c, root.ID
	m, err := fuse.Mount(s.mount)
	if err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		s.log.Warn("stays in its folder", "err", err)
	}
	s.log.Info("mounted", "path", m.Path())
	ready()
	return s.wait(m, signals)
}

func (s *settings) wait(m *fuse.Mounted, signals <-chan os.Signal) error {
	select {
	case <-m.Done():
		s.log.Info("unmounted", "path", m.Path())
		return nil
	case sig := <-signals:
		s.log.Info("unmounting", "path", m.Path(), "signal", sig.String())
	}
	go func() { // a second signal does not wait
		<-signals
		os.Exit(exitFailure)
	}()
	return m.Unmount()
}

// inWords says what to do about the failures that people meet first.
func inWords(err error) string {
	text := err.Error()
	switch eggs.KindOf(err) {
	case eggs.Unavailable, eggs.Timeout:
		return text + "\nIs a node running there? Addresses are HOST:PORT of any nodes of the cluster."
	case eggs.Permission:
		return text + "\nIs this the cluster's key? The first node made it: DATA/cluster.key."
	}
	if errors.Is(err, os.ErrNotExist) && strings.Contains(text, ".key") {
		return text + "\nCopy the cluster's key there from the first node (DATA/cluster.key), " +
			"or name it: --key-file PATH."
	}
	return text
}

// connectTime is how long starting waits for a cluster by default: a failover, and then some.
const connectTime = 30 * time.Second
