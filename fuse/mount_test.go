package fuse

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/internal/fstest"
)

// What people type must work, and the other mount must see it as soon as the command
// has ended. Each row runs in a fresh directory $D/N, and then its check in $O/N.
func TestShellHabits(t *testing.T) {
	r := newRoom(t)
	tool(t, "rsync", "rsync")
	tool(t, "git", "git")
	tool(t, "setfattr", "attr")
	for i, c := range []struct{ says, run, check, want string }{
		{"redirection closes a duplicate before the first write", `echo blah > f`, `cat f`, "blah\n"},
		{"each command of a group closes a duplicate", `(echo a; echo b; /bin/echo c) > f`, `cat f`, "a\nb\nc\n"},
		{"a group in the shell itself", `{ echo a; /bin/echo b; } > f`, `cat f`, "a\nb\n"},
		{"the shell closes while its child writes", `{ (sleep 0.1; echo late) & } > f; wait`, `cat f`, "late\n"},
		{"a pipe of a group", `{ echo a; seq 3 | tac; } > f`, `cat f`, "a\n3\n2\n1\n"},
		{"a descriptor kept by exec", `exec 3> f; echo a >&3; /bin/echo b >&3; exec 3>&-`, `cat f`, "a\nb\n"},
		{"two redirections to one file", `(echo out; echo err >&2) > f 2>&1`, `cat f`, "out\nerr\n"},
		{"tee", `echo a | tee f g >/dev/null`, `cat f g`, "a\na\n"},
		{"an empty file", `: > f; touch g`, `wc -c < f; wc -c < g`, "0\n0\n"},
		{"append to a new file", `echo a >> f`, `cat f`, "a\n"},
		{"overwrite", `echo one > f; echo two > f; echo 3 >| f`, `cat f`, "3\n"},
		{"overwrite by a group", `echo one > f; (echo a; /bin/echo b) > f`, `cat f`, "a\nb\n"},
		{"cp", `head -c 3000000 /dev/urandom > f; cp f g; cmp f g`, `cmp f g && echo same`, "same\n"},
		{"cp over", `echo a > f; echo b > g; cp f g`, `cat g`, "a\n"},
		{
			"cp -a keeps mode, times and xattrs",
			`echo a > f; chmod 4751 f; touch -d 2001-02-03T04:05:06.789 f; setfattr -n user.x -v y f; cp -a f g`,
			`stat -c '%a %y' g | cut -c1-28; getfattr -n user.x --only-values g`, "4751 2001-02-03 04:05:06.789\ny",
		},
		{"install", `echo a > f; install -m 600 f g`, `stat -c %a g`, "600\n"},
		{"dd by small blocks", `dd if=/dev/zero of=f bs=700 count=9000 status=none`, `wc -c < f`, "6300000\n"},
		{"dd leaves a hole", `echo x | dd of=f bs=1 seek=9999 status=none`, `wc -c < f; tail -c 2 f`, "10001\nx\n"},
		{"dd that syncs", `dd if=/dev/zero of=f bs=4k count=3 conv=fsync status=none`, `wc -c < f`, "12288\n"},
		{"mv", `mkdir d; echo a > f; mv f d/g; mv d e`, `cat e/g`, "a\n"},
		{"sed -i", `printf 'a\nb\n' > f; sed -i s/b/c/ f`, `cat f`, "a\nc\n"},
		{"sort", `printf 'b\na\n' > f; sort -o g f`, `cat g`, "a\nb\n"},
		{
			"tar", `mkdir s; for i in 1 2 3; do echo $i > s/$i; done; ln -s 1 s/l; tar cf t s; mkdir x; tar xf t -C x`,
			`diff -r s x/s && readlink x/s/l`, "1\n",
		},
		{"gzip", `seq 1000 > f; gzip f; gunzip f.gz`, `tail -1 f`, "1000\n"},
		{"split", `seq 100 > f; split -l 30 f p.`, `cat p.* | cmp - f && ls | wc -l`, "5\n"},
		{"truncate of a new file", `truncate -s 12345 f`, `wc -c < f`, "12345\n"},
		{"symlinks", `echo a > f; ln -s f l; ln -sf nowhere m`, `cat l; readlink m`, "a\nnowhere\n"},
		{
			"rsync twice: the second has nothing to do",
			`mkdir s; seq 500 > s/a; chmod 640 s/a; touch -d 2010-01-01 s/a; mkdir s/b; echo x > s/b/c;
			 rsync -a s/ t; rsync -ai s/ t`,
			`diff -r s t && stat -c '%a %Y' t/a`, "640 1262304000\n",
		},
		{
			"rsync over changed files", `mkdir s; echo a > s/f; rsync -a s/ t; echo bb > s/f; rsync -a s/ t; rsync -a --inplace s/ t`,
			`cat t/f`, "bb\n",
		},
		{
			"git",
			`export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a;
			 git init -q -b main s; cd s; for i in $(seq 30); do echo $i > $i; done; git add .; git commit -qm one;
			 cd ..; git clone -q s c; cd c; git config core.logAllRefUpdates false; rm -r .git/logs; echo more > more; git add more; git commit -qm two;
			 git status --porcelain; git gc -q; git fsck --no-progress; git log --oneline | wc -l > ../n`,
			`cat n; cat c/more; ls c | wc -l`, "2\nmore\n31\n",
		},
		{"a here document", "cat > f <<E\nx\nE\n", `cat f`, "x\n"},
		{"a script is run", `printf '#!/bin/sh\necho ran\n' > f; chmod +x f`, `./f`, "ran\n"},
		{"rm -rf", `mkdir -p a/b/c; touch a/1 a/b/2; rm -rf a`, `ls | wc -l`, "0\n"},
		{"mktemp is exclusive", `f=$(mktemp ./XXXXXX); echo a > $f`, `cat *`, "a\n"},
		{"an editor's dance", `echo 1 > f; echo 2 > .f.swp; mv f f~; mv .f.swp f; rm f~`, `cat f; ls -A | wc -l`, "2\n1\n"},
		{"a lock file", `(set -C; echo 1 > lock); if (set -C; echo 2 > lock) 2>/dev/null; then exit 1; fi`, `cat lock`, "1\n"},
		{"touch of a finished file", `echo a > f; touch -d @1000 f`, `stat -c %Y f; cat f`, "1000\na\n"},
		{"flock", `flock lock -c 'echo a > f'`, `cat f`, "a\n"},
		{"a background writer", `(sleep 0.05; echo b) > f & wait`, `cat f`, "b\n"},
		{"standard output by its name", `echo a > /dev/stdout`, `cat out`, "a\n"},
	} {
		t.Run(c.says, func(t *testing.T) {
			r := &room{T: t, d: r.d, o: r.o}
			in := "cd $D/" + fmt.Sprint(i) + "; "
			redirect := ""
			if strings.Contains(c.check, "cat out") {
				redirect = "exec > out; "
			}
			r.sh("mkdir $D/" + fmt.Sprint(i))
			if out := r.sh(in + redirect + c.run); out != "" {
				t.Errorf("the commands say %q", out)
			}
			if got := r.sh("cd $O/" + fmt.Sprint(i) + "; " + c.check); got != c.want {
				t.Errorf("the other mount shows %q, want %q", got, c.want)
			}
		})
	}
}

// Files are written once: what would change a finished file fails, from open on.
func TestFinishedFilesDoNotChange(t *testing.T) {
	r := newRoom(t)
	r.sh("echo a > f; mkdir d")
	for _, script := range []string{
		"echo b >> f", "truncate -s 0 f", "truncate -s 100 f", "dd of=f conv=notrunc status=none < /dev/null",
		"exec 3<>f", "fallocate -l 100 f",
	} {
		out, err := r.try(script)
		if err == nil || !strings.Contains(out, "Read-only file system") {
			t.Errorf("%s: %v, %q; want EROFS", script, err, out)
		}
	}
	for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR, unix.O_WRONLY | unix.O_APPEND, unix.O_RDWR | unix.O_CREAT} {
		_, err := unix.Open(r.path("f"), flags, 0o600)
		r.errno(fmt.Sprintf("open %#x", flags), err, syscall.EROFS)
	}
	r.errno("truncate(2)", unix.Truncate(r.path("f"), 0), syscall.EROFS)
	r.errno("link(2)", unix.Link(r.path("f"), r.path("g")), syscall.EPERM)
	r.errno("a fifo", unix.Mknod(r.path("p"), unix.S_IFIFO|0o600, 0), syscall.EPERM)
	r.errno("a device", unix.Mknod(r.path("p"), unix.S_IFCHR|0o600, 0x103), syscall.EPERM)
	r.ok(unix.Mknod(r.path("n"), unix.S_IFREG|0o600, 0))
	r.reads("n", "")
	r.errno("mknod again", unix.Mknod(r.path("n"), unix.S_IFREG|0o600, 0), syscall.EEXIST)
	err := unix.Renameat2(-1, r.path("f"), -1, r.path("n"), unix.RENAME_EXCHANGE)
	r.errno("exchange", err, syscall.EINVAL)
	err = unix.Renameat2(-1, r.path("f"), -1, r.path("n"), unix.RENAME_NOREPLACE)
	r.errno("no replace", err, syscall.EEXIST)
	r.errno("a long name", os.WriteFile(r.path(strings.Repeat("x", 256)), nil, 0o600), syscall.ENAMETOOLONG)
	r.errno("a directory in the way", os.Rename(r.path("f"), r.path("d")), syscall.EEXIST)
	r.reads("f", "a\n")
}

// Other mounts see nothing before close, and everything as soon as close has returned;
// this mount finds the file by its name all the while, since git and cp -a use it.
func TestVisibleAtClose(t *testing.T) {
	r := newRoom(t)
	for i := range 40 {
		name := fmt.Sprint("f", i)
		data := fstest.Pattern([]int{0, 1, 5000, 70_000, 5 << 20}[i%5], byte(i))
		f := r.create(name)
		for off := 0; off < len(data); off += 100_000 {
			_, err := f.Write(data[off:min(len(data), off+100_000)])
			r.ok(err)
		}
		r.absent(name)
		fi, err := os.Stat(r.path(name))
		r.ok(err)
		if fi.Size() != int64(len(data)) {
			t.Fatalf("this mount shows %d bytes, want %d", fi.Size(), len(data))
		}
		back := make([]byte, len(data))
		if _, err := f.ReadAt(back, 0); len(data) > 0 && (err != nil || !bytes.Equal(back, data)) {
			t.Fatalf("reads back other bytes: %v", err)
		}
		r.ok(f.Close())
		r.reads(name, string(data))
	}
}

// What is done by name to a file that is being made must be there when it is published.
func TestByNameBeforeClose(t *testing.T) {
	r := newRoom(t)
	tool(t, "setfattr", "attr")
	r.sh(`exec 3> f; echo a >&3
		chmod 640 f; chown 11:12 f; touch -d @1000 f; setfattr -n user.k -v v f
		[ "$(stat -c '%a %u %g %Y %s' f)" = "640 11 12 1000 2" ]
		[ "$(getfattr -n user.k --only-values f)" = v ]
		! setfattr -n trusted.k -v v f 2>/dev/null
		[ "$(ls)" = f ]; [ ! -e $O/f ]
		mv f g; [ "$(ls)" = g ]
		exec 3>&-`)
	got := r.sh(`cd $O; ls; stat -c '%a %u %g %Y %s' g; getfattr -n user.k --only-values g`)
	if want := "g\n640 11 12 1000 2\nv"; got != want {
		t.Fatalf("published %q, want %q", got, want)
	}
}

// A file that is unlinked before its close is never published, and its descriptor
// works to the end.
func TestUnlinkedBeforeClose(t *testing.T) {
	r := newRoom(t)
	f := r.create("f")
	_, err := f.WriteString("abc")
	r.ok(err)
	r.ok(os.Remove(r.path("f")))
	if _, err := os.Stat(r.path("f")); !os.IsNotExist(err) {
		t.Fatal(err)
	}
	_, err = f.WriteString("def")
	r.ok(err)
	var st unix.Stat_t
	r.ok(unix.Fstat(int(f.Fd()), &st))
	if st.Nlink != 0 || st.Size != 6 {
		t.Fatalf("fstat shows %d links, %d bytes", st.Nlink, st.Size)
	}
	b := make([]byte, 6)
	_, err = f.ReadAt(b, 0)
	r.ok(err)
	r.ok(f.Close())
	r.absent("f")
	r.sh("echo x > f; exec 3> f; echo new >&3; rm f; exec 3>&-; [ ! -e f ]; [ ! -e $O/f ]")
}

// O_EXCL is decided at open by the whole cluster, or lock files do not lock.
func TestExclusive(t *testing.T) {
	r := newRoom(t)
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := os.OpenFile(r.path("lock"), flags, 0o600)
	r.ok(err)
	_, err = os.OpenFile(r.other("lock"), flags, 0o600)
	r.errno("the other mount", err, syscall.EEXIST)
	_, err = os.OpenFile(r.path("lock"), flags, 0o600)
	r.errno("this mount", err, syscall.EEXIST)
	r.ok(f.Close())
	_, err = os.OpenFile(r.other("lock"), flags, 0o600)
	r.errno("after close", err, syscall.EEXIST)
	r.ok(os.Remove(r.other("lock")))
	f, err = os.OpenFile(r.path("lock"), flags, 0o600)
	r.ok(err)
	r.ok(os.Remove(r.path("lock")))
	r.ok(f.Close())
	f, err = os.OpenFile(r.other("lock"), flags, 0o600)
	r.ok(err)
	r.ok(f.Close())
}

// An overwrite replaces the whole file at close: until then everybody else reads the old
// one, on this mount too, and who has the old one open goes on reading it afterwards.
func TestOverwriteIsAtomic(t *testing.T) {
	r := newRoom(t)
	old := string(fstest.Pattern(200_000, 1))
	r.ok(os.WriteFile(r.path("f"), []byte(old), 0o604))
	reader, err := os.Open(r.path("f"))
	r.ok(err)
	defer reader.Close()
	writer := exec.Command("bash", "-c", `exec 3> f; echo new >&3; cat f; echo up; read; echo more >&3`)
	writer.Dir = r.d
	in, err := writer.StdinPipe()
	r.ok(err)
	out, err := writer.StdoutPipe()
	r.ok(err)
	r.ok(writer.Start())
	b := make([]byte, 100)
	n, err := io.ReadAtLeast(out, b, 7)
	r.ok(err)
	if string(b[:n]) != "new\nup\n" {
		t.Fatalf("the writer's child reads %q", b[:n])
	}
	r.reads("f", old)
	if got, err := os.ReadFile(r.path("f")); err != nil || string(got) != old {
		t.Fatalf("a stranger on this mount reads %q, %v", clip(string(got)), err)
	}
	in.Close()
	r.ok(writer.Wait())
	r.reads("f", "new\nmore\n")
	if got, err := os.ReadFile(r.path("f")); err != nil || string(got) != "new\nmore\n" {
		t.Fatalf("this mount reads %q, %v", clip(string(got)), err)
	}
	if got, err := io.ReadAll(reader); err != nil || string(got) != old {
		t.Fatalf("the old reader reads %q, %v", clip(string(got)), err)
	}
	fi, err := os.Stat(r.other("f"))
	r.ok(err)
	if fi.Mode().Perm() != 0o604 {
		t.Fatalf("the mode became %v", fi.Mode())
	}
}

// A killed writer leaves no name, however it was killed; one that exits with an error has
// closed its files as any program does.
func TestKilledWriterLeavesNoName(t *testing.T) {
	r := newRoom(t)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT, syscall.SIGSEGV} {
		for _, size := range []int{3, 6 << 20} {
			name := fmt.Sprintf("%d-%d", sig, size)
			c := exec.Command("bash", "-c", fmt.Sprintf(
				"exec 3> %s; head -c %d /dev/zero >&3; echo up; sleep 60 3>&-", name, size))
			c.Dir = r.d
			c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			out, err := c.StdoutPipe()
			r.ok(err)
			r.ok(c.Start())
			_, err = io.ReadAtLeast(out, make([]byte, 3), 3)
			r.ok(err)
			if _, err := os.Stat(r.path(name)); err != nil {
				t.Fatal("not there before the kill: ", err)
			}
			r.ok(syscall.Kill(-c.Process.Pid, sig))
			c.Wait()
			r.eventually("the draft is gone", func() bool {
				_, err := os.Stat(r.path(name))
				return os.IsNotExist(err)
			})
			r.absent(name)
		}
	}
	// What inherited the descriptor and is killed with the writer does not publish for it.
	r.try("exec 3> i; echo half >&3; sleep 60 & kill -9 $! $$")
	r.eventually("the draft is gone", func() bool {
		_, err := os.Stat(r.path("i"))
		return os.IsNotExist(err)
	})
	r.absent("i")
	// One that inherited it, never wrote and is killed does not lose another's file.
	r.sh("exec 3> j; echo a >&3; (sleep 60 & echo $! > pid); exec 3>&-; kill -9 $(cat pid)")
	r.eventually("published", func() bool {
		_, err := os.Stat(r.other("j"))
		return err == nil
	})
	r.reads("j", "a\n")
	r.try("exec 3> f; echo a >&3; exit 3")
	r.reads("f", "a\n")
	if out, err := r.try("(echo a; kill -9 $BASHPID) > g; echo b > h"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	r.reads("h", "b\n")
	r.absent("g")
}

// A file that outlives the shell that opened it is published when its last holder closes.
func TestOrphanedWriter(t *testing.T) {
	r := newRoom(t)
	r.sh("(setsid sh -c 'echo a; sleep 0.3; echo b' & setsid sh -c 'sleep 0.15; echo x' &) > f 2>/dev/null; :")
	time.Sleep(20 * time.Millisecond)
	r.absent("f")
	r.eventually("published", func() bool {
		_, err := os.Stat(r.other("f"))
		return err == nil
	})
	r.reads("f", "a\nx\nb\n")
}

// A descriptor for reading does not hold publication up, in the same process or another.
func TestReadersDoNotHold(t *testing.T) {
	r := newRoom(t)
	r.sh("exec 3> f; exec 4< f; sleep 5 3>&- & echo a >&3; exec 3>&-; [ $(cat $O/f) = a ]; kill $!")
}

// Any way of writing works for the handle that creates: this is what editors, linkers
// and databases do, in files below and above what is kept in memory.
func TestAnyHabitWhileCreating(t *testing.T) {
	for _, size := range []int{3000, 500_000, 6 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			r := newRoom(t, func(c *Config) { c.FileMemory = 1 << 20 })
			f := r.create("f")
			model := fstest.Pattern(size, 1)
			_, err := f.Write(model)
			r.ok(err)
			at := func(off int, p []byte) {
				t.Helper()
				_, err := f.WriteAt(p, int64(off))
				r.ok(err)
				if n := off + len(p) - len(model); n > 0 {
					model = append(model, make([]byte, n)...)
				}
				copy(model[off:], p)
				got := make([]byte, len(model))
				if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, model) {
					t.Fatalf("reads back other bytes: %v", err)
				}
			}
			at(0, []byte("header"))
			at(size/2, fstest.Pattern(size/3, 2))
			r.ok(f.Truncate(int64(size / 2)))
			model = model[:size/2]
			at(size, fstest.Pattern(100, 3))
			r.ok(f.Truncate(int64(size + 5000)))
			model = append(model, make([]byte, size+5000-len(model))...)
			r.ok(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 10, 900))
			clear(model[10:910])
			at(7, []byte("x"))
			r.ok(unix.Fallocate(int(f.Fd()), 0, int64(len(model)), 77))
			model = append(model, make([]byte, 77)...)
			r.absent("f")
			r.ok(f.Close())
			r.reads("f", string(model))
		})
	}
}

// A file may be written through a mapping, which may outlive its descriptor.
func TestMmap(t *testing.T) {
	r := newRoom(t)
	want := string(fstest.Pattern(300_000, 9))
	if out, err := r.helper("mmap", "f", "close-last").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r.reads("f", want)
	if out, err := r.helper("mmap", "g", "close-first", r.other("g")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r.eventually("published by RELEASE", func() bool {
		_, err := os.Stat(r.other("g"))
		return err == nil
	})
	r.reads("g", want)
}

// Where nothing can be known of the caller's descriptors, every close publishes, and a
// later write makes the next version: no program gets an error, and the last version is right.
func TestWritesAfterPublish(t *testing.T) {
	r := newRoom(t, func(c *Config) { c.FileMemory, c.blind = 1<<20, true })
	r.sh("(echo a; /bin/echo b; echo c) > f")
	r.reads("f", "a\nb\nc\n")
	versions := len(r.mem.Versions(eggs.Root, "f"))
	if versions == 0 {
		t.Fatal("nothing was published in between: the test tests nothing")
	}
	r.sh("(head -c 3000000 /dev/zero; echo x; head -c 2000000 /dev/zero) > g; chmod 600 g; [ $(stat -c %s $O/g) = 5000002 ]")
	f := r.create("h")
	dup, err := unix.Dup(int(f.Fd()))
	r.ok(err)
	big := fstest.Pattern(3<<20, 4)
	_, err = f.Write(big)
	r.ok(err)
	r.ok(unix.Close(dup))
	r.reads("h", string(big))
	reader, err := os.Open(r.path("h"))
	r.ok(err)
	defer reader.Close()
	_, err = f.WriteAt([]byte("new"), 1000)
	r.ok(err)
	r.ok(os.Chmod(r.path("h"), 0o611))
	r.reads("h", string(big))
	r.ok(f.Close())
	r.ok(os.Chmod(r.path("h"), 0o611))
	copy(big[1000:], "new")
	r.reads("h", string(big))
	if got, err := os.ReadFile(r.path("h")); err != nil || !bytes.Equal(got, big) {
		t.Fatal("this mount reads other bytes: ", err)
	}
}

// An error of any write is reported by close at the latest, and then there is no name.
func TestErrorsAreReported(t *testing.T) {
	r := newRoom(t)
	for _, c := range []struct {
		kind eggs.Kind
		want syscall.Errno
	}{
		{eggs.NoSpace, syscall.ENOSPC},
		{eggs.Timeout, syscall.ETIMEDOUT},
		{eggs.Unavailable, syscall.ETIMEDOUT},
		{eggs.BadDisk, syscall.EIO},
		{eggs.Expired, syscall.EIO},
	} {
		f := r.create("f")
		_, err := f.WriteString("abc")
		r.ok(err)
		r.mem.SetHook(fail("Close", "f", c.kind))
		r.errno("close", f.Close(), c.want)
		r.mem.SetHook(nil)
		r.absent("f")
		if _, err := os.Stat(r.path("f")); !os.IsNotExist(err) {
			t.Fatal("this mount still shows it: ", err)
		}
	}
	f := r.create("g")
	_, err := f.WriteString("abc")
	r.ok(err)
	r.mem.SetHook(fail("Closed", "g", eggs.Indeterminate))
	r.errno("close of unknown outcome", f.Close(), syscall.EIO)
	r.mem.SetHook(nil)
	r.reads("g", "abc")

	r.mem.SetRoom(6 << 20)
	out, err := r.try("dd if=/dev/zero of=big bs=1M count=20")
	if err == nil || !strings.Contains(out, "No space left") {
		t.Fatalf("%v %s", err, out)
	}
	r.mem.SetRoom(1 << 30)
	r.absent("big")
	r.sh("echo a > old")
	r.mem.SetRoom(3)
	if out, err := r.try("cp /proc/version old"); err == nil || !strings.Contains(out, "No space left") {
		t.Fatalf("%v %s", err, out)
	}
	r.mem.SetRoom(1 << 30)
	r.reads("old", "a\n")
}

// A lease that ran out while a program thought is no reason to lose its small file.
func TestExpiredConstructionIsRepeated(t *testing.T) {
	r := newRoom(t)
	f := r.create("f")
	_, err := f.WriteString("abc")
	r.ok(err)
	once := true
	r.mem.SetHook(func(c fstest.Call) error {
		if c.Op == "Close" && once {
			once = false
			return eggs.E("test", eggs.Expired, "")
		}
		return nil
	})
	r.ok(f.Close())
	r.mem.SetHook(nil)
	r.reads("f", "abc")
}

// A file still being made moves within its directory only.
func TestRenameBeforeClose(t *testing.T) {
	r := newRoom(t)
	r.sh("mkdir d; echo old > g")
	f := r.create("f")
	_, err := f.WriteString("new")
	r.ok(err)
	r.errno("to another directory", os.Rename(r.path("f"), r.path("d/f")), syscall.EXDEV)
	err = unix.Renameat2(-1, r.path("f"), -1, r.path("g"), unix.RENAME_NOREPLACE)
	r.errno("no replace", err, syscall.EEXIST)
	r.ok(os.Rename(r.path("f"), r.path("g")))
	r.reads("g", "old\n")
	if _, err := os.Stat(r.path("f")); !os.IsNotExist(err) {
		t.Fatal(err)
	}
	r.ok(f.Close())
	r.reads("g", "new")
	r.absent("f")
	if _, err := os.Stat(r.path("g")); err != nil {
		t.Fatal(err)
	}
	// One that replaces a finished file takes that file along.
	f = r.create("g")
	_, err = f.WriteString("newer")
	r.ok(err)
	r.ok(os.Rename(r.path("g"), r.path("h")))
	r.reads("h", "new")
	r.ok(f.Close())
	r.reads("h", "newer")
	r.absent("g")
	// A finished file renamed over one being made takes its name away.
	f = r.create("k")
	r.ok(os.Rename(r.path("h"), r.path("k")))
	r.ok(f.Close())
	r.reads("k", "newer")
	// A directory with a file being made in it is not empty.
	f = r.create("d/x")
	r.errno("rmdir", unix.Rmdir(r.path("d")), syscall.ENOTEMPTY)
	r.ok(os.Rename(r.path("d"), r.path("e")))
	r.ok(f.Close())
	r.reads("e/x", "")
}

// Opening by /proc/PID/fd names no name; it truncates all the same.
func TestTruncateThroughProc(t *testing.T) {
	r := newRoom(t)
	r.sh("echo old > f; exec 3< f; echo new > /proc/self/fd/3; [ $(cat $O/f) = new ]; [ $(cat f) = new ]; [ $(cat <&3) = old ]")
}

// What names are in a large directory is listed once each, while others come and go.
func TestReaddirWhileNamesComeAndGo(t *testing.T) {
	r := newRoom(t)
	const n = 10_000
	dir := filepath.Join(r.d, "d")
	r.ok(os.Mkdir(dir, 0o755))
	e, err := r.mem.Lookup(t.Context(), eggs.Root, "d")
	r.ok(err)
	put := func(name string) {
		w, err := r.mem.Create(context.Background(), e.Target, name, createMode(0o644))
		if err == nil {
			_, err = w.Close(context.Background())
		}
		if err != nil {
			t.Error(err)
		}
	}
	for i := range n {
		put(fmt.Sprintf("stay-%d", i))
	}
	stop := make(chan struct{})
	var churn sync.WaitGroup
	churn.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprintf("go-%d", i%500)
			put(name)
			if err := r.mem.Unlink(context.Background(), e.Target, name, 0); err != nil {
				t.Error(err)
			}
		}
	})
	end := sync.OnceFunc(func() { close(stop); churn.Wait() })
	defer end()
	for range 4 {
		names, err := readAll(dir)
		r.ok(err)
		count := map[string]int{}
		for _, name := range names {
			count[name]++
		}
		if count["."] != 1 || count[".."] != 1 {
			t.Errorf("%d of . and %d of ..", count["."], count[".."])
		}
		if len(names) < n+2 {
			t.Fatalf("listed %d names, the last ones %v", len(names), names[max(0, len(names)-3):])
		}
		for i := range n {
			if c := count[fmt.Sprintf("stay-%d", i)]; c != 1 {
				t.Fatalf("stay-%d was listed %d times", i, c)
			}
		}
	}
	end()
	if out := r.sh("ls d | wc -l; find d -type f | wc -l; cd d; rm -rf ../d; ls .. | wc -l"); out != "10000\n10000\n0\n" {
		t.Fatalf("%q", out)
	}
}

// The page after the one that is read is asked for ahead. What rewinddir(3) starts anew must not
// use it, and what is read late must not give the kernel attributes whose time is over.
func TestListedAheadIsNotKept(t *testing.T) {
	r := newRoom(t)
	r.ok(os.Mkdir(r.path("d"), 0o755))
	for i := range 3 * firstPage {
		r.ok(os.WriteFile(r.path(fmt.Sprintf("d/%d", i)), nil, 0o644))
	}
	fd, err := unix.Open(r.path("d"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	r.ok(err)
	defer unix.Close(fd)
	buf := make([]byte, 1<<20)
	count := func() (n int) {
		for {
			got, err := unix.Getdents(fd, buf)
			r.ok(err)
			if got == 0 {
				return n
			}
			_, k, _ := unix.ParseDirent(buf[:got], -1, nil)
			n += k
		}
	}
	for round := range 3 {
		if _, err := unix.Getdents(fd, buf[:4096]); err != nil { // the second page is on its way
			t.Fatal(err)
		}
		r.ok(os.WriteFile(filepath.Join(r.o, fmt.Sprintf("d/new-%d", round)), nil, 0o644))
		_, err := unix.Seek(fd, 0, 0)
		r.ok(err)
		if got, want := count(), 3*firstPage+round+1; got != want {
			t.Fatalf("listed %d names, want %d", got, want)
		}
		_, err = unix.Seek(fd, 0, 0)
		r.ok(err)
	}
	var out gofuse.EntryOut
	a := client.Attr{ID: eggs.Root}
	r.m.fs.entryFrom(&out, &a, time.Now().Add(-2*time.Second))
	if out.NodeId != 0 {
		t.Fatal("attributes of two seconds ago were given to the kernel")
	}
	r.m.fs.entryFrom(&out, &a, time.Now().Add(-time.Second/2))
	if out.NodeId == 0 || out.EntryTimeout() > time.Second/2 || out.AttrTimeout() > time.Second/2 {
		t.Fatalf("attributes of half a second ago are given for %v", out.EntryTimeout())
	}
}

// readAll lists a directory by small getdents, which end pages at odd places.
func readAll(dir string) ([]string, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var names []string
	buf := make([]byte, 3000)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n == 0 {
			return names, err
		}
		for p := buf[:n]; len(p) > 0; {
			size := int(p[16]) | int(p[17])<<8
			name, _, _ := bytes.Cut(p[19:size], []byte{0})
			names = append(names, string(name))
			p = p[size:]
		}
	}
}

// The kernel enforces modes and owners; groups follow set-group-id directories.
func TestPermissions(t *testing.T) {
	r := newRoom(t)
	r.sh("chmod 1777 .; echo a > mine; chmod 600 mine; mkdir -m 2775 shared; chown 0:77 shared")
	run := func(script string) (string, error) {
		c := exec.Command("bash", "-c", script)
		c.Dir = "/"
		c.Env = append(os.Environ(), "D="+r.d)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234, Groups: []uint32{77}}}
		out, err := c.CombinedOutput()
		return string(out), err
	}
	r.ok(os.Chmod(filepath.Dir(r.d), 0o755))
	r.ok(os.Chmod(filepath.Dir(filepath.Dir(r.d)), 0o755))
	if out, err := run("cat $D/mine"); err == nil || !strings.Contains(out, "Permission denied") {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := run("set -e; cd $D; echo b > theirs; echo c > shared/f; mkdir shared/d; cat theirs"); err != nil || out != "b\n" {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := run("rm $D/mine"); err == nil {
		t.Fatalf("removed another's file from a sticky directory: %s", out)
	}
	got := r.sh("cd $O; stat -c '%n %a %u %g' theirs shared/f shared/d")
	if want := "theirs 644 1234 1234\nshared/f 644 1234 77\nshared/d 2755 1234 77\n"; got != want {
		t.Fatalf("%q, want %q", got, want)
	}
	got = r.sh("cd $O; chmod 6755 theirs; chown 5 theirs; stat -c '%a %u' theirs; chmod 2644 theirs; chown 6 theirs; stat -c %a theirs")
	if got != "755 5\n2644\n" {
		t.Fatalf("set-id bits after chown: %q", got)
	}
}

// A signal does not make stat(2) fail, and a process that is killed does not wait for
// a cluster that is away.
func TestInterrupts(t *testing.T) {
	r := newRoom(t)
	block := make(chan struct{})
	r.mem.SetHook(func(c fstest.Call) error {
		if c.Op == "Lookup" && c.Name == "slow" {
			<-block
		}
		return nil
	})
	c := exec.Command("bash", "-c", "trap 'echo signal' USR1; /usr/bin/stat slow 2>&1 | grep -o 'No such file'")
	c.Dir = r.d
	var out bytes.Buffer
	c.Stdout = &out
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r.ok(c.Start())
	time.Sleep(100 * time.Millisecond)
	r.ok(syscall.Kill(c.Process.Pid, syscall.SIGUSR1))
	time.Sleep(400 * time.Millisecond)
	close(block)
	r.ok(c.Wait())
	if !strings.Contains(out.String(), "No such file") {
		t.Fatalf("stat says %q", out.String())
	}
}

// Room for content, as df shows it.
func TestStatFS(t *testing.T) {
	r := newRoom(t)
	var st unix.Statfs_t
	r.ok(unix.Statfs(r.d, &st))
	if st.Blocks*uint64(st.Bsize) != fstest.Capacity || st.Namelen != eggs.MaxName {
		t.Fatalf("%+v", st)
	}
	if got := r.sh("stat -f -c %T . ; awk -v d=$D '$2==d{print $1, $3}' /proc/mounts"); got != "fuseblk\neggsfs fuse.eggsfs\n" &&
		!strings.HasSuffix(got, "eggsfs fuse.eggsfs\n") {
		t.Fatalf("%q", got)
	}
}

// An unmount does not publish what is still open for writing, and does not wait for it.
func TestUnmountDoesNotPublish(t *testing.T) {
	mustMount(t)
	r := &room{T: t, mem: fstest.NewMemory(), log: &lockedBuffer{}}
	m, dir := r.mount(r.mem)
	_, r.o = r.mount(r.mem.Client())
	r.d = dir
	f := r.create("f")
	_, err := f.WriteString("abc")
	r.ok(err)
	r.ok(m.Unmount())
	if err := f.Close(); err == nil {
		t.Error("close of an unpublished file succeeded")
	}
	m.Wait()
	r.absent("f")
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Fatalf("%v %v", list, err)
	}
}

// Directories may be mounted by themselves.
func TestSubdirectory(t *testing.T) {
	r := newRoom(t)
	r.sh("mkdir -p a/b; echo x > a/b/f")
	e, err := r.mem.Walk(t.Context(), "/a/b")
	r.ok(err)
	_, dir := r.mount(r.mem.Client(), func(c *Config) { c.Root = e.ID })
	got := r.sh("cd " + dir + "; cat f; echo y > g; ls -a; [ $(stat -c %i .) = $(stat -c %i ..) ] || true; stat -c %i .")
	if got != "x\n.\n..\nf\ng\n1\n" {
		t.Fatalf("%q", got)
	}
	r.reads("a/b/g", "y\n")
}
