package check

import (
	"eggsfs/jepsen/history"
)

// Files checks that files are whole or not there. Events:
//
//	write  of file Name; Sum and Size are of its content
//	read   ok: what was read; Fail with "does not exist": no such name
//	unlink no read of Name begins after it, and final does not look
//	final  as read, when everything has come to rest
//
// A file whose write was acknowledged is there from then on, one whose write failed
// never is, one of unknown outcome is whole or not there; nothing is seen before its
// write began. No name is written twice.
func Files(check string, events []history.Event) []Verdict {
	writes := map[string]history.Event{}
	for _, e := range events {
		if e.Op == "write" {
			writes[e.Name] = e
		}
	}
	final := map[string]bool{}
	for _, e := range events {
		if e.Op == "unlink" {
			final[e.Name] = true
		}
	}
	reads := 0
	for _, e := range events {
		if e.Op != "read" && e.Op != "final" {
			continue
		}
		w, written := writes[e.Name]
		pair := []history.Event{w, e}
		if e.Op == "final" && e.Outcome != history.Unknown {
			final[e.Name] = true
		}
		switch {
		case e.Outcome == history.Unknown:
		case e.Outcome == history.Fail && e.Kind == "does not exist":
			if written && w.Outcome == history.OK && w.End < e.Begin {
				return []Verdict{bad(check, pair, "file %s was acknowledged and is gone", e.Name)}
			}
		case e.Outcome == history.Fail:
			if e.Op == "final" {
				return []Verdict{bad(check, pair, "file %s cannot be read when all is healed: %s", e.Name, e.Err)}
			}
		case !written:
			return []Verdict{bad(check, pair[1:], "file %s is there and nobody wrote it", e.Name)}
		case e.End < w.Begin:
			return []Verdict{bad(check, pair, "file %s was seen before it was written", e.Name)}
		case w.Outcome == history.Fail:
			return []Verdict{bad(check, pair, "file %s is there, though its write failed for sure", e.Name)}
		case e.Size != w.Size || e.Sum != w.Sum:
			return []Verdict{bad(check, pair, "file %s has other bytes than were written", e.Name)}
		default:
			reads++
		}
	}
	acked := 0
	for name, w := range writes {
		if w.Outcome != history.OK {
			continue
		}
		acked++
		if !final[name] {
			return []Verdict{bad(check, []history.Event{w}, "file %s was not looked at in the end", name)}
		}
	}
	return []Verdict{good(check, "%d acknowledged files are there and whole, %d of %d writes are of unknown "+
		"outcome, %d reads were right", acked, len(writes)-known(valuesOf(writes)), len(writes), reads)}
}

func valuesOf(m map[string]history.Event) []history.Event {
	var all []history.Event
	for _, e := range m {
		all = append(all, e)
	}
	return all
}

// Conserved checks that things that move are neither lost nor doubled. Events:
//
//	init   Name is Value, somewhere
//	final  List is what directory Key holds in the end
func Conserved(check string, events []history.Event) []Verdict {
	want, where := map[string]history.Event{}, map[string]history.Event{}
	finals := 0
	for _, e := range events {
		switch e.Op {
		case "init":
			want[e.Name] = e
		case "final":
			finals++
			if e.Outcome != history.OK {
				return []Verdict{bad(check, []history.Event{e}, "directory %s could not be listed in the end", e.Key)}
			}
			for name, id := range e.List {
				w, ok := want[name]
				switch at, twice := where[name]; {
				case twice:
					return []Verdict{bad(check, []history.Event{at, e}, "%s is in two directories, %s and %s",
						name, at.Key, e.Key)}
				case !ok:
					return []Verdict{bad(check, []history.Event{e}, "%s is in %s and was never made", name, e.Key)}
				case w.Value != id:
					return []Verdict{bad(check, []history.Event{w, e}, "%s was %x and is %x", name, w.Value, id)}
				}
				where[name] = e
			}
		}
	}
	for name, w := range want {
		if _, ok := where[name]; !ok {
			return []Verdict{bad(check, append(moves(events, name), w), "%s is in no directory any more", name)}
		}
	}
	if finals == 0 {
		return []Verdict{bad(check, nil, "nobody looked at the directories in the end")}
	}
	return []Verdict{good(check, "%d files in %d directories, none lost, none doubled, after %d moves of which %d "+
		"are of unknown outcome", len(want), finals, len(events)-len(want)-finals, len(events)-known(events))}
}

func moves(events []history.Event, name string) []history.Event {
	var some []history.Event
	for _, e := range events {
		if e.Name == name && e.Op != "init" {
			some = append(some, e)
		}
	}
	return some
}

// Chase checks that a rename never shows no name at all. A file moves through numbered
// directories, each once. Events, of op chase: a look at directory Other came to nothing,
// and after it the move out of it had begun if Value > Other.
func Chase(check string, events []history.Event) []Verdict {
	looks, misses := 0, 0
	for _, e := range events {
		if e.Op != "chase" || e.Outcome != history.OK {
			continue
		}
		looks++
		if e.Flag {
			continue // found
		}
		if misses++; e.Value <= e.Other {
			return []Verdict{bad(check, append(moves(events, e.Name), e), "%s is not in directory %d, where it "+
				"had come to and which it had not begun to leave", e.Name, e.Other)}
		}
	}
	return []Verdict{good(check, "%d looks at moving files, %d at a moment after the move: none found no name",
		looks, misses)}
}

// Tree checks what a walk of a tree found. Events, of op final: directory Key, its
// id Value, the owner that it names Other, its parent in the walk Sum; List is its
// directories and files. All ids are there once, and every owner is the parent. A directory
// that was made, by mkdir with its id as Value, is there unless rmdir of it may have happened.
func Tree(check string, events []history.Event) []Verdict {
	seen, made := map[uint64]history.Event{}, map[uint64]history.Event{}
	dirs := 0
	for _, e := range events {
		if e.Op == "mkdir" && e.Outcome == history.OK {
			made[e.Value] = e
		}
	}
	for _, e := range events {
		if e.Op == "rmdir" && e.Outcome != history.Fail {
			delete(made, e.Value)
		}
		if e.Op != "final" {
			continue
		}
		if e.Outcome != history.OK {
			return []Verdict{bad(check, []history.Event{e}, "directory %s could not be listed in the end", e.Key)}
		}
		dirs++
		if e.Other != e.Sum {
			return []Verdict{bad(check, []history.Event{e}, "directory %s is in %x, and says that it is in %x",
				e.Key, e.Sum, e.Other)}
		}
		for name, id := range e.List {
			if at, twice := seen[id]; twice {
				return []Verdict{bad(check, []history.Event{at, e}, "%x has two names, in %s and %s in %s",
					id, at.Key, name, e.Key)}
			}
			seen[id] = e
		}
	}
	if dirs == 0 {
		return []Verdict{bad(check, nil, "nobody walked the tree in the end")}
	}
	for id, e := range made {
		if _, ok := seen[id]; !ok {
			return []Verdict{bad(check, []history.Event{e}, "directory %x was made, not removed, and is gone", id)}
		}
	}
	return []Verdict{good(check, "%d directories hold %d things, each once, every owner is the parent",
		dirs, len(seen))}
}

// Replicas checks that replicas of a group that applied the same have the same state.
// Events, of op hash: group Key at index Other has hash Value on node Name.
func Replicas(check string, events []history.Event) []Verdict {
	type at struct {
		group string
		index uint64
	}
	first := map[at]history.Event{}
	compared := 0
	for _, e := range events {
		if e.Op != "hash" || e.Outcome != history.OK {
			continue
		}
		k := at{e.Key, e.Other}
		switch f, ok := first[k]; {
		case !ok:
			first[k] = e
		case f.Value != e.Value:
			return []Verdict{bad(check, []history.Event{f, e}, "group %s differs between %s and %s at entry %d",
				e.Key, f.Name, e.Name, e.Other)}
		case f.Name != e.Name:
			compared++
		}
	}
	if compared == 0 {
		return []Verdict{bad(check, nil, "no two replicas were seen at the same entry")}
	}
	return []Verdict{good(check, "%d times two replicas were seen at the same entry, always with the same state",
		compared)}
}
