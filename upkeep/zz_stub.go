// Package upkeep stands in for the collector: delete this file when it lands.
package upkeep

import (
	"context"
	"eggsfs/client"
	"eggsfs/eggs"
	"log/slog"
	"time"
)

type Config struct {
	Client   client.Operator
	Leads    func(eggs.ShardID) bool
	Interval time.Duration
	Logger   *slog.Logger
	Event    func(string, string)
}
type Collector struct{}
type Report struct{}

func NewCollector(Config) *Collector                                        { return nil }
func (*Collector) Run(ctx context.Context)                                  { <-ctx.Done() }
func (*Collector) CollectDir(context.Context, eggs.InodeID) (Report, error) { return Report{}, nil }
func (*Collector) CollectTransient(context.Context, eggs.InodeID) (Report, error) {
	return Report{}, nil
}
func (*Collector) CollectAll(context.Context) (Report, error) { return Report{}, nil }
