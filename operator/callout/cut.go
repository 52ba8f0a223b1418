package callout

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// listTimeout is how long the next server may take to list its connections.
const listTimeout = time.Second

// connection is one connection at one server.
type connection struct {
	server string
	id     uint64
}

// Cut ends the connections of devices. They may come back, and are denied then if
// they should be. Replicas may do so at the same time.
func (s *Service) Cut(devices []wire.DeviceID) {
	conn := s.conn.Load()
	if conn == nil {
		return
	}
	for _, device := range devices {
		cut, err := s.cut(conn.Client(), device)
		if err != nil {
			s.options.Log.Error(err, "connections not cut", "device", device)
		} else if cut > 0 {
			s.options.Log.Info("connections cut", "device", device, "connections", cut)
		}
	}
}

func (s *Service) cut(nc *nats.Conn, device wire.DeviceID) (cut int, err error) {
	connections, err := s.connections(nc, device)
	if err != nil {
		return 0, err
	}
	for _, c := range connections {
		request, err := json.Marshal(map[string]uint64{"cid": c.id})
		if err != nil {
			return cut, fmt.Errorf("encoding the request: %w", err)
		}
		if _, err := nc.Request(wire.CutConnection(c.server), request, listTimeout); err != nil {
			return cut, fmt.Errorf("asking server %s: %w", c.server, err)
		}
		cut++
	}
	return cut, nil
}

// connections asks every server for the connections of a device.
func (s *Service) connections(nc *nats.Conn, device wire.DeviceID) (found []connection, err error) {
	request, err := json.Marshal(map[string]any{"auth": true, "user": s.judge.config.OIDC.DevicePrefix + string(device)})
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	answers, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return nil, fmt.Errorf("listing connections: %w", err)
	}
	defer func() { _ = answers.Unsubscribe() }() // fails only without a connection
	if err := nc.PublishRequest(wire.DeviceConnections, answers.Subject, request); err != nil {
		return nil, fmt.Errorf("listing connections: %w", err)
	}
	for servers := 0; ; servers++ {
		msg, err := answers.NextMsg(listTimeout)
		if err != nil && servers > 0 {
			return found, nil // nobody else answers
		}
		if err != nil {
			return nil, fmt.Errorf("listing connections: %w", err)
		}
		var answer struct {
			Server struct {
				ID string `json:"id"`
			} `json:"server"`
			Data struct {
				Connections []struct {
					ID uint64 `json:"cid"`
				} `json:"connections"`
			} `json:"data"`
		}
		if err := json.Unmarshal(msg.Data, &answer); err != nil {
			return nil, fmt.Errorf("listing connections: %w", err)
		}
		for _, c := range answer.Data.Connections {
			found = append(found, connection{answer.Server.ID, c.ID})
		}
	}
}
