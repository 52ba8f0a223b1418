package bus

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// login is how a connection proves which device it is, with the token that it
// does so with, if it is one. Files are read at each connect: what is in them may
// have been renewed.
func login(ctx context.Context, to Target) (token string, options []nats.Option, err error) {
	switch to.Credentials.Type {
	case v1alpha1.CredentialNKey:
		options, err = keyLogin(to)
		return "", options, err
	case v1alpha1.CredentialZitadelJWT, v1alpha1.CredentialClientCredentials:
		if token, err = to.Tokens.Token(ctx); err != nil {
			return "", nil, fmt.Errorf("getting a token to log in with: %w", err)
		}
		return token, []nats.Option{nats.Token(token)}, nil
	}
	password, err := password(to)
	if err != nil {
		return "", nil, err
	}
	return "", []nats.Option{nats.UserInfo(to.Credentials.User, password)}, nil
}

func password(to Target) (string, error) {
	file := to.Credentials.PasswordFile
	if file == "" {
		return to.Credentials.Password, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading [credentials] password_file: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// keyLogin names the device and its key, and signs what the broker asks for. The
// key stays here.
func keyLogin(to Target) ([]nats.Option, error) {
	pair, public, err := readKey(to.Credentials.SeedFile)
	if err != nil {
		return nil, fmt.Errorf("[credentials] seed_file: %w", err)
	}
	return []nats.Option{nats.UserInfo(string(to.Device), ""), nats.Nkey(public, pair.Sign)}, nil
}

// readKey reads a file with the seed of a user nkey.
func readKey(file string) (pair nkeys.KeyPair, public string, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, "", err
	}
	pair, err = nkeys.ParseDecoratedNKey(data)
	if err != nil {
		return nil, "", fmt.Errorf("%s does not hold the seed of a user nkey (SU…)", file)
	}
	public, err = pair.PublicKey()
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", file, err)
	}
	return pair, public, nil
}

// NewKey makes a key for a device to log in with. What it returns is the whole of
// it, for a file that nobody else can read.
func NewKey() (seed []byte, err error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	if seed, err = pair.Seed(); err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return append(seed, '\n'), nil
}

// PublicKey is the public part of the key in a file. Errors name the file, and
// nothing that is in it.
func PublicKey(file string) (string, error) {
	_, public, err := readKey(file)
	return public, err
}

// who is the login in words, and why it may have been refused.
func who(to Target) string {
	switch to.Credentials.Type {
	case v1alpha1.CredentialNKey:
		return fmt.Sprintf("device %q by its key: nobody let that key in, or it is revoked", to.Device)
	case v1alpha1.CredentialZitadelJWT, v1alpha1.CredentialClientCredentials:
		return fmt.Sprintf("device %q by a token of %s, which is not that device's, lacks the role, or was revoked; fleet-callout logs the reason", to.Device, to.Credentials.Issuer)
	}
	return fmt.Sprintf("user %q: wrong user or password", to.Credentials.User)
}
