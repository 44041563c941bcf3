// Package client is the one library to the cluster.
package client
