package wire

import (
	"fmt"
	"time"
)

// Verb is a command that a device answers.
type Verb string

const (
	// VerbPing asks for a sign of life, answered with a PingReply.
	VerbPing Verb = "ping"
	// VerbLogs asks for the last lines of a Deployment's containers, with a
	// LogsRequest, answered with a LogsReply.
	VerbLogs Verb = "logs"
)

// Verbs lists every verb.
func Verbs() []Verb { return []Verb{VerbPing, VerbLogs} }

// CommandTimeout is how long a caller waits for an answer. A device that is not
// connected is known at once: nobody responds.
const CommandTimeout = 10 * time.Second

// Bounds of a logs reply. The whole reply fits into one NATS message.
const (
	DefaultLogLines = 200
	MaxLogLines     = 5000
	MaxLogBytes     = 512 << 10
	maxCommand      = MaxLogBytes + 256<<10
)

// CommandSubject is the subject of one command to one device.
func CommandSubject(id DeviceID, verb Verb) string {
	return "device-commands." + string(id) + "." + string(verb)
}

// CommandSubjects is what a device subscribes to for all of its commands.
func CommandSubjects(id DeviceID) string { return "device-commands." + string(id) + ".>" }

// AllCommands is the subject filter of all commands to all devices.
const AllCommands = "device-commands.>"

// CommandError is a refusal or a failure on the device, in every reply.
type CommandError struct {
	// Reason is a CamelCase word, Message says what went wrong.
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Error is the message with its reason.
func (e *CommandError) Error() string { return e.Message + " (" + e.Reason + ")" }

// Reasons of a CommandError.
const (
	CommandBadRequest  = "BadRequest"
	CommandUnknownVerb = "UnknownVerb"
	CommandNotFound    = "NotFound"
	CommandFailed      = "Failed"
)

// PingReply answers VerbPing.
type PingReply struct {
	Error *CommandError `json:"error,omitempty"`
	// AgentVersion of the answering agent, and its Session as in its heartbeats.
	AgentVersion string `json:"agentVersion,omitempty"`
	Session      string `json:"session,omitempty"`
	// UptimeSeconds since the agent's start.
	UptimeSeconds int64 `json:"uptimeSeconds,omitempty"`
	// Generation of the manifest that the agent holds.
	Generation uint64 `json:"generation,omitempty"`
}

// LogsRequest asks for the end of the logs of a Deployment's containers.
type LogsRequest struct {
	Namespace  string `json:"namespace"`
	Deployment string `json:"deployment"`
	// Service chooses one service; "" means all.
	Service string `json:"service,omitempty"`
	// Lines per container, 1 to MaxLogLines; 0 means DefaultLogLines.
	Lines int `json:"lines,omitempty"`
}

// LogsReply answers VerbLogs.
type LogsReply struct {
	Error *CommandError `json:"error,omitempty"`
	Logs  []ServiceLog  `json:"logs,omitempty"`
}

// ServiceLog is the end of one container's log.
type ServiceLog struct {
	Service   string `json:"service"`
	Container string `json:"container"`
	// Lines, oldest first.
	Lines []string `json:"lines"`
	// Truncated says that MaxLogBytes or MaxLogLines cut older lines off.
	Truncated bool `json:"truncated,omitempty"`
}

// Reply is any of the replies.
type Reply interface{ PingReply | LogsReply }

// EncodeReply is the canonical encoding of a reply.
func EncodeReply[R Reply](reply R) ([]byte, error) { return encode("command reply", reply) }

// DecodeReply reads a reply. It fails with ErrMalformed.
func DecodeReply[R Reply](data []byte) (R, error) {
	var reply R
	err := decode("command reply", data, maxCommand, &reply)
	return reply, err
}

// Encode is the canonical encoding.
func (r LogsRequest) Encode() ([]byte, error) { return encode("logs request", r) }

// DecodeLogsRequest reads a LogsRequest and fills Lines in. It fails with
// ErrMalformed.
func DecodeLogsRequest(data []byte) (LogsRequest, error) {
	var r LogsRequest
	if err := decode("logs request", data, 4<<10, &r); err != nil {
		return LogsRequest{}, err
	}
	if _, err := ParseDeploymentID(r.Namespace, r.Deployment); err != nil {
		return LogsRequest{}, fmt.Errorf("logs request: %w: %w", ErrMalformed, err)
	}
	if r.Service != "" && !isLabel(r.Service) {
		return LogsRequest{}, malformed("logs request", "service is not a DNS label")
	}
	if r.Lines < 0 || r.Lines > MaxLogLines {
		return LogsRequest{}, malformed("logs request", fmt.Sprintf("lines must be 1 to %d", MaxLogLines))
	}
	if r.Lines == 0 {
		r.Lines = DefaultLogLines
	}
	return r, nil
}
