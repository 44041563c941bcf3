package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// readyEnv tells the process in the background which descriptor its parent waits on.
const readyEnv = "EGGSFUSE_READY_FD"

// readyFD is the first descriptor that exec.Cmd hands down.
const readyFD = 3

// okWord is what the parent reads when the mount answers; anything else is why it does not.
const okWord = "ok"

// report is how the process in the background tells its parent; nil in any other.
var report = inherited()

type reporter struct{ w *os.File }

func inherited() *reporter {
	if os.Getenv(readyEnv) == "" {
		return nil
	}
	_ = os.Unsetenv(readyEnv)
	syscall.CloseOnExec(readyFD)
	return &reporter{os.NewFile(readyFD, "ready")}
}

func (r *reporter) ok() { r.end(okWord) }

func (r *reporter) failed(err error) { r.end(inWords(err)) }

func (r *reporter) end(text string) {
	if r.w != nil {
		_, _ = io.WriteString(r.w, text)
		r.w.Close()
		r.w = nil
	}
}

// background starts this program again, apart from the terminal, and returns when its
// mount answers, or with the reason why it does not.
func background(args []string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	c := exec.Command(exe)
	c.Args = args
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%d", readyEnv, readyFD))
	c.ExtraFiles = []*os.File{w}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		w.Close()
		return err
	}
	w.Close()
	text, err := io.ReadAll(r)
	switch word := strings.TrimSpace(string(text)); {
	case err != nil:
		return err
	case word == okWord:
		return nil
	case word == "":
		return fmt.Errorf("the daemon ended without a word: %w", c.Wait())
	default:
		return errors.New(word)
	}
}
