package kubectl

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/operator/bus"
)

// natsFlags say how to reach the fleet's broker, and as whom.
type natsFlags struct {
	url, caFile                  string
	user, password, passwordFile string
}

const howToReachBroker = "set FLEET_NATS_URL, FLEET_NATS_USER and FLEET_NATS_PASSWORD_FILE, or --nats-url, --nats-user and --nats-password-file"

// addTo adds the flags, with the environment as their defaults. The password
// itself is no flag: every user of the machine can read command lines.
func (n *natsFlags) addTo(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&n.url, "nats-url", os.Getenv("FLEET_NATS_URL"), "address of the fleet's broker")
	f.StringVar(&n.caFile, "nats-ca-file", os.Getenv("FLEET_NATS_CA_FILE"), "certificates to trust for the broker instead of the system's")
	f.StringVar(&n.user, "nats-user", os.Getenv("FLEET_NATS_USER"), "user at the broker")
	f.StringVar(&n.passwordFile, "nats-password-file", os.Getenv("FLEET_NATS_PASSWORD_FILE"), "file with the password at the broker")
	n.password = os.Getenv("FLEET_NATS_PASSWORD")
}

// connect connects to the broker, or fails soon and says what is wrong.
func (s *session) connect(ctx context.Context) (*bus.Conn, error) {
	if s.nats.url == "" {
		return nil, usagef("the broker's address is missing: %s", howToReachBroker)
	}
	section := v1alpha1.NATSSection{URLs: []string{s.nats.url}, CAFile: s.nats.caFile}
	if err := section.Validate(); err != nil {
		return nil, usagef("--nats-url: %w", err)
	}
	credentials := v1alpha1.Credentials{Type: v1alpha1.CredentialPassword, User: s.nats.user, PasswordFile: s.nats.passwordFile}
	if s.nats.passwordFile == "" {
		credentials.Password = s.nats.password
	}
	if err := credentials.Validate(); err != nil {
		return nil, usagef("the broker's user and password: %s", howToReachBroker)
	}
	return bus.Connect(ctx, bus.Options{NATS: section, Credentials: credentials, Name: "kubectl-fleet", FailFast: true})
}
