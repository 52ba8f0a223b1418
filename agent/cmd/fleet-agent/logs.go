package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/nationtech/harmony-fleet/agent/config"
	"github.com/nationtech/harmony-fleet/agent/status"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// request is whose logs shall be read: those of all containers when it names none.
func (c *command) request() (wire.LogsRequest, error) {
	r := wire.LogsRequest{Lines: c.tail}
	if c.tail == 0 {
		r.Lines = wire.DefaultLogLines
	}
	if r.Lines < 1 || r.Lines > wire.MaxLogLines {
		return r, fmt.Errorf("--tail %d: want 1 to %d lines", c.tail, wire.MaxLogLines)
	}
	if c.operand == "" {
		return r, nil
	}
	parts := strings.Split(c.operand, "/")
	if len(parts) == 3 {
		r.Service = parts[2]
	}
	if len(parts) < 2 || len(parts) > 3 {
		return r, fmt.Errorf("logs %q: want NAMESPACE/DEPLOYMENT or NAMESPACE/DEPLOYMENT/SERVICE, as fleet-agent status calls them", c.operand)
	}
	id, err := wire.ParseDeploymentID(parts[0], parts[1])
	r.Namespace, r.Deployment = id.Namespace, id.Name
	return r, err
}

// logs prints what the containers wrote last.
func (p program) logs(ctx context.Context, c command) error {
	request, err := c.request()
	if err != nil {
		return err
	}
	cfg, err := config.Load(c.path)
	if err != nil {
		return err
	}
	return status.PrintLogs(ctx, p.out, cfg, request)
}
