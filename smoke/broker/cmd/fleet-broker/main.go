// Command fleet-broker runs a nats-server with the configuration file that it is
// given, reads it again on SIGHUP and ends on SIGTERM. It is how package broker
// gets a broker that can be killed; it never writes the configuration.
package main

import (
	"fmt"
	"os"

	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "fleet-broker:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("want one argument, the configuration file")
	}
	options, err := server.ProcessConfigFile(os.Args[1])
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	s, err := server.NewServer(options)
	if err != nil {
		return fmt.Errorf("making the server: %w", err)
	}
	s.ConfigureLogger()
	if err := server.Run(s); err != nil {
		return fmt.Errorf("starting the server: %w", err)
	}
	s.WaitForShutdown()
	return nil
}
