package wire

import (
	"fmt"
	"time"
)

// Role is one kind of connection: what its permissions are, each with the reason
// for it. Permissions and their documentation both come from here.
type Role struct {
	Name    string
	Account string
	// Who has it.
	Who                string
	Publish, Subscribe []Grant
	// Responses to the reply subject of a message that it received, within
	// ResponseTTL.
	Responses        Limit
	ResponseTTL      time.Duration
	MaxSubscriptions Limit
	MaxPayload       Limit
}

// Grant is one subject, and what is done with it.
type Grant struct{ Subject, Why string }

// Limit is a bound, and the reason for it; the zero value is none.
type Limit struct {
	Value int
	Why   string
}

// Bound is a limit and what it bounds.
type Bound struct {
	Name string
	Limit
}

// Bounds are the limits that the role has.
func (r Role) Bounds() (bounds []Bound) {
	for _, b := range []Bound{
		{fmt.Sprintf("answers to a message that it received, within %s", r.ResponseTTL), r.Responses},
		{"subscriptions", r.MaxSubscriptions},
		{"bytes of one message", r.MaxPayload},
	} {
		if b.Value > 0 {
			bounds = append(bounds, b)
		}
	}
	return bounds
}

// Roles lists every role, that of devices as the device id has it.
func Roles(id DeviceID) []Role { return []Role{DeviceRole(id), operatorRole(), adminRole()} }

func (r Role) permissions() Permissions {
	return Permissions{
		Publish: subjects(r.Publish), Subscribe: subjects(r.Subscribe),
		Responses: r.Responses.Value, ResponseTTL: r.ResponseTTL,
		MaxSubscriptions: r.MaxSubscriptions.Value, MaxPayload: r.MaxPayload.Value,
	}
}

func subjects(grants []Grant) []string {
	all := make([]string, len(grants))
	for i, g := range grants {
		all[i] = g.Subject
	}
	return all
}
