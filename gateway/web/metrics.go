package web

import (
	"github.com/prometheus/client_golang/prometheus"

	"eggsfs/eggs"
)

// collector turns a node's status into metrics when it is asked, so that an
// idle node does no work for them. There is no series per inode or path, and
// only gauges per group.
type collector struct {
	report Reporter

	ready, leads, held, memory, lag, leaderless  *prometheus.Desc
	diskCapacity, diskFree, diskBlocks, diskFail *prometheus.Desc
	applied, cdcRunning, cdcQueued               *prometheus.Desc
}

func newCollector(r Reporter) *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("eggsfs_"+name, help, labels, nil)
	}
	return &collector{
		report:       r,
		ready:        d("node_ready", "1 when its replicas are caught-up voters and its disks serve"),
		leads:        d("node_groups_led", "groups that this node leads"),
		held:         d("node_groups_held", "groups that this node holds a replica of"),
		memory:       d("node_resident_bytes", "resident memory"),
		leaderless:   d("node_groups_leaderless", "groups held here that have no leader known here"),
		lag:          d("group_apply_lag_entries", "committed but not yet applied here", "group"),
		applied:      d("group_applied_entries", "index of the last entry applied here", "group"),
		diskCapacity: d("disk_capacity_bytes", "size of the disk", "disk"),
		diskFree:     d("disk_free_bytes", "room for blocks, less the reserve", "disk"),
		diskBlocks:   d("disk_blocks", "blocks on the disk", "disk"),
		diskFail:     d("disk_failed", "1 when the disk does not serve", "disk"),
		cdcRunning:   d("cdc_running_transactions", "transactions under way; on the coordinator's leader only"),
		cdcQueued:    d("cdc_queued_transactions", "transactions waiting; on the coordinator's leader only"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	c.collectFigures(ch)
	st := c.report.NodeStatus()
	gauge(c.ready, truth(st.Ready))
	gauge(c.memory, float64(st.Memory))
	gauge(c.held, float64(len(st.Groups)))
	leads, leaderless := 0, 0
	for _, g := range st.Groups {
		if g.State == "leader" {
			leads++
		}
		if g.Leader == 0 {
			leaderless++
		}
		name := eggs.GroupID(g.Group).String()
		gauge(c.lag, float64(g.Committed-min(g.Applied, g.Committed)), name)
		gauge(c.applied, float64(g.Applied), name)
	}
	gauge(c.leads, float64(leads))
	gauge(c.leaderless, float64(leaderless))
	for _, d := range st.Disks {
		id := eggs.DiskID(d.Id).String()
		if d.Id == 0 {
			id = d.Path
		}
		gauge(c.diskCapacity, float64(d.Capacity), id)
		gauge(c.diskFree, float64(d.Free), id)
		gauge(c.diskBlocks, float64(d.Blocks), id)
		gauge(c.diskFail, truth(d.Error != ""), id)
	}
	if st.Cdc != nil {
		gauge(c.cdcRunning, float64(st.Cdc.Running))
		gauge(c.cdcQueued, float64(st.Cdc.Queued))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
