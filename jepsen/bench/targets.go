package main

const (
	mibToMB = 1.048576
	gbInMiB = 1e9 / (1 << 20)
)

// targets are the promises, by the keys of the rows that they judge. What the disk takes is measured in the
// same run: sequential writes of a plain folder with fsync, and its cold reads.
var targets = []Target{
	{Key: "start.three.again.writable", Op: "<", Limit: 0.8},
	{Key: "start.one.first", Op: "<", Limit: 0.3},
	{Key: "start.one.again", Op: "<", Limit: 0.3},
	{Key: "idle.cpu", Op: "≤", Limit: 10},
	{Key: "idle.memory", Op: "≤", Limit: 300},

	{Key: "library.shard.create:p50", Op: "<", Limit: 2},
	{Key: "library.shard.create:p99", Op: "<", Limit: 10},
	{Key: "library.1k.256.create", Op: "≥", Limit: 6000},
	{Key: "library.1k.256.create:cpu", Op: "≤", Limit: 0.35},
	{Key: "library.1k.16.mkdir", Op: "≥", Limit: 2000},
	{Key: "library.half.list", Op: "≥", Limit: 100_000},
	{Key: "library.files.list", Op: "≥", Limit: 200_000},
	{Key: "mount.half.names", Op: "≥", Limit: 100_000},
	{Key: "mount.files.names", Op: "≥", Limit: 200_000},

	{Key: "mount.1k.1.create:cpu", Op: "≤", Limit: 0.8},
	{Key: "mount.1k.16.create:cpu", Op: "≤", Limit: 0.8},
	{Key: "mount.1k.1.create:p50", Op: "≤", Limit: 1.8},
	{Key: "mount.1k.1.create", Op: "≥", Times: 1, Of: "juicefs.1k.1.create", Say: "JuiceFS"},
	{Key: "mount.1k.16.create", Op: "≥", Times: 1, Of: "loopback.1k.16.create", Say: "loopback"},
	{Key: "mount.1k.16.create", Op: "≥", Times: 2.5, Of: "juicefs.1k.16.create", Say: "JuiceFS"},
	{Key: "mount.1k.16.create", Op: "≥", Times: 6, Of: "seaweedfs.1k.16.create", Say: "SeaweedFS"},
	{Key: "mount.cold.1.stat", Op: "≥", Times: 0.8, Of: "loopback.cold.1.stat", Say: "loopback"},
	{Key: "mount.cold.16.stat", Op: "≥", Times: 0.8, Of: "loopback.cold.16.stat", Say: "loopback"},
	{Key: "mount.1k.16.mkdir", Op: "≥", Limit: 2000},

	{Key: "library.large.1.write", Op: "≥", Times: 0.57, Of: "plain.large.1.write", Say: "disk (85 % / 1.5)"},
	{Key: "library.large.4.write", Op: "≥", Times: 0.57, Of: "plain.large.4.write", Say: "disk (85 % / 1.5)"},
	{Key: "mount.large.1.write", Op: "≥", Times: 0.57, Of: "plain.large.1.write", Say: "disk (85 % / 1.5)"},
	{Key: "mount.large.4.write", Op: "≥", Times: 0.57, Of: "plain.large.4.write", Say: "disk (85 % / 1.5)"},
	{Key: "mount.large.1.write:cpu", Op: "≤", Limit: 4},
	{Key: "library.large.1.read", Op: "≥", Times: 0.85, Of: "plain.large.1.read", Say: "disk"},
	{
		Key: "mount.large.1.read", Op: "≥", Times: 0.85, Of: "plain.large.1.read", Or: "loopback.large.1.read",
		Say: "disk or loopback, the lower",
	},
	{Key: "mount.large.1.reread", Op: "≥", Times: 0.9, Of: "loopback.large.1.reread", Say: "loopback"},
	{Key: "mount.large.1.random", Op: "≥", Times: 0.5, Of: "plain.large.1.random", Say: "plain folder"},
	{Key: "mount.large.4.random", Op: "≥", Times: 0.5, Of: "plain.large.4.random", Say: "plain folder"},
	{Key: "library.large:memory", Op: "<", Limit: 512},
	{Key: "mount.large:memory", Op: "<", Limit: 512},

	{Key: "failover.SIGKILL", Op: "<", Limit: 0.5},
	{Key: "failover.SIGSTOP", Op: "<", Limit: 3},
	{Key: "failover.cut", Op: "<", Limit: 3},

	{Key: "large.after", Op: "≥", Times: 0.8, Of: "large.before", Say: "at first"},
	{Key: "large.memory", Op: "<", Limit: 300},
}
