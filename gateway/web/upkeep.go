package web

import "github.com/prometheus/client_golang/prometheus"

// Figure is one number of a part of the node, for /metrics.
type Figure struct {
	Name, Help string // Name without "eggsfs_"
	Value      float64
	Counter    bool // it only grows
}

// Figurer is a Reporter that has more figures than NodeStatus.
type Figurer interface {
	Figures() []Figure
}

// collectFigures adds what the reporter has more.
func (c *collector) collectFigures(ch chan<- prometheus.Metric) {
	f, ok := c.report.(Figurer)
	if !ok {
		return
	}
	for _, x := range f.Figures() {
		kind := prometheus.GaugeValue
		if x.Counter {
			kind = prometheus.CounterValue
		}
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("eggsfs_"+x.Name, x.Help, nil, nil), kind, x.Value)
	}
}
