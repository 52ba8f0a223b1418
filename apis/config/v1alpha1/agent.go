package v1alpha1

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// AgentConfig is /etc/fleet-agent/config.toml, with the files of conf.d beside
// it laid over it in the order of their names.
type AgentConfig struct {
	Agent       AgentSection      `toml:"agent"`
	NATS        NATSSection       `toml:"nats"`
	Labels      map[string]string `toml:"labels"`
	Podman      PodmanSection     `toml:"podman"`
	Credentials Credentials       `toml:"credentials"`
	OpenBao     SecretsSection    `toml:"openbao"`
}

// AgentSection is about the agent itself.
type AgentSection struct {
	// DeviceID of this device: a DNS label, and nobody else's.
	DeviceID string `toml:"device_id"`
	// TrustedKeys are the public nkeys ("O…") of the operator, which signs what the
	// device shall run. They are where trust begins: a signed change of the
	// operator's keys is followed.
	TrustedKeys []string `toml:"trusted_keys"`
	// StateDir keeps the last desired state across power cuts.
	StateDir string `toml:"state_dir"`
	// LogLevel is debug, info, warn or error.
	LogLevel string `toml:"log_level"`
}

// NATSSection says how to reach the broker.
type NATSSection struct {
	// URLs of the broker, such as "tls://nats.example.com:4222"; one is chosen
	// at random, and the others are tried when it fails. One that begins with
	// "tls-first://" has the connection begin with TLS's handshake, which names the
	// host to whoever passes connections on by it.
	URLs []string `toml:"urls" json:"urls"`
	// CAFile holds the certificates to trust instead of the system's.
	CAFile string `toml:"ca_file" json:"caFile,omitempty"`
}

// PodmanSection says how to reach podman.
type PodmanSection struct {
	// Socket of the podman service as a URL, such as
	// "unix:///run/podman/podman.sock"; "" means the rootful socket when the
	// agent runs as root, and the user's own else.
	Socket string `toml:"socket"`
	// PollInterval is the time between two looks at the containers.
	PollInterval Duration `toml:"poll_interval"`
	// MinFreeSpace is how much of the file system that holds podman's images must be
	// free before one is pulled, or a tenth of a file system of which that is more; 0
	// switches that off.
	MinFreeSpace Size `toml:"min_free_space"`
	// ImageRetention is how long an image stays that the agent pulled and that nothing
	// uses any more; 0 means for ever. The one before the wanted one always stays.
	ImageRetention Duration `toml:"image_retention"`
	// PullJitter is the time over which the devices of a fleet spread their pulls for
	// one change; 0 means that each pulls at once.
	PullJitter Duration `toml:"pull_jitter"`
}

// maxPullJitter is as long as anybody waits for a change.
const maxPullJitter = Duration(24 * time.Hour)

// AgentDefaults is what holds where a file is silent.
func AgentDefaults() AgentConfig {
	return AgentConfig{
		Agent: AgentSection{StateDir: "/var/lib/fleet-agent", LogLevel: "info"},
		Podman: PodmanSection{
			PollInterval: Duration(5 * time.Second), MinFreeSpace: 1 << 30, ImageRetention: Duration(7 * 24 * time.Hour),
		},
		OpenBao: SecretsSection{
			Mount: "fleet", LoginMount: "jwt", LoginRole: "fleet-device", RefreshInterval: Duration(5 * time.Minute),
		},
	}
}

// Validate reports everything that is wrong, each error naming the field as the
// file spells it and what to write.
func (c AgentConfig) Validate() error {
	var errs []error
	if _, err := wire.ParseDeviceID(c.Agent.DeviceID); err != nil {
		errs = append(errs, fmt.Errorf("[agent] device_id: %w", err))
	}
	if err := validTrust(c.Agent.TrustedKeys); err != nil {
		errs = append(errs, fmt.Errorf("[agent] trusted_keys: %w", err))
	}
	if !filepath.IsAbs(c.Agent.StateDir) {
		errs = append(errs, fmt.Errorf("[agent] state_dir: %q is not an absolute path", c.Agent.StateDir))
	}
	if err := validLogLevel(c.Agent.LogLevel); err != nil {
		errs = append(errs, fmt.Errorf("[agent] log_level: %w", err))
	}
	if err := c.NATS.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("[nats] %w", err))
	}
	if c.Podman.Socket != "" && !strings.HasPrefix(c.Podman.Socket, "unix:///") {
		errs = append(errs, fmt.Errorf(`[podman] socket: %q must look like "unix:///run/podman/podman.sock"`, c.Podman.Socket))
	}
	if c.Podman.PollInterval < Duration(time.Second) {
		errs = append(errs, fmt.Errorf(`[podman] poll_interval: %s is less than 1s; write a number with a unit in quotes, such as "5s"`, time.Duration(c.Podman.PollInterval)))
	}
	if c.Podman.ImageRetention < 0 {
		errs = append(errs, errors.New("[podman] image_retention: must not be negative; 0s keeps images for ever"))
	}
	if c.Podman.PullJitter < 0 || c.Podman.PullJitter > maxPullJitter {
		errs = append(errs, fmt.Errorf("[podman] pull_jitter: must be 0s to %s", time.Duration(maxPullJitter)))
	}
	if len(c.Labels) > wire.MaxLabels {
		errs = append(errs, fmt.Errorf("[labels] has %d entries, at most %d", len(c.Labels), wire.MaxLabels))
	}
	for _, key := range slices.Sorted(maps.Keys(c.Labels)) {
		if err := validLabel(key, c.Labels[key]); err != nil {
			errs = append(errs, fmt.Errorf("[labels] %q: %w", key, err))
		}
	}
	if err := c.Credentials.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("[credentials] %w", err))
	}
	if err := c.OpenBao.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("[openbao] %w", err))
	}
	return errors.Join(errs...)
}

// tlsFirst begins the URL of a broker that lets clients begin with TLS's handshake.
// By itself the protocol begins in clear, and no proxy sees the name of the host.
const tlsFirst = "tls-first://"

// Dial is what the URLs mean to a NATS client: a list, and whether a connection
// begins with TLS's handshake.
func (n NATSSection) Dial() (urls string, handshakeFirst bool) {
	list := strings.Join(n.URLs, ",")
	return strings.ReplaceAll(list, tlsFirst, "tls://"), strings.HasPrefix(list, tlsFirst)
}

// Validate reports what is wrong with the section.
func (n NATSSection) Validate() error {
	if len(n.URLs) == 0 {
		return errors.New(`urls: at least one is needed, such as ["tls://nats.example.com:4222"]`)
	}
	for _, address := range n.URLs {
		if !strings.HasPrefix(address, "nats://") && !strings.HasPrefix(address, "tls://") && !strings.HasPrefix(address, tlsFirst) {
			return fmt.Errorf("urls: %q must start with tls://, %s or nats://", address, tlsFirst)
		}
		if strings.HasPrefix(address, tlsFirst) != strings.HasPrefix(n.URLs[0], tlsFirst) {
			return fmt.Errorf("urls: %q and %q: all must start with %s, or none", n.URLs[0], address, tlsFirst)
		}
		if strings.Contains(address, ",") {
			return fmt.Errorf("urls: %q is a list: write one URL per entry", address)
		}
	}
	return nil
}

// Encrypted fails for an address at which somebody on the way could read a secret.
func (n NATSSection) Encrypted() error {
	for _, address := range n.URLs {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.User != nil {
			return fmt.Errorf(`%q must look like "tls://nats.example.com:4222"`, address)
		}
		host, err := netip.ParseAddr(u.Hostname())
		if u.Scheme != "tls" && u.Scheme+"://" != tlsFirst && (err != nil || !host.IsLoopback()) {
			return fmt.Errorf("%q must begin with tls://: the token is a secret, and nats:// is for loopback alone", address)
		}
	}
	return nil
}

func validTrust(keys []string) error {
	if len(keys) == 0 || len(keys) > wire.MaxSigners {
		return fmt.Errorf("names %d keys, want 1 to %d: the operator logs its public keys when it starts", len(keys), wire.MaxSigners)
	}
	for _, key := range keys {
		if err := wire.CheckSigningKey(key); err != nil {
			return err
		}
	}
	return nil
}

func validLogLevel(level string) error {
	switch level {
	case "debug", "info", "warn", "error":
		return nil
	}
	return fmt.Errorf("%q must be debug, info, warn or error", level)
}
