// Package raftshard is one of the 256 metadata shards: the directories, files
// and spans whose ids hash to its ShardID.
package raftshard
