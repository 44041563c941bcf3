// Package web is the door for browsers and monitors of one node: the status
// page, /metrics for Prometheus, /healthz, /readyz, and JSON under /api/.
//
// It shows what every node says of itself and decides nothing. It reads the
// cluster through the client, as anybody does, and its own node through
// Reporter. It has no secrets to show and takes no orders: everything is GET.
//
//	/             the status page; it refreshes itself
//	/healthz      200 as long as the process answers
//	/readyz       200 when the node is ready, else 503 with what is missing, in words
//	/metrics      Prometheus text
//	/api/status   every node's word, put together (client.ClusterStatus)
//	/api/node     this node's word (wire.NodeStatus)
//	/api/groups/N this node's replica of group N ("cdc" or 0 to 255)
package web
