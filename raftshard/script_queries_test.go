package raftshard

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// run does one command.
func (s *script) run(input []string) string {
	a := s.parse(input[0])
	switch a.word(0) {
	case "session": // session NAME
		r := s.do(a, []string{a.word(1) + " = open"})
		return r
	case "do": // do SESSION [seq=N] [lowest=N] [lost] [hold=NAME]
		return s.do(a, input[1:])
	case "step": // step TRANSACTION STEP [oldest=N]
		return s.do(a, input[1:])
	case "retry":
		return s.send(a, s.last, nil)
	case "apply": // what was held
		reply := s.group.apply(s.held[a.word(1)]).(*wire.ShardReply)
		return s.reply(seal(s.key, reply), s.last, nil)
	case "clock":
		d, err := time.ParseDuration(strings.TrimPrefix(a.word(1), "+"))
		if err != nil {
			s.t.Fatal(err)
		}
		s.clock += eggs.Time(d)
		return "ok"
	case "retired":
		s.gone = nil
		for _, w := range a.words[1:] {
			d, err := strconv.ParseUint(w, 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			s.gone = append(s.gone, eggs.DiskID(d))
		}
		return "ok"
	case "disks":
		s.disks = nil
		for _, w := range a.words[1:] {
			d := 0
			fmt.Sscan(w, &d)
			s.disks = append(s.disks, eggs.DiskID(d))
		}
		return "ok"
	case "restart": // a new leader: its machine knows what is stored
		s.group.machine = NewMachine(s.shard, s.key)
		s.group.mem.Reopen(s.group.machine)
		s.serve()
		return "ok"
	case "bytes": // a checksum of all keys and values: the format is frozen
		return fmt.Sprintf("%08x", s.group.mem.Hash())
	case "dirid", "other": // a directory's id of this shard; an id of another shard
		return s.newID(a)
	}
	return s.query(a)
}

func (s *script) newID(a *args) string {
	kind := eggs.KindDirectory
	if a.word(2) == "file" {
		kind = eggs.KindFile
	}
	for {
		s.fence++
		id := eggs.MakeInodeID(kind, 1<<40+s.fence)
		if (id.Shard() == s.shard) == (a.word(0) == "dirid") {
			s.name(a.word(1), uint64(id))
			return "ok"
		}
	}
}

// do sends a request of the lines' verbs.
func (s *script) do(a *args, lines []string) string {
	req := &wire.ShardRequest{Shard: uint32(s.shard)}
	switch a.word(0) {
	case "do":
		if x := s.sessions[a.word(1)]; x != nil {
			req.Session, req.Sequence, req.Lowest = x.id, a.num("seq", x.next), x.lowest
			x.next = max(x.next, req.Sequence+1)
			req.Lowest = a.num("lowest", req.Lowest)
		} else if a.word(1) != "-" {
			req.Session, req.Sequence, req.Lowest = 12345, 1, 1
		}
	case "step":
		req.Fence = &wire.Fence{Oldest: a.num("oldest", 0)}
		fmt.Sscan(a.word(1), &req.Fence.Transaction)
		fmt.Sscan(a.word(2), &req.Fence.Step)
	}
	var syms []string
	for _, line := range lines {
		v, sym := s.verb(line)
		req.Verbs, syms = append(req.Verbs, v), append(syms, sym)
	}
	s.last = req
	return s.send(a, req, syms)
}

func (s *script) send(a *args, req *wire.ShardRequest, syms []string) string {
	if name := a.keys["hold"]; name != "" {
		var data []byte
		s.group.held = &data
		s.it.Do(context.Background(), req)
		s.held[name] = data
		return "held"
	}
	reply, err := s.it.Do(context.Background(), req)
	switch {
	case err != nil:
		return "failed: " + err.Error()
	case a.has("lost"):
		return "lost"
	}
	return s.reply(reply, req, syms)
}

func (s *script) query(a *args) string {
	q := &wire.ShardQuery{Shard: uint32(s.shard)}
	limit := uint32(a.num("limit", 0))
	switch a.word(0) {
	case "lookup":
		q.Query = &wire.ShardQuery_Lookup{Lookup: &wire.Lookup{Dir: a.id(1), Name: a.word(2)}}
	case "stat":
		st := &wire.Stat{}
		for i := range a.words[1:] {
			st.Ids = append(st.Ids, a.id(i+1))
		}
		q.Query = &wire.ShardQuery_Stat{Stat: st}
	case "ls":
		q.Query = &wire.ShardQuery_ReadDir{ReadDir: &wire.ReadDir{
			Dir: a.id(1), Limit: limit, Attrs: a.has("attrs"),
		}}
	case "spans":
		q.Query = &wire.ShardQuery_GetSpans{GetSpans: &wire.GetSpans{
			File: a.id(1), Offset: a.num("at", 0), Length: a.num("length", 0),
			Cookie: s.cookie(a, a.id(1)),
		}}
	case "transient":
		q.Query = &wire.ShardQuery_ListTransient{ListTransient: &wire.ListTransient{
			After: s.id(a.keys["after"]), Limit: limit, Due: a.has("due"),
			DueBefore: a.timeOf("before"),
		}}
	case "snapshots":
		q.Query = &wire.ShardQuery_ListSnapshots{ListSnapshots: &wire.ListSnapshots{
			Dir: a.id(1), Limit: limit, Name: a.word(2), After: a.num("after", 0),
		}}
	case "dirs":
		q.Query = &wire.ShardQuery_ListDirs{ListDirs: &wire.ListDirs{
			Due: a.has("due"), Limit: limit, After: s.id(a.keys["after"]),
		}}
	case "disk":
		f := &wire.FilesOnDisk{Limit: limit, After: s.id(a.keys["after"])}
		fmt.Sscan(a.word(1), &f.Disk)
		q.Query = &wire.ShardQuery_FilesOnDisk{FilesOnDisk: f}
	case "count":
		q.Query = &wire.ShardQuery_ShardStat{ShardStat: &wire.ShardStat{}}
	case "check":
		q.Query = &wire.ShardQuery_CheckShard{CheckShard: &wire.CheckShard{}}
	default:
		s.t.Fatalf("unknown command %q", a.words)
	}
	ans, err := s.it.Query(context.Background(), q)
	if err != nil {
		return "failed: " + err.Error()
	}
	if ans.Error != nil {
		return s.error(ans.Error)
	}
	return s.answer(ans, a)
}

func (s *script) answer(ans *wire.ShardAnswer, a *args) string {
	var b strings.Builder
	end := func(end bool) {
		if !end {
			b.WriteString("more\n")
		}
	}
	switch x := ans.Answer.(type) {
	case *wire.ShardAnswer_Lookup:
		b.WriteString(s.entry(x.Lookup) + "\n")
	case *wire.ShardAnswer_Stat:
		for _, at := range x.Stat.Attrs {
			b.WriteString(s.attr(at) + "\n")
		}
	case *wire.ShardAnswer_ReadDir:
		for _, e := range x.ReadDir.Entries {
			b.WriteString(s.entry(e) + "\n")
		}
		end(x.ReadDir.End)
	case *wire.ShardAnswer_GetSpans:
		s.spans(&b, x.GetSpans)
	case *wire.ShardAnswer_ListTransient:
		for _, f := range x.ListTransient.Files {
			fmt.Fprintf(&b, "%s deadline=%s size=%d expired=%v dir=%s name=%q\n", s.sym(f.Id),
				s.time(f.Deadline), f.Size, f.Expired, s.sym(f.Dir), f.Name)
		}
		end(x.ListTransient.End)
	case *wire.ShardAnswer_ListSnapshots:
		for _, e := range x.ListSnapshots.Edges {
			kind := "past"
			if e.Current {
				kind = "current"
			} else if e.Target == 0 {
				kind = "removed"
			}
			fmt.Fprintf(&b, "%s  %s  time=%s %s owned=%v\n",
				e.Name, s.sym(e.Target), s.time(e.Time), kind, e.Owned)
		}
		end(x.ListSnapshots.End)
	case *wire.ShardAnswer_ListDirs:
		s.idList(&b, x.ListDirs.Ids)
		end(x.ListDirs.End)
	case *wire.ShardAnswer_FilesOnDisk:
		s.idList(&b, x.FilesOnDisk.Files)
		end(x.FilesOnDisk.End)
	case *wire.ShardAnswer_ShardStat:
		c := x.ShardStat
		fmt.Fprintf(&b, "directories=%d files=%d transient=%d edges=%d snapshots=%d spans=%d "+
			"blocks=%d sessions=%d\n", c.Directories, c.Files, c.Transient, c.Edges,
			c.SnapshotEdges, c.Spans, c.Blocks, c.Sessions)
	case *wire.ShardAnswer_CheckShard:
		for _, f := range x.CheckShard.Faults {
			fmt.Fprintf(&b, "I%d: %s\n", f.Invariant, s.rename(f.Text))
		}
		if len(x.CheckShard.Faults) == 0 {
			b.WriteString("all hold\n")
		}
	}
	if b.Len() == 0 {
		return "nothing"
	}
	return b.String()
}

func (s *script) idList(b *strings.Builder, ids []uint64) {
	for _, id := range ids {
		b.WriteString(s.sym(id) + "\n")
	}
}

func (s *script) entry(e *wire.Entry) string {
	if e.Hash != eggs.NameHash(e.Name) {
		s.t.Errorf("%q: wrong hash", e.Name)
	}
	name := e.Name
	if !utf8.ValidString(name) {
		name = strconv.QuoteToASCII(name)
	}
	out := fmt.Sprintf("%s  %s  time=%s", name, s.sym(e.Target), s.time(e.Time))
	if e.Attr != nil {
		out += "  " + s.attr(e.Attr)
	}
	return out
}

func (s *script) attr(at *wire.Attr) string {
	if at.Id == 0 {
		return "nothing there"
	}
	out := fmt.Sprintf("%s mode=%o", s.sym(at.Id), at.Mode)
	add := func(when bool, format string, args ...any) {
		if when {
			out += fmt.Sprintf(" "+format, args...)
		}
	}
	add(at.Uid != 0 || at.Gid != 0, "uid=%d gid=%d", at.Uid, at.Gid)
	add(!eggs.InodeID(at.Id).IsDir(), "size=%d", at.Size)
	add(true, "mtime=%s ctime=%s", s.time(at.Mtime), s.time(at.Ctime))
	add(at.Atime != at.Mtime, "atime=%s", s.time(at.Atime))
	add(at.Owner != 0, "owner=%s", s.sym(at.Owner))
	add(len(at.Symlink) > 0, "-> %s", at.Symlink)
	var names []string
	for n := range at.Xattrs {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		add(true, "%s=%q", n, cutShort(string(at.Xattrs[n])))
	}
	if p := at.Policies; p != nil {
		add(p.Snapshot != nil, "keep=%v", time.Duration(p.GetSnapshot().GetKeepForNs()))
		add(p.Span != nil, "spans=%d", len(p.GetSpan().GetClasses()))
		add(p.Stripe != nil, "cell=%d", p.GetStripe().GetCellSize())
		add(p.Inline != nil, "inline=%d", p.GetInline().GetMaxSize())
	}
	add(at.Transient, "transient")
	add(at.Removed, "removed")
	return out
}

func cutShort(s string) string {
	if len(s) > 20 {
		return s[:20] + "…"
	}
	return s
}

func (s *script) spans(b *strings.Builder, x *wire.Spans) {
	fmt.Fprintf(b, "size=%d\n", x.Size)
	n := 0
	for _, sp := range x.Spans {
		fmt.Fprintf(b, "at=%d size=%d", sp.Offset, sp.Size)
		if len(sp.Locations) == 0 {
			fmt.Fprintf(b, " inline=%q", cutShort(string(sp.Inline)))
		}
		for _, l := range sp.Locations {
			fmt.Fprintf(b, " %d+%d", l.D, l.P)
			for _, k := range l.Blocks {
				fmt.Fprintf(b, " %d:%s", k.Disk, block(k.Id))
				c := x.Read[n]
				n++
				if c.Block != k.Id || c.Disk != k.Disk ||
					!s.key.Blocks().CheckRead(blockCert(c), c.Mac) {
					s.t.Error("a read certificate is not valid")
				}
			}
		}
		b.WriteString("\n")
	}
	if n != len(x.Read) {
		s.t.Error("read certificates without blocks")
	}
}
