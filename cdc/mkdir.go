package cdc

import "eggsfs/wire"

// mkdir makes the inode, then its edge: the moment the directory exists. When
// the edge is refused the inode is taken back. See "mkdir" in doc.go.
func (s *steps) mkdir(op *wire.Mkdir) (*wire.CdcReply, bool) {
	id := s.t.rec.Id
	no, ok := s.must(stageFirst, id, &wire.Verb{Verb: &wire.Verb_CreateDirectory{
		CreateDirectory: &wire.CreateDirectory{
			Id: id, Owner: op.Dir, Mode: op.Mode, Uid: op.Uid, Gid: op.Gid,
		},
	}})
	if !ok || no != nil {
		return &wire.CdcReply{Error: no}, ok
	}
	made, no, ok := s.do(stageSecond, op.Dir, &wire.Verb{Verb: &wire.Verb_CreateEdge{
		CreateEdge: &wire.CreateEdge{Dir: op.Dir, Name: op.Name, Target: id},
	}})
	switch {
	case !ok:
		return nil, false
	case no == nil:
		return &wire.CdcReply{Id: id, Time: made.GetEdgeSeen().GetTime()}, true
	}
	broken, ok := s.must(stageUndo, id, &wire.Verb{Verb: &wire.Verb_UncreateDirectory{
		UncreateDirectory: &wire.UncreateDirectory{Id: id},
	}})
	if broken != nil {
		no = broken
	}
	return &wire.CdcReply{Error: no}, ok
}
