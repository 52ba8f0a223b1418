package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// worldCable is the name of the network card that leads to the world.
const worldCable = "world-cable"

// qmpTimeout bounds an order that qemu carries out at once.
const qmpTimeout = time.Minute

// order is a command of the QEMU Machine Protocol.
type order struct {
	Execute   string         `json:"execute"`
	Arguments map[string]any `json:"arguments,omitempty"`
}

// tell has qemu carry orders out, one after the other.
func (m *Machine) tell(orders ...order) error {
	conn, err := net.Dial("unix", m.path("qmp"))
	if err != nil {
		return fmt.Errorf("talking to qemu: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(qmpTimeout)); err != nil {
		return err
	}
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	var greeting struct{ QMP any }
	if err := in.Decode(&greeting); err != nil {
		return fmt.Errorf("talking to qemu: %w", err)
	}
	for _, c := range append([]order{{Execute: "qmp_capabilities"}}, orders...) {
		if err := out.Encode(c); err != nil {
			return fmt.Errorf("telling qemu %s: %w", c.Execute, err)
		}
		if err := answer(in); err != nil {
			return fmt.Errorf("telling qemu %s: %w", c.Execute, err)
		}
	}
	return nil
}

// answer is the next that is not an event.
func answer(in *json.Decoder) error {
	for {
		var a struct {
			Event string
			Error struct{ Desc string }
		}
		if err := in.Decode(&a); err != nil {
			return err
		}
		if a.Error.Desc != "" {
			return errors.New(a.Error.Desc)
		}
		if a.Event == "" {
			return nil
		}
	}
}

// link is the order that plugs the cable to the world in, or pulls it.
func link(up bool) order {
	return order{"set_link", map[string]any{"name": worldCable, "up": up}}
}
