package arch

// Rule says what one room may import of this module. Test files are free.
type Rule struct {
	Room   string   // folder, from the module's root; "x/..." covers what is below x
	May    []string // folders; "*" is every room but fuse and the commands
	Reason string
}

// Rules is the import table. A new arrow is a one-line diff here, with its reason.
var Rules = []Rule{
	{"eggs", nil, "the words: standard library only"},
	{"internal/disk", []string{"eggs"}, "one disk's folder: the words, the standard library and x/sys"},
	{"internal/auth", []string{"eggs"}, "keys know no protocol"},
	{"internal/arch", nil, "the rules know nobody"},
	{"internal/mutant", nil, "planted bugs, off but in builds with the tag mutants"},
	{"internal/fstest", []string{"eggs", "client", "wire"}, "a file system in memory, for tests"},
	{"wire", []string{"eggs"}, "what crosses a socket or enters a log"},
	{"erasure", []string{"eggs"}, "arithmetic only"},
	{"raftgroup", []string{"eggs", "wire", "internal/mutant"}, "a group does not know what it replicates"},
	{"gossip", []string{"eggs", "wire"}, "a hint, never an owner"},
	{"raftshard", []string{"eggs", "wire", "raftgroup", "internal/auth"}, "knows no other shard"},
	{"cdc", []string{"eggs", "wire", "raftgroup", "internal/mutant"}, "talks to shards through its own interface"},
	{"blockd", []string{"eggs", "wire", "internal/auth", "internal/disk"}, "knows no metadata"},
	{
		"client",
		[]string{"eggs", "wire", "erasure", "internal/auth", "internal/mutant"},
		"servers and client never meet",
	},
	{"client/clienttest", []string{"*"}, "a cluster in memory, for tests"},
	{"upkeep", []string{"eggs", "wire", "client"}, "an ordinary user, no back door"},
	{"gateway/...", []string{"eggs", "wire", "client"}, "a door on client only"},
	{"fuse", []string{"eggs", "client", "internal/mutant"}, "nobody above client sees wire"},
	{"node", []string{"*"}, "the only room that knows all the others"},
	{"cmd/eggsnode", []string{"node", "eggs"}, "flags, Config, Start, signal, Close"},
	{"cmd/eggsfuse", []string{"fuse", "client", "eggs"}, "flags, Config, Mount, signal"},
	{"cmd/eggs", []string{"client", "upkeep", "eggs", "wire"}, "one file a verb"},
	{"cmd/eggsjepsen", []string{"jepsen/...", "eggs", "internal/mutant"}, "runs the harness"},
	{"jepsen/...", []string{"client", "eggs", "jepsen/..."}, "a black box on the real binaries"},
}

// Limits of size. A longer file is more than one thing; a longer function is
// read twice; a longer line is not read. Generated files and tests are excepted,
// tables may be listed in Long with a reason.
const (
	MaxFileLines = 600
	MaxFuncLines = 90
	MaxColumns   = 120
)

// Long lists what may be longer, with the reason.
var Long = map[string]string{}

// Pure lists files, as path patterns, that run on every replica and must not
// look at a clock, at chance or at the environment.
var Pure = []string{
	"raftshard/apply*.go", "raftshard/file.go", "raftshard/dir.go", "raftshard/edge.go",
	"raftshard/span.go", "raftshard/sweep.go", "raftshard/fence.go", "raftgroup/session.go",
	"cdc/apply*.go", "cdc/machine*.go",
}
