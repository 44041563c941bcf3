package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// What goes through a mount is done by processes of their own. A process that holds
// files of a mount must not start others: between fork and exec the child closes
// its copies, which waits for the mount, and for as long the parent cannot even
// collect garbage; and what mends the mount may be the very process to be started.

// request is one step of a file's way through a mount.
type request struct {
	Op   string `json:"op"` // begin, rest, close, read
	Path string `json:"path"`
	Name string `json:"name"`
	Size int    `json:"size"`
	Dup  bool   `json:"dup"` // begin: close a duplicate, as a shell does
}

type answer struct {
	Err   string `json:"err,omitempty"`
	Errno int    `json:"errno,omitempty"`
	Size  int64  `json:"size,omitempty"`
	Sum   uint64 `json:"sum,omitempty"`
}

// ServeMount answers requests until in ends: it is what the process does.
func ServeMount(in io.Reader, out io.Writer) error {
	d, e := json.NewDecoder(in), json.NewEncoder(out)
	var file *os.File
	for {
		var q request
		if err := d.Decode(&q); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		var a answer
		err := q.serve(&file, &a)
		if err != nil {
			a.Err = err.Error()
			var no syscall.Errno
			if errors.As(err, &no) {
				a.Errno = int(no)
			}
		}
		if err := e.Encode(a); err != nil {
			return err
		}
	}
}

func (q *request) serve(file **os.File, a *answer) (err error) {
	switch q.Op {
	case "begin":
		if *file, err = os.OpenFile(q.Path, os.O_WRONLY|os.O_CREATE, 0o644); err != nil {
			return err
		}
		_, err = (*file).Write(bytesOf(q.Name, q.Size)[:q.Size/2])
		if err == nil && q.Dup {
			var fd int
			if fd, err = syscall.Dup(int((*file).Fd())); err == nil {
				err = syscall.Close(fd)
			}
		}
		return err
	case "rest":
		_, err = (*file).Write(bytesOf(q.Name, q.Size)[q.Size/2:])
		return err
	case "close":
		return (*file).Close()
	case "read":
		b, err := os.ReadFile(q.Path)
		a.Size, a.Sum = int64(len(b)), crc64.Checksum(b, table)
		return err
	case "stat":
		_, err := os.Stat(q.Path)
		return err
	}
	return fmt.Errorf("mount: no such request %q", q.Op)
}

// mountProcess is the other side: it asks such a process.
type mountProcess struct {
	mu  sync.Mutex
	cmd *exec.Cmd
	in  io.WriteCloser
	e   *json.Encoder
	d   *json.Decoder
}

func startMount(command []string) (*mountProcess, error) {
	p := &mountProcess{cmd: exec.Command(command[0], command[1:]...)}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.in, p.e, p.d = in, json.NewEncoder(in), json.NewDecoder(out)
	return p, nil
}

func (p *mountProcess) ask(q request) (answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var a answer
	if err := p.e.Encode(q); err != nil {
		return a, err
	}
	if err := p.d.Decode(&a); err != nil {
		return a, err
	}
	if a.Errno != 0 {
		return a, fmt.Errorf("%w: %s", syscall.Errno(a.Errno), a.Err)
	}
	if a.Err != "" {
		return a, errors.New(a.Err)
	}
	return a, nil
}

func (p *mountProcess) stop() {
	_ = p.in.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
