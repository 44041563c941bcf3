// Package cdc is the cross-directory coordinator: transactions over two
// directories, and the durable facts of the cluster.
package cdc
