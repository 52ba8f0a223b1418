package policy

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Revocation says why a device is revoked. Whatever stands in its place revokes
// the device, so it is for people to read.
type Revocation struct {
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by,omitempty"`
	At     time.Time `json:"at,omitzero"`
}

// DecodeRevocation reads as much as can be read.
func DecodeRevocation(data []byte) Revocation {
	var r Revocation
	if json.Unmarshal(data, &r) != nil {
		return Revocation{}
	}
	r.Reason, r.By = wire.CleanText(r.Reason, wire.MaxMessage), wire.CleanText(r.By, wire.MaxMessage)
	return r
}

// String says when, by whom and why, as far as that is known.
func (r Revocation) String() string {
	var parts []string
	if !r.At.IsZero() {
		parts = append(parts, "since "+r.At.UTC().Format(time.RFC3339))
	}
	if r.By != "" {
		parts = append(parts, "by "+r.By)
	}
	if r.Reason != "" {
		parts = append(parts, fmt.Sprintf("reason %q", r.Reason))
	}
	return strings.Join(parts, ", ")
}

// Records are all that is decided of one device, as they are at one moment.
type Records struct {
	// Policy is nil when there is none.
	Policy *Policy
	// Revocation is nil when the device is not revoked.
	Revocation *Revocation
}
