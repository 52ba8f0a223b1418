package kubectl

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// Exit codes of the command.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// failure is an error of the work itself; every other error that comes out of
// the command line library is one of usage.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// usageError is a mistake in the arguments that only the command itself sees.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// session is what all commands share: where the cluster and the broker are, and
// where output goes.
type session struct {
	genericiooptions.IOStreams
	kube *genericclioptions.ConfigFlags
	nats natsFlags
	// version of this program.
	version string
	now     func() time.Time
}

// Run runs this version of `kubectl fleet` with the arguments that follow its
// name and returns the exit code: 0 for success, 1 for a failure, 2 for wrong
// usage.
func Run(ctx context.Context, version string, args []string, streams genericiooptions.IOStreams) int {
	s := &session{IOStreams: streams, kube: genericclioptions.NewConfigFlags(true), now: time.Now, version: version}
	root := newRoot(s) //nolint:contextcheck // the commands have the context from cobra
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(streams.ErrOut, "error:", err)
	if errors.As(err, &failure{}) {
		return exitFailure
	}
	fmt.Fprintf(streams.ErrOut, "See '%s --help'.\n", command.CommandPath())
	return exitUsage
}

func newRoot(s *session) *cobra.Command {
	root := &cobra.Command{
		Use:   "kubectl-fleet",
		Short: "Run containers on a fleet of devices",
		Long: `Run containers on a fleet of devices, and see how they do.

Where the cluster is comes from the kubeconfig, as for kubectl. status, ping and
logs also ask the fleet's broker:

  FLEET_NATS_URL            or --nats-url
  FLEET_NATS_USER           or --nats-user
  FLEET_NATS_PASSWORD_FILE  or --nats-password-file, or FLEET_NATS_PASSWORD
  FLEET_NATS_CA_FILE        or --nats-ca-file, when the system does not trust it

enroll, re-enroll, revoke and remove decide who is of the fleet: they write to the
cluster, or to OpenBao with your own token there.`,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl fleet"},
		Version:       s.version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.ErrOut)
	s.kube.AddFlags(root.PersistentFlags())
	commands := []*cobra.Command{
		newApply(s), newDevices(s), newStatus(s), newWhoami(s), newPing(s), newLogs(s),
		newEnroll(s), newReenroll(s), newRevoke(s), newRemove(s), newVersion(s),
	}
	for _, command := range commands {
		command.RunE = classified(command.RunE)
	}
	root.AddCommand(commands...)
	return root
}

// classified marks the errors of a command that is at work as failures, unless
// they speak of its arguments.
func classified(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := run(cmd, args)
		if err == nil || errors.As(err, &usageError{}) {
			return err
		}
		return failure{err}
	}
}

// arguments wants exactly these, and names them in the error.
func arguments(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return fmt.Errorf("want %s, got %d arguments", strings.Join(names, " and "), len(args))
		}
		return nil
	}
}
