package client

import "time"

// KeepWriters does what the client does by itself every few seconds.
func KeepWriters(c *Client, now time.Time) { c.files.keepWriters(now) }
