package wire

import "strconv"

// Message is a generated message with the fast codec.
type Message interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

// Method names what a request asks. The numbers are frozen.
type Method uint16

// The methods, with request and answer.
const (
	MethodShard         Method = 1 // ShardRequest, ShardReply
	MethodShardQuery    Method = 2 // ShardQuery, ShardAnswer
	MethodCdc           Method = 3 // CdcRequest, CdcReply
	MethodCdcQuery      Method = 4 // CdcQuery, CdcAnswer
	MethodWatchRoutes   Method = 5 // WatchRoutes, a stream of Routes
	MethodNodeStatus    Method = 6 // GetNodeStatus, NodeStatus
	MethodHostGroup     Method = 7 // HostGroup, HostGroupReply
	MethodChangeMembers Method = 8 // ChangeMembers, ChangeMembersReply
	MethodPing          Method = 9 // Ping, Pong
)

var methodNames = [...]string{
	"none", "Shard", "ShardQuery", "Cdc", "CdcQuery", "WatchRoutes", "NodeStatus",
	"HostGroup", "ChangeMembers", "Ping",
}

// String returns the method's name, or its number when it has none here.
func (m Method) String() string {
	if int(m) < len(methodNames) {
		return methodNames[m]
	}
	return "method " + strconv.Itoa(int(m))
}

// The protocols that share the port, as TLS ALPN names.
const (
	ALPNRPC    = "eggs-rpc/1"
	ALPNRaft   = "eggs-raft/1"
	ALPNGossip = "eggs-gossip/1"
	ALPNBlock  = "eggs-block/1"
)

// Versions of the RPC protocol that this program speaks.
//
//	1  2026-11  the first
const (
	MinVersion = 1
	MaxVersion = 1
)
