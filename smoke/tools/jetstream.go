package tools

import "path/filepath"

// What a cluster runs beside our own programs. Each is of a module of its own, to
// be built with the libraries that its version names.
var (
	natsServer = &module{folder: "nats-server", source: "github.com/nats-io/nats-server/v2", coldMinutes: 1}
	nack       = &module{folder: "nack", source: "github.com/nats-io/nack", coldMinutes: 4}

	// NATSServer is the broker.
	NATSServer = natsServer.tool("nats-server", "github.com/nats-io/nats-server/v2")
	// NACK is the controller that makes JetStream's streams from resources.
	NACK = nack.tool("jetstream-controller", "github.com/nats-io/nack/cmd/jetstream-controller")
)

// Version is that of the tool's source, such as v1.2.3.
func (t Tool) Version() (string, error) {
	root, err := sourceDir()
	if err != nil {
		return "", err
	}
	return t.module.version(filepath.Join(root, t.module.folder))
}
