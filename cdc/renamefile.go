package cdc

import (
	"eggsfs/eggs"
	"eggsfs/wire"
)

// renameFile locks the old name, makes the new one, and lets the old one go:
// for a moment there are two, never none. See "rename" in doc.go.
func (s *steps) renameFile(op *wire.RenameFile) (*wire.CdcReply, bool) {
	target, no, ok := s.lock(op.FromDir, op.From, op.Target)
	if !ok || no != nil {
		return &wire.CdcReply{Error: no}, ok
	}
	if eggs.InodeID(target).IsDir() {
		no := refusal("cdc.RenameFile", eggs.CrossDir, op.FromDir, op.From,
			"a directory is not moved to another parent")
		return s.unlock(op.FromDir, op.From, target, no)
	}
	made, no, ok := s.do(stageSecond, op.ToDir, &wire.Verb{Verb: &wire.Verb_CreateEdge{
		CreateEdge: &wire.CreateEdge{
			Dir: op.ToDir, Name: op.To, Target: target, ReplaceFile: !op.NoReplace,
		},
	}})
	switch {
	case !ok:
		return nil, false
	case no != nil:
		if eggs.Kind(no.Kind) == eggs.Exist && !op.NoReplace {
			// A file would have been replaced, so a directory has the name.
			no = refusal("cdc.RenameFile", eggs.IsDir, op.ToDir, op.To, "")
		}
		return s.unlock(op.FromDir, op.From, target, no)
	}
	no, ok = s.moved(op.FromDir, op.From, target)
	seen := made.GetEdgeSeen()
	return &wire.CdcReply{
		Error: no, Id: target, Time: seen.GetTime(), Replaced: seen.GetReplaced(),
	}, ok
}
