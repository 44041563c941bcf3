package cdc

import (
	"slices"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// validate judges a request by itself: the same on the leader before anything
// is proposed, and in apply, whatever the state. It answers nil when the request makes sense.
func validate(r *wire.CdcRequest) *wire.Error {
	switch op := r.GetOp().(type) {
	case *wire.CdcRequest_OpenSession:
		return nil
	case *wire.CdcRequest_Mkdir:
		return validateName("cdc.Mkdir", op.Mkdir.GetDir(), op.Mkdir.GetName())
	case *wire.CdcRequest_Rmdir:
		return validateRmdir(op.Rmdir)
	case *wire.CdcRequest_RenameFile:
		return validateRename(op.RenameFile)
	case *wire.CdcRequest_HardUnlink:
		return validateUnlink(op.HardUnlink)
	case *wire.CdcRequest_PutNode, *wire.CdcRequest_PutDisk, *wire.CdcRequest_PutReplicas,
		*wire.CdcRequest_RemoveNode, *wire.CdcRequest_PutCluster:
		return validateFact(r)
	}
	return refusal("cdc.Do", eggs.Invalid, 0, "", "no operation, or one of a later version")
}

// validateName judges a directory and a name in it.
func validateName(op string, dir uint64, name string) *wire.Error {
	if id := eggs.InodeID(dir); !id.Valid() || !id.IsDir() {
		return refusal(op, eggs.NotDir, dir, name, "")
	}
	if err := eggs.CheckName(name); err != nil {
		kind := eggs.KindOf(err)
		if len(name) > 32 { // an error names what it can't hold by its beginning
			name = name[:32]
		}
		return refusal(op, kind, dir, name, "")
	}
	return nil
}

func validateRmdir(op *wire.Rmdir) *wire.Error {
	if e := validateName("cdc.Rmdir", op.GetDir(), op.GetName()); e != nil {
		return e
	}
	if op.Target != 0 && !eggs.InodeID(op.Target).IsDir() {
		return refusal("cdc.Rmdir", eggs.NotDir, op.Dir, op.Name, "")
	}
	if op.Target == uint64(eggs.Root) {
		return refusal("cdc.Rmdir", eggs.Invalid, op.Dir, op.Name, "the root has no name")
	}
	return nil
}

func validateRename(op *wire.RenameFile) *wire.Error {
	if e := validateName("cdc.RenameFile", op.GetFromDir(), op.GetFrom()); e != nil {
		return e
	}
	if e := validateName("cdc.RenameFile", op.GetToDir(), op.GetTo()); e != nil {
		return e
	}
	if eggs.InodeID(op.Target).IsDir() {
		return refusal("cdc.RenameFile", eggs.CrossDir, op.FromDir, op.From,
			"a directory is not moved to another parent")
	}
	if op.FromDir == op.ToDir {
		return refusal("cdc.RenameFile", eggs.Invalid, op.FromDir, op.From,
			"a rename within one directory is its shard's")
	}
	return nil
}

func validateUnlink(op *wire.HardUnlink) *wire.Error {
	if e := validateName("cdc.HardUnlink", op.GetDir(), op.GetName()); e != nil {
		return e
	}
	if t := eggs.InodeID(op.Target); !t.Valid() || t.IsDir() || op.Time == 0 {
		return refusal("cdc.HardUnlink", eggs.Invalid, op.Dir, op.Name,
			"no edge to a directory is owned; target and time are needed")
	}
	return nil
}

func validateFact(r *wire.CdcRequest) *wire.Error {
	bad := func(text string) *wire.Error {
		return refusal("cdc.Facts", eggs.Invalid, 0, "", text)
	}
	switch op := r.Op.(type) {
	case *wire.CdcRequest_PutNode:
		n := op.PutNode.GetNode()
		if n.GetId() == 0 || op.PutNode.Mask > 7 || len(n.GetAddress()) > maxFactText ||
			len(n.GetDomain()) > maxFactText {
			return bad("a node needs an id, a mask of bits 1, 2 and 4, and short texts")
		}
	case *wire.CdcRequest_RemoveNode:
		if op.RemoveNode.GetId() == 0 {
			return bad("no node named")
		}
	case *wire.CdcRequest_PutDisk:
		if op.PutDisk.GetDisk().GetId() == 0 || op.PutDisk.Mask > 31 ||
			len(op.PutDisk.Disk.Why) > maxFactText {
			return bad("a disk needs an id, a mask of bits 1 to 16, and short texts")
		}
	case *wire.CdcRequest_PutReplicas:
		return validateReplicas(op.PutReplicas, bad)
	case *wire.CdcRequest_PutCluster:
		if op.PutCluster == nil || op.PutCluster.Replicas > maxVoters {
			return bad("a cluster has 1 to 9 replicas of each group")
		}
	}
	return nil
}

// validateReplicas wants each node in one list, but for leaving ones that vote still; a
// voter that stays; and as leader one that stays.
func validateReplicas(op *wire.PutReplicas, bad func(string) *wire.Error) *wire.Error {
	switch {
	case op.GetGroup() >= eggs.Groups:
		return bad("no such group")
	case len(op.GetVoters()) == 0:
		return bad("a group needs a voter")
	case len(op.Voters) > maxVoters || len(op.Learners) > maxVoters || len(op.Leaving) > 2*maxVoters:
		return bad("too many replicas of one group")
	}
	role := map[uint64]string{0: "none"}
	for _, list := range [][]uint64{op.Voters, op.Learners} {
		for _, id := range list {
			if role[id] != "" {
				return bad("a node is named twice, or has no id")
			}
			role[id] = "holds"
		}
	}
	for _, id := range op.Leaving {
		if r := role[id]; r == "none" || r == "leaving" || slices.Contains(op.Learners, id) {
			return bad("a leaving node is named twice, or is on its way in, or has no id")
		}
		role[id] = "leaving"
	}
	stays := func(id uint64) bool { return role[id] == "holds" }
	if !slices.ContainsFunc(slices.Concat(op.Voters, op.Learners), stays) {
		return bad("every voter leaves")
	}
	if op.Leader != 0 && !stays(op.Leader) {
		return bad("the leader named holds no replica that stays")
	}
	return nil
}
