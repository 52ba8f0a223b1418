package broker

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

// Names of the users that are no devices. None is a DNS label, so that a device
// of any id can be added beside them.
const (
	operatorUser    = "fleet/operator"
	adminUser       = "fleet/admin"
	provisionerUser = "fleet/provisioner"
	simulatorUser   = "fleet/simulator"
)

// Options of a broker.
type Options struct {
	// Dir holds the configuration, the log and the store; "" means a folder of
	// its own that is removed by Stop.
	Dir string
	// Port on 127.0.0.1; 0 means a free one, which a restart keeps.
	Port int
	// MonitorPort of the HTTP monitoring on 127.0.0.1; 0 means none.
	MonitorPort int
	// SyncAlways has each acknowledged message on the disk, as the chart does.
	SyncAlways bool
	// Devices to begin with.
	Devices []wire.DeviceID
	// Callout has the broker ask the auth callout about devices and whoever else
	// it does not know.
	Callout bool
	// Muted has a broker with Callout ask nobody: whoever measures the callout asks
	// in its stead, as the callout's user, whom a broker that asks would refuse.
	Muted bool
	// TLS has it speak TLS alone, with a certificate for 127.0.0.1 and localhost.
	TLS bool
	// LoginTimeout bounds a login, the callout's answer included; 0 means 10 s.
	LoginTimeout time.Duration
	// Shape may change the configuration of a stream before it is created, or
	// return false to leave it out: brokers that are not fit for the fleet.
	Shape func(*jetstream.StreamConfig) bool
}

// base is what both kinds of brokers share: the layout, the users, and the key
// that signs for the operator.
type base struct {
	options Options
	tempDir bool
	signing signing
	callout *callout // nil without Options.Callout
	caFile  string   // "" without Options.TLS

	mu    sync.Mutex
	users map[string][]user // by account, with mu
}

func newBase(options Options) (*base, error) {
	options.LoginTimeout = cmp.Or(options.LoginTimeout, 10*time.Second)
	b := &base{options: options, users: map[string][]user{}}
	if options.Dir == "" {
		dir, err := os.MkdirTemp("", "fleet-broker-")
		if err != nil {
			return nil, fmt.Errorf("making a folder for the broker: %w", err)
		}
		b.options.Dir, b.tempDir = dir, true
	}
	if options.Port == 0 {
		port, err := process.FreePort()
		if err != nil {
			return nil, fmt.Errorf("choosing the broker's port: %w", err)
		}
		b.options.Port = port
	}
	var err error
	if b.signing, err = newSigning(b.options.Dir); err != nil {
		return nil, err
	}
	if options.Callout {
		if b.callout, err = newCallout(b.options.Dir); err != nil {
			return nil, err
		}
		b.users[wire.AccountAuth] = []user{{nkey: b.callout.user.public}}
	}
	if options.TLS {
		if b.caFile, err = writePKI(b.options.Dir); err != nil {
			return nil, err
		}
	}
	operator, admin := wire.OperatorPermissions(), wire.AdminPermissions()
	// An id that is a wildcard stands for every device; only here, because what
	// it grants is everything that any device may do.
	simulator := wire.DevicePermissions("*")
	simulator.Subscribe = append(simulator.Subscribe, "_INBOX.>")
	b.add(wire.AccountFleet, operatorUser, &operator)
	b.add(wire.AccountFleet, adminUser, &admin)
	b.add(wire.AccountFleet, provisionerUser, nil)
	b.add(wire.AccountDevices, simulatorUser, &simulator)
	for _, id := range options.Devices {
		if err := b.addDevice(id); err != nil {
			return nil, err
		}
	}
	return b, b.write()
}

func (b *base) add(account, name string, permissions *wire.Permissions) {
	credentials := v1alpha1.Credentials{Type: v1alpha1.CredentialPassword, User: name, Password: rand.Text()}
	b.users[account] = append(b.users[account], user{Credentials: credentials, permissions: permissions})
}

func (b *base) addDevice(id wire.DeviceID) error {
	if _, err := wire.ParseDeviceID(string(id)); err != nil {
		return fmt.Errorf("adding a device to the broker: %w", err)
	}
	permissions := wire.DevicePermissions(id)
	b.add(wire.AccountDevices, string(id), &permissions)
	return nil
}

// URL of the broker, such as "nats://127.0.0.1:4222", or "tls://" with Options.TLS.
func (b *base) URL() string {
	scheme := "nats://"
	if b.options.TLS {
		scheme = "tls://"
	}
	return scheme + loopback(b.options.Port)
}

// NATS is the URL, and whom to trust there, in the form of the programs'
// configuration files.
func (b *base) NATS() v1alpha1.NATSSection {
	return v1alpha1.NATSSection{URLs: []string{b.URL()}, CAFile: b.caFile}
}

// Dir is the folder with the configuration, the log and the store.
func (b *base) Dir() string { return b.options.Dir }

// Operator is the user with wire.OperatorPermissions.
func (b *base) Operator() v1alpha1.Credentials { return b.credentials(operatorUser) }

// Admin is the user with wire.AdminPermissions.
func (b *base) Admin() v1alpha1.Credentials { return b.credentials(adminUser) }

// Provisioner may do everything in the account of the streams; in a cluster it
// is the controller that creates them.
func (b *base) Provisioner() v1alpha1.Credentials { return b.credentials(provisionerUser) }

// Simulator may act as any device, over one connection; for load only. Its
// subscriptions are bounded like a device's: it uses wildcards.
func (b *base) Simulator() v1alpha1.Credentials { return b.credentials(simulatorUser) }

// Device is the user with wire.DevicePermissions of that id; empty credentials
// for a device that the broker does not know.
func (b *base) Device(id wire.DeviceID) v1alpha1.Credentials { return b.credentials(string(id)) }

func (b *base) credentials(name string) v1alpha1.Credentials {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, users := range b.users {
		for _, u := range users {
			if u.User == name {
				return u.Credentials
			}
		}
	}
	return v1alpha1.Credentials{}
}

// admit adds a device, has the server read its configuration again, and returns
// when the device can connect. A known device is no error.
func (b *base) admit(ctx context.Context, id wire.DeviceID, reload func() error) error {
	if b.Device(id).User != "" {
		return nil
	}
	b.mu.Lock()
	err := b.addDevice(id)
	if err == nil {
		err = b.write()
	}
	b.mu.Unlock()
	if err != nil {
		return err
	}
	if err := reload(); err != nil {
		return fmt.Errorf("reloading the broker's configuration: %w", err)
	}
	return retry(ctx, func() error {
		conn, err := b.connect(b.Device(id))
		if err != nil {
			return fmt.Errorf("connecting as the new device %q: %w", id, err)
		}
		conn.Close()
		return nil
	})
}

// provision creates the streams that are missing.
func (b *base) provision(ctx context.Context) error {
	conn, err := b.connect(b.Provisioner())
	if err != nil {
		return fmt.Errorf("connecting to provision the streams: %w", err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("provisioning the streams: %w", err)
	}
	for _, bucket := range wire.Buckets() {
		config := bus.StreamConfig(bucket)
		if b.options.Shape != nil && !b.options.Shape(&config) {
			continue
		}
		if _, err := js.CreateOrUpdateStream(ctx, config); err != nil {
			return fmt.Errorf("creating the stream %q: %w", config.Name, err)
		}
	}
	return nil
}

// connectTimeout is for a machine that is busy: the client's own is 2 s.
const connectTimeout = time.Minute

func (b *base) connect(as v1alpha1.Credentials) (*nats.Conn, error) {
	options := []nats.Option{nats.UserInfo(as.User, as.Password), nats.NoReconnect(), nats.Timeout(connectTimeout)}
	if b.caFile != "" {
		options = append(options, nats.RootCAs(b.caFile))
	}
	return nats.Connect(b.URL(), options...)
}

func (b *base) removeDir() error {
	if !b.tempDir {
		return nil
	}
	return os.RemoveAll(b.options.Dir)
}

// retry calls try until it succeeds or ctx is done.
func retry(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(cmp.Or(context.Cause(ctx), ctx.Err()), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
