package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// maxCommands bounds the commands that are worked on at a time.
const maxCommands = 4

// answer answers commands until ctx ends, each in a goroutine of its own that
// work counts: one that reads logs takes its time.
func (s *session) answer(ctx context.Context, work *sync.WaitGroup) {
	slots := make(chan struct{}, maxCommands)
	for {
		select {
		case <-ctx.Done():
			return
		case msg := <-s.commands:
			select {
			case slots <- struct{}{}:
				work.Go(func() {
					defer func() { <-slots }()
					s.respond(msg, s.handle(ctx, msg))
				})
			default:
				s.respond(msg, refusal(&wire.CommandError{
					Reason: wire.CommandFailed, Message: fmt.Sprintf("the device works on %d commands already", maxCommands),
				}))
			}
		}
	}
}

// handle runs the handler of a command's verb and encodes what it says.
func (s *session) handle(ctx context.Context, msg *nats.Msg) []byte {
	verb := strings.TrimPrefix(msg.Subject, wire.CommandSubject(s.Device, ""))
	handler, known := s.Commands[wire.Verb(verb)]
	if !known {
		return refusal(&wire.CommandError{
			Reason: wire.CommandUnknownVerb, Message: fmt.Sprintf("this agent knows no command %q", wire.CleanText(verb, 64)),
		})
	}
	// A reply is permitted for as long as its caller waits, and not after that.
	ctx, cancel := context.WithTimeout(ctx, wire.CommandTimeout-time.Second)
	defer cancel()
	reply, err := handler(ctx, msg.Data)
	if err != nil {
		return refusal(err)
	}
	// A message beyond the permitted size would end the connection.
	if most := wire.DevicePermissions(s.Device).MaxPayload; len(reply) > most {
		return refusal(&wire.CommandError{
			Reason: wire.CommandFailed, Message: fmt.Sprintf("the reply has %d bytes and may have %d: ask for less", len(reply), most),
		})
	}
	return reply
}

// respond sends a reply. A caller that gave up is no problem of the device's.
func (s *session) respond(msg *nats.Msg, reply []byte) {
	if err := msg.Respond(reply); err != nil {
		s.Log.V(1).Info("command not answered", "subject", msg.Subject, "problem", err.Error())
	}
}

// refusal is an encoded reply, of any verb, that carries an error alone.
func refusal(err error) []byte {
	var reason *wire.CommandError
	if !errors.As(err, &reason) {
		reason = &wire.CommandError{Reason: wire.CommandFailed, Message: err.Error()}
	}
	reply, err := wire.EncodeReply(wire.PingReply{Error: reason})
	if err != nil {
		return []byte(`{"error":{"reason":"Failed","message":"the reply cannot be encoded"}}`)
	}
	return reply
}
