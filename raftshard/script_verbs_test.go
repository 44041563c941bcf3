package raftshard

import (
	"fmt"
	"hash/crc32"
	"strings"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

// verb reads a line of a request; sym is what its new id is to be called.
func (s *script) verb(line string) (v *wire.Verb, sym string) {
	if before, rest, ok := strings.Cut(line, " = "); ok && !strings.Contains(before, " ") {
		sym, line = before, rest
	}
	a := s.parse(line)
	if v := s.clientVerb(a); v != nil {
		return v, sym
	}
	if v := s.spanVerb(a); v != nil {
		return v, sym
	}
	if v := s.sweepVerb(a); v != nil {
		return v, sym
	}
	if v := s.stepVerb(a); v != nil {
		return v, sym
	}
	s.t.Fatalf("unknown verb %q", line)
	return nil, ""
}

func (s *script) cookie(a *args, file uint64) []byte {
	if a.keys["cookie"] == "bad" {
		return make([]byte, auth.MACBytes)
	}
	return s.cookies[file]
}

func (s *script) clientVerb(a *args) *wire.Verb {
	switch a.word(0) {
	case "none":
		return &wire.Verb{}
	case "open":
		return &wire.Verb{Verb: &wire.Verb_OpenSession{OpenSession: &wire.OpenSession{Client: 1}}}
	case "lease":
		return &wire.Verb{Verb: &wire.Verb_LeaseIds{LeaseIds: &wire.LeaseIds{
			Count: uint32(a.num("count", 1)),
		}}}
	case "construct":
		return &wire.Verb{Verb: &wire.Verb_Construct{Construct: &wire.Construct{
			Id: a.id(1), Mode: uint32(a.num("mode", 0o644)), Uid: uint32(a.num("uid", 0)),
			Gid: uint32(a.num("gid", 0)), Mtime: a.timeOf("mtime"), Atime: a.timeOf("atime"),
			Dir: s.id(a.keys["dir"]), Name: a.keys["name"], LifeNs: int64(a.num("life", 0)),
		}}}
	case "link":
		return &wire.Verb{Verb: &wire.Verb_LinkFile{LinkFile: &wire.LinkFile{
			File: a.id(1), Cookie: s.cookie(a, a.id(1)), Dir: a.id(2), Name: a.word(3),
			IfAbsent: a.has("if-absent"),
		}}}
	case "reserve":
		return &wire.Verb{Verb: &wire.Verb_Reserve{Reserve: &wire.Reserve{
			Dir: a.id(1), Name: a.word(2),
		}}}
	case "release":
		return &wire.Verb{Verb: &wire.Verb_Release{Release: &wire.Release{
			Dir: a.id(1), Name: a.word(2),
		}}}
	case "scrap":
		return &wire.Verb{Verb: &wire.Verb_Scrap{Scrap: &wire.Scrap{
			File: a.id(1), Cookie: s.cookie(a, a.id(1)),
		}}}
	case "setattr":
		return s.setAttrVerb(a)
	case "setxattr":
		return &wire.Verb{Verb: &wire.Verb_SetXattr{SetXattr: &wire.SetXattr{
			Id: a.id(1), Cookie: s.cookie(a, a.id(1)), Name: a.word(2),
			Value:  []byte(strings.Repeat(a.word(3), int(a.num("times", 1)))),
			Remove: a.has("remove"), Create: a.has("create"), Replace: a.has("replace"),
		}}}
	case "policy":
		return &wire.Verb{Verb: &wire.Verb_SetPolicy{SetPolicy: &wire.SetPolicy{
			Dir: a.id(1), Policies: policiesArg(a), Clear: uint32(a.num("clear", 0)),
		}}}
	case "symlink":
		return &wire.Verb{Verb: &wire.Verb_Symlink{Symlink: &wire.Symlink{
			Dir: a.id(1), Name: a.word(2), Target: []byte(a.word(3)), Mtime: a.timeOf("mtime"),
		}}}
	case "unlink":
		return &wire.Verb{Verb: &wire.Verb_Unlink{Unlink: &wire.Unlink{
			Dir: a.id(1), Name: a.word(2), Target: s.id(a.keys["target"]),
		}}}
	case "undelete":
		return &wire.Verb{Verb: &wire.Verb_Undelete{Undelete: &wire.Undelete{
			Dir: a.id(1), Name: a.word(2), Time: a.timeOf("time"), To: a.word(3),
			Target: s.id(a.keys["target"]),
		}}}
	case "rename":
		return &wire.Verb{Verb: &wire.Verb_Rename{Rename: &wire.Rename{
			Dir: a.id(1), From: a.word(2), To: a.word(3), NoReplace: a.has("no-replace"),
			Target: s.id(a.keys["target"]),
		}}}
	}
	return nil
}

func (s *script) setAttrVerb(a *args) *wire.Verb {
	v := &wire.SetAttr{Id: a.id(1), Cookie: s.cookie(a, a.id(1))}
	for i, k := range []string{"mode", "uid", "gid", "mtime", "atime"} {
		if _, ok := a.keys[k]; ok {
			v.Set |= 1 << i
		}
	}
	if a.has("mtime-now") {
		v.Set |= setMtimeNow
	}
	if a.has("atime-now") {
		v.Set |= setAtimeNow
	}
	v.Mode, v.Uid, v.Gid = uint32(a.num("mode", 0)), uint32(a.num("uid", 0)), uint32(a.num("gid", 0))
	v.Mtime, v.Atime = a.timeOf("mtime"), a.timeOf("atime")
	v.Set |= uint32(a.num("set", 0))
	return &wire.Verb{Verb: &wire.Verb_SetAttr{SetAttr: v}}
}

// policiesArg reads snapshot=NS cell=BYTES inline=BYTES span=SIZE, or all.
func policiesArg(a *args) *wire.Policies {
	p := &wire.Policies{}
	if a.has("all") {
		p = wire.PoliciesOf(eggs.DefaultPolicies(1, 1))
	}
	if _, ok := a.keys["snapshot"]; ok {
		p.Snapshot = &wire.SnapshotPolicy{KeepForNs: int64(a.num("snapshot", 0))}
	}
	if _, ok := a.keys["cell"]; ok {
		p.Stripe = &wire.StripePolicy{CellSize: uint32(a.num("cell", 0))}
	}
	if _, ok := a.keys["inline"]; ok {
		p.Inline = &wire.InlinePolicy{MaxSize: uint32(a.num("inline", 0))}
	}
	if _, ok := a.keys["span"]; ok {
		p.Span = &wire.SpanPolicy{Classes: []*wire.SpanClass{
			{MaxSize: a.num("span", 0), D: uint32(a.num("d", 1)), P: uint32(a.num("p", 0))},
		}}
	}
	return p
}

func (s *script) spanVerb(a *args) *wire.Verb {
	switch a.word(0) {
	case "inline":
		data := []byte(strings.Repeat(a.word(2), int(a.num("times", 1))))
		crc := crc32.Checksum(data, castagnoli)
		if a.keys["sum"] == "bad" {
			crc++
		}
		return &wire.Verb{Verb: &wire.Verb_AddInline{AddInline: &wire.AddInline{
			File: a.id(1), Cookie: s.cookie(a, a.id(1)), Offset: a.num("at", 0),
			Data: data, Crc: crc,
		}}}
	case "initiate":
		v := &wire.InitiateSpan{
			File: a.id(1), Cookie: s.cookie(a, a.id(1)), Offset: a.num("at", 0),
			Size: a.num("size", 4096), Crc: uint32(a.num("crc", 1)),
			D: uint32(a.num("d", 2)), P: uint32(a.num("p", 1)),
			Stripes: uint32(a.num("stripes", 1)), CellSize: uint32(a.num("cell", 4096)),
			Blacklist: a.list("blacklist"), Replace: a.has("replace"),
			Apart: a.list("apart"),
		}
		for i := range min(v.D+v.P, 40) {
			v.BlockCrcs = append(v.BlockCrcs, v.Crc*100+i)
		}
		if crcs := a.list("crcs"); crcs != nil {
			v.BlockCrcs = nil
			for _, c := range crcs {
				v.BlockCrcs = append(v.BlockCrcs, uint32(c))
			}
		}
		v.StripeCrcs = make([]uint32, min(v.Stripes, 100))
		return &wire.Verb{Verb: &wire.Verb_InitiateSpan{InitiateSpan: v}}
	case "certify":
		v := &wire.CertifySpan{
			File: a.id(1), Cookie: s.cookie(a, a.id(1)), Offset: a.num("at", 0),
		}
		v.Proofs = s.proofs(a, a.id(1), v.Offset, s.key.Blocks().WriteProof)
		return &wire.Verb{Verb: &wire.Verb_CertifySpan{CertifySpan: v}}
	case "swap":
		v := &wire.SwapSpan{
			File: a.id(1), Offset: a.num("at", 0), Scratch: a.id(2),
			Cookie: s.cookie(a, a.id(2)),
		}
		for _, p := range a.list("positions") {
			v.Positions = append(v.Positions, uint32(p))
		}
		for _, n := range a.list("old") {
			v.Old = append(v.Old, uint64(eggs.MakeBlockID(s.shard, n)))
		}
		return &wire.Verb{Verb: &wire.Verb_SwapSpan{SwapSpan: v}}
	}
	return nil
}

// proofs makes what the disks would answer to the last certificates for a
// span, or something like it: proofs=forged, swapped, short, or of:FILE.
func (s *script) proofs(a *args, file, offset uint64, mac func(auth.BlockCert) []byte) (out []*wire.Proof) {
	how := a.keys["proofs"]
	if of, ok := strings.CutPrefix(how, "of:"); ok {
		file, offset = s.id(of), a.num("from", 0)
	}
	for _, c := range s.certs[[2]uint64{file, offset}] {
		p := &wire.Proof{Disk: c.Disk, Block: c.Block, Mac: mac(blockCert(c))}
		if how == "none" || how == "retired" && s.Retired(eggs.DiskID(c.Disk)) {
			p.Mac = nil
		}
		if how == "forged" {
			p.Mac[0]++
		}
		out = append(out, p)
	}
	if first, ok := strings.CutPrefix(how, "guess:"); ok { // right blocks, no MAC
		n := uint64(0)
		fmt.Sscan(first, &n)
		for d := range uint64(3) {
			out = append(out, &wire.Proof{
				Disk: d + 1, Block: uint64(eggs.MakeBlockID(s.shard, n+d)), Mac: make([]byte, 16),
			})
		}
	}
	if how == "swapped" && len(out) > 1 {
		out[0], out[1] = out[1], out[0]
	}
	if how == "short" && len(out) > 0 {
		out = out[1:]
	}
	return out
}

func (s *script) sweepVerb(a *args) *wire.Verb {
	switch a.word(0) {
	case "forget":
		return &wire.Verb{Verb: &wire.Verb_RemoveSnapshotEdge{
			RemoveSnapshotEdge: &wire.RemoveSnapshotEdge{
				Dir: a.id(1), Name: a.word(2), Time: a.timeOf("time"),
				Target: s.id(a.keys["target"]), Owned: a.has("owned"),
			},
		}}
	case "condemn":
		return &wire.Verb{Verb: &wire.Verb_CondemnSpan{CondemnSpan: &wire.CondemnSpan{
			File: a.id(1),
		}}}
	case "remove-span":
		v := &wire.RemoveSpan{File: a.id(1), Offset: a.num("at", 0)}
		v.Proofs = s.proofs(a, v.File, v.Offset, s.key.Blocks().EraseProof)
		return &wire.Verb{Verb: &wire.Verb_RemoveSpan{RemoveSpan: v}}
	case "remove-file":
		return &wire.Verb{Verb: &wire.Verb_RemoveFile{RemoveFile: &wire.RemoveFile{File: a.id(1)}}}
	case "remove-dir":
		return &wire.Verb{Verb: &wire.Verb_RemoveDirectory{
			RemoveDirectory: &wire.RemoveDirectory{Dir: a.id(1)},
		}}
	}
	return nil
}

func (s *script) stepVerb(a *args) *wire.Verb {
	switch a.word(0) {
	case "create-dir":
		return &wire.Verb{Verb: &wire.Verb_CreateDirectory{CreateDirectory: &wire.CreateDirectory{
			Id: a.id(1), Owner: a.id(2), Mode: uint32(a.num("mode", 0o755)),
		}}}
	case "uncreate-dir":
		return &wire.Verb{Verb: &wire.Verb_UncreateDirectory{
			UncreateDirectory: &wire.UncreateDirectory{Id: a.id(1)},
		}}
	case "create-edge":
		return &wire.Verb{Verb: &wire.Verb_CreateEdge{CreateEdge: &wire.CreateEdge{
			Dir: a.id(1), Name: a.word(2), Target: s.id(a.keys["target"]),
			ReplaceFile: a.has("replace"),
		}}}
	case "lock":
		return &wire.Verb{Verb: &wire.Verb_LockEdge{LockEdge: &wire.LockEdge{
			Dir: a.id(1), Name: a.word(2), Target: s.id(a.keys["target"]),
		}}}
	case "unlock":
		return &wire.Verb{Verb: &wire.Verb_UnlockEdge{UnlockEdge: &wire.UnlockEdge{
			Dir: a.id(1), Name: a.word(2), Target: s.id(a.keys["target"]), Moved: a.has("moved"),
		}}}
	case "remove-owner":
		return &wire.Verb{Verb: &wire.Verb_RemoveOwner{RemoveOwner: &wire.RemoveOwner{
			Dir: a.id(1), Inherited: policiesArg(a),
		}}}
	case "restore-owner":
		return &wire.Verb{Verb: &wire.Verb_RestoreOwner{RestoreOwner: &wire.RestoreOwner{
			Dir: a.id(1), Owner: a.id(2),
		}}}
	case "remove-edge":
		return &wire.Verb{Verb: &wire.Verb_RemoveEdge{RemoveEdge: &wire.RemoveEdge{
			Dir: a.id(1), Name: a.word(2), Time: a.timeOf("time"), Target: s.id(a.keys["target"]),
		}}}
	case "make-transient":
		return &wire.Verb{Verb: &wire.Verb_MakeTransient{MakeTransient: &wire.MakeTransient{
			File: a.id(1), Dir: s.id(a.keys["dir"]), Name: a.keys["name"],
		}}}
	}
	return nil
}

// reply prints an answer and remembers what it gives.
func (s *script) reply(r *wire.ShardReply, req *wire.ShardRequest, syms []string) string {
	var b strings.Builder
	b.WriteString(s.error(r.Error))
	made := uint64(0)
	for i, res := range r.Results {
		file, offset := uint64(0), uint64(0)
		if i < len(req.Verbs) {
			switch x := req.Verbs[i].Verb.(type) {
			case *wire.Verb_InitiateSpan:
				file, offset = x.InitiateSpan.File, x.InitiateSpan.Offset
			case *wire.Verb_CondemnSpan:
				file = x.CondemnSpan.File
			}
		}
		sym := ""
		if i < len(syms) {
			sym = syms[i]
		}
		if file == 0 {
			file = made
		}
		if c := res.GetConstructed(); c != nil {
			made = c.Id
		}
		b.WriteString(s.result(res, sym, file, offset) + "\n")
	}
	if r.Error == nil && len(r.Results) == 0 {
		b.WriteString("ok\n")
	}
	return b.String()
}

func (s *script) result(r *wire.Result, sym string, file, offset uint64) string {
	give := func(id uint64) {
		if old, known := s.names[id]; sym != "" && (!known || strings.Contains(old, "#")) {
			s.name(sym, id)
		}
	}
	switch x := r.Result.(type) {
	case *wire.Result_SessionOpened:
		s.sessions[sym] = &scriptSession{id: x.SessionOpened.Session, next: 1, lowest: 1}
		return "session"
	case *wire.Result_IdsLeased:
		out := "leased"
		if n := len(x.IdsLeased.Ids); n > 10 {
			return fmt.Sprintf("leased %d", n)
		}
		for i, id := range x.IdsLeased.Ids {
			if sym != "" {
				s.name(fmt.Sprintf("%s%d", sym, i+1), id)
			}
			out += " " + s.sym(id)
		}
		return out
	case *wire.Result_Constructed:
		give(x.Constructed.Id)
		s.cookies[x.Constructed.Id] = x.Constructed.Cookie
		return fmt.Sprintf("constructed %s deadline=%s",
			s.sym(x.Constructed.Id), s.time(x.Constructed.Deadline))
	case *wire.Result_SpanInitiated:
		s.certs[[2]uint64{file, offset}] = x.SpanInitiated.Certificates
		out := "initiated"
		for _, c := range x.SpanInitiated.Certificates {
			if !s.key.Blocks().CheckWrite(blockCert(c), c.Mac) {
				s.t.Error("a certificate is not valid")
			}
			out += fmt.Sprintf(" %d:%s", c.Disk, block(c.Block))
		}
		return out
	case *wire.Result_Linked:
		return fmt.Sprintf("linked time=%s replaced=%s",
			s.time(x.Linked.Time), s.sym(x.Linked.Replaced))
	case *wire.Result_Unlinked:
		return fmt.Sprintf("unlinked %s time=%s",
			s.sym(x.Unlinked.Target), s.time(x.Unlinked.Time))
	case *wire.Result_SymlinkMade:
		give(x.SymlinkMade.Id)
		return fmt.Sprintf("symlink %s time=%s",
			s.sym(x.SymlinkMade.Id), s.time(x.SymlinkMade.Time))
	case *wire.Result_SpanCondemned:
		return s.condemned(x.SpanCondemned, file)
	case *wire.Result_EdgeSeen:
		if x.EdgeSeen.Target == 0 {
			return "seen -"
		}
		return fmt.Sprintf("seen %s time=%s replaced=%s",
			s.sym(x.EdgeSeen.Target), s.time(x.EdgeSeen.Time), s.sym(x.EdgeSeen.Replaced))
	case *wire.Result_OwnerRemoved:
		return "owner " + s.sym(x.OwnerRemoved.Owner)
	case *wire.Result_Empty:
		return "ok"
	}
	return fmt.Sprintf("? %v", r)
}

func (s *script) condemned(c *wire.SpanCondemned, file uint64) string {
	if c.None {
		return "condemned none"
	}
	out := fmt.Sprintf("condemned at=%d", c.Offset)
	if len(c.Erase) == 0 {
		return out
	}
	s.certs[[2]uint64{file, c.Offset}] = c.Erase
	for _, e := range c.Erase {
		if !s.key.Blocks().CheckErase(blockCert(e), e.Mac) {
			s.t.Error("a certificate is not valid")
		}
		out += fmt.Sprintf(" %d:%s", e.Disk, block(e.Block))
	}
	return out + " mark=" + block(c.Erase[0].Mark)
}
