package broker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// serverConfig is the server's configuration file. JSON is a subset of its
// syntax; a file, not a value, so that a server in this process and one in a
// process of its own run and reload the same.
type serverConfig struct {
	Listen         string                   `json:"listen"`
	Monitor        string                   `json:"http,omitempty"`
	MaxPayload     int                      `json:"max_payload"`
	MaxConnections int                      `json:"max_connections"`
	MaxPending     int                      `json:"max_pending"`
	LogFile        string                   `json:"log_file"`
	TLS            *tlsConfig               `json:"tls,omitempty"`
	Authorization  *authorizationConfig     `json:"authorization,omitempty"`
	JetStream      jetStreamConfig          `json:"jetstream"`
	Accounts       map[string]accountConfig `json:"accounts"`
	SystemAccount  string                   `json:"system_account"`
}

type tlsConfig struct {
	CertFile string `json:"cert_file"`
	KeyFile  string `json:"key_file"`
	// Timeout of a handshake, in seconds: many at once wait for each other.
	Timeout float64 `json:"timeout"`
	// HandshakeFirst is whether a client may begin with it.
	HandshakeFirst string `json:"handshake_first"`
}

type authorizationConfig struct {
	// Timeout of a login, in seconds: the callout may have to ask others.
	Timeout float64       `json:"timeout"`
	Callout calloutConfig `json:"auth_callout"`
}

type calloutConfig struct {
	Issuer  string   `json:"issuer"`
	XKey    string   `json:"xkey"`
	Account string   `json:"account"`
	Users   []string `json:"auth_users"`
}

type jetStreamConfig struct {
	StoreDir     string         `json:"store_dir"`
	SyncInterval string         `json:"sync_interval,omitempty"`
	MaxFile      int64          `json:"max_file_store"`
	Limits       map[string]int `json:"limits"`
}

type accountConfig struct {
	JetStream string           `json:"jetstream,omitempty"`
	Limits    map[string]int   `json:"limits,omitempty"`
	Exports   []map[string]any `json:"exports"`
	Imports   []map[string]any `json:"imports"`
	Users     []userConfig     `json:"users"`
}

type userConfig struct {
	User        string             `json:"user,omitempty"`
	Password    string             `json:"password,omitempty"`
	NKey        string             `json:"nkey,omitempty"`
	Permissions *permissionsConfig `json:"permissions,omitempty"`
}

type permissionsConfig struct {
	Publish   allowList       `json:"publish"`
	Subscribe allowList       `json:"subscribe"`
	Responses *responseConfig `json:"allow_responses,omitempty"`
}

type allowList struct {
	Allow []string `json:"allow"`
}

type responseConfig struct {
	Max     int    `json:"max"`
	Expires string `json:"expires"`
}

// config is the whole configuration for the options and the users.
func (b *base) config() serverConfig {
	c := serverConfig{
		Listen:         loopback(b.options.Port),
		MaxPayload:     1 << 20,
		MaxConnections: 20_000,
		MaxPending:     64 << 20,
		LogFile:        filepath.Join(b.options.Dir, "broker.log"),
		JetStream: jetStreamConfig{
			StoreDir: filepath.Join(b.options.Dir, "jetstream"),
			// The buckets reserve their MaxBytes, so what is free on the host
			// must not decide.
			MaxFile: 16 << 30,
			Limits:  map[string]int{"default_max_consumers": 1000},
		},
		Accounts:      map[string]accountConfig{},
		SystemAccount: wire.AccountSystem,
	}
	if b.options.MonitorPort != 0 {
		c.Monitor = loopback(b.options.MonitorPort)
	}
	if b.options.SyncAlways {
		c.JetStream.SyncInterval = "always"
	}
	if b.options.TLS {
		c.TLS = &tlsConfig{
			CertFile: filepath.Join(b.options.Dir, certFile), KeyFile: filepath.Join(b.options.Dir, keyFile),
			Timeout: b.options.LoginTimeout.Seconds(), HandshakeFirst: "auto",
		}
	}
	if b.callout != nil && !b.options.Muted {
		c.Authorization = b.callout.authorization(b.users, b.options.LoginTimeout)
	}
	for _, account := range wire.Accounts() {
		c.Accounts[account.Name] = convertAccount(account, b.users[account.Name])
	}
	return c
}

// write puts the configuration where the server reads it, at start and at reload.
func (b *base) write() error {
	var file bytes.Buffer
	encoder := json.NewEncoder(&file)
	encoder.SetEscapeHTML(false) // the server's syntax knows no \u003e
	if err := encoder.Encode(b.config()); err != nil {
		return fmt.Errorf("encoding the broker's configuration: %w", err)
	}
	if err := os.WriteFile(b.configFile(), file.Bytes(), 0o600); err != nil {
		return fmt.Errorf("writing the broker's configuration: %w", err)
	}
	return nil
}

func (b *base) configFile() string { return filepath.Join(b.options.Dir, "broker.conf") }

func convertAccount(account wire.Account, users []user) accountConfig {
	c := accountConfig{Exports: []map[string]any{}, Imports: []map[string]any{}, Users: []userConfig{}}
	if account.JetStream {
		c.JetStream = "enabled"
	}
	for _, e := range account.Exports {
		c.Exports = append(c.Exports, map[string]any{kind(e): e.Subject, "accounts": []string{e.Account}})
	}
	for _, i := range account.Imports {
		c.Imports = append(c.Imports, map[string]any{kind(i): map[string]string{"account": i.Account, "subject": i.Subject}})
	}
	if account.Name == wire.AccountDevices {
		// Users of a configuration file have no limits of their own; those of
		// an account hold for each of its connections.
		limits := wire.DevicePermissions("any")
		c.Limits = map[string]int{"max_subscriptions": limits.MaxSubscriptions, "max_payload": limits.MaxPayload}
	}
	for _, u := range users {
		c.Users = append(c.Users, userConfig{User: u.User, Password: u.Password, NKey: u.nkey, Permissions: convertPermissions(u.permissions)})
	}
	return c
}

func kind(e wire.Exchange) string {
	if e.Stream {
		return "stream"
	}
	return "service"
}

// convertPermissions converts nil, which is everything in the user's account, to nil.
func convertPermissions(p *wire.Permissions) *permissionsConfig {
	if p == nil {
		return nil
	}
	c := &permissionsConfig{Publish: allowList{p.Publish}, Subscribe: allowList{p.Subscribe}}
	if p.Responses > 0 {
		c.Responses = &responseConfig{Max: p.Responses, Expires: p.ResponseTTL.String()}
	}
	return c
}

// user is one user of the broker.
type user struct {
	v1alpha1.Credentials
	nkey        string // public, instead of a password
	permissions *wire.Permissions
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
