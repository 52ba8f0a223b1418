// Package supervisor tells systemd how the agent does: that it works, a line for
// `systemctl status`, and that its loop still turns. Where nothing listens, as on a
// terminal, each call does nothing. It never restarts anything itself.
package supervisor

import (
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/go-logr/logr"
)

// Supervisor is whoever started the agent.
type Supervisor struct {
	log logr.Logger
}

// New is the one that the environment names, with sd_notify's variables.
func New(log logr.Logger) Supervisor { return Supervisor{log} }

// Ready says that the agent works, which it does also without a broker.
func (s Supervisor) Ready() { s.tell(daemon.SdNotifyReady) }

// Status is one line for people.
func (s Supervisor) Status(text string) { s.tell("STATUS=" + text) }

// Stopping says that the end was asked for.
func (s Supervisor) Stopping() { s.tell(daemon.SdNotifyStopping) }

// Alive keeps the agent from being killed as one that hangs. It is for whoever would
// hang, and for nobody on its behalf.
func (s Supervisor) Alive() { s.tell(daemon.SdNotifyWatchdog) }

// Pulse is how often Alive is wanted: twice in the time after which it is missed; 0
// means never.
func (s Supervisor) Pulse() time.Duration {
	missed, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Error(err, "watchdog not understood")
	}
	return missed / 2
}

func (s Supervisor) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Error(err, "systemd not told", "state", state)
	}
}
