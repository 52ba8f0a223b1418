package wire

import "time"

// Heartbeat timing. An agent sends one every HeartbeatInterval, plus or minus a
// tenth, and without an acknowledgement; a device is unreachable after
// HeartbeatTimeout, which is three missed ones.
const (
	HeartbeatInterval = 30 * time.Second
	HeartbeatTimeout  = 3*HeartbeatInterval + HeartbeatInterval/3
)

// MaxHeartbeat bounds an encoded heartbeat, in bytes: it is what an idle fleet
// costs.
const MaxHeartbeat = 96

// Heartbeat is a sign of life. The time of it is the broker's, not the device's.
type Heartbeat struct {
	// Session is 8 hex digits, drawn anew by each agent process: two sessions
	// that alternate are two agents with one device id.
	Session string `json:"session"`
	// Generation of the manifest that the agent holds; 0 before the first. It
	// tells the operator where to go on from when the broker lost its store.
	Generation uint64 `json:"generation"`
	// Twin says whether the agent reports on the device, when that is worth saying;
	// "" is an agent that does and has not heard of another one with its id, or that
	// is too old to listen.
	Twin TwinRole `json:"twin,omitempty"`
}

// TwinRole is what one of several agents with one device id does. Readers take
// one that they do not know for TwinReports.
type TwinRole string

const (
	// TwinNew has just begun, and listens for others before it reports.
	TwinNew TwinRole = "new"
	// TwinReports writes what the device is and how its deployments do.
	TwinReports TwinRole = "reports"
	// TwinStandsBy leaves that to another.
	TwinStandsBy TwinRole = "standsBy"
)

// Encode is the canonical encoding, at most MaxHeartbeat bytes.
func (h Heartbeat) Encode() ([]byte, error) { return encode("heartbeat", h) }

// DecodeHeartbeat reads a Heartbeat. It fails with ErrMalformed.
func DecodeHeartbeat(data []byte) (Heartbeat, error) {
	var h Heartbeat
	if err := decode("heartbeat", data, MaxHeartbeat, &h); err != nil {
		return Heartbeat{}, err
	}
	if len(h.Session) != 8 || !isHex(h.Session) {
		return Heartbeat{}, malformed("heartbeat", "session must be 8 hex digits")
	}
	if h.Generation > MaxGeneration {
		return Heartbeat{}, malformed("heartbeat", "generation must be at most 2^53-1")
	}
	return h, nil
}

func isHex(s string) bool {
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
			return false
		}
	}
	return true
}
