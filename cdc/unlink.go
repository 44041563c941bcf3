package cdc

import "eggsfs/wire"

// hardUnlink forgets an owned past version whose file lives in another shard,
// and gives the file to the collector. See "hard unlink" in doc.go.
func (s *steps) hardUnlink(op *wire.HardUnlink) (*wire.CdcReply, bool) {
	_, no, ok := s.do(stageFirst, op.Dir, &wire.Verb{Verb: &wire.Verb_RemoveEdge{
		RemoveEdge: &wire.RemoveEdge{
			Dir: op.Dir, Name: op.Name, Time: op.Time, Target: op.Target,
		},
	}})
	if !ok || no != nil {
		return &wire.CdcReply{Error: no}, ok
	}
	no, ok = s.must(stageLast, op.Target, &wire.Verb{Verb: &wire.Verb_MakeTransient{
		MakeTransient: &wire.MakeTransient{File: op.Target, Dir: op.Dir, Name: op.Name},
	}})
	return &wire.CdcReply{Error: no, Id: op.Target}, ok
}
