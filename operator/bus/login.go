package bus

import (
	"fmt"
	"os"
	"strings"

	"github.com/go-logr/logr"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// login is how a connection proves who it is. Files are read once here, so that a
// missing one is told at once, and anew at each connect, so that a changed one
// needs no restart.
func login(c v1alpha1.Credentials, log logr.Logger) (nats.Option, error) {
	if c.Type == v1alpha1.CredentialNKey {
		public, err := publicKey(c.SeedFile)
		if err != nil {
			return nil, err
		}
		return nats.Nkey(public, func(nonce []byte) ([]byte, error) { return sign(c.SeedFile, nonce) }), nil
	}
	if _, err := password(c); err != nil {
		return nil, err
	}
	return nats.UserInfoHandler(func() (string, string) {
		secret, err := password(c)
		if err != nil {
			log.Error(err, "cannot log in to the broker")
		}
		return c.User, secret
	}), nil
}

func password(c v1alpha1.Credentials) (string, error) {
	if c.PasswordFile == "" {
		return c.Password, nil
	}
	content, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	return strings.TrimRight(string(content), "\r\n"), nil
}

func publicKey(file string) (string, error) {
	pair, err := seed(file)
	if err != nil {
		return "", err
	}
	defer pair.Wipe()
	return pair.PublicKey()
}

func sign(file string, nonce []byte) ([]byte, error) {
	pair, err := seed(file)
	if err != nil {
		return nil, err
	}
	defer pair.Wipe()
	return pair.Sign(nonce)
}

// seed reads a key. Its errors tell nothing of it.
func seed(file string) (nkeys.KeyPair, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	pair, err := nkeys.ParseDecoratedNKey(content)
	if err != nil {
		return nil, fmt.Errorf("reading the key in %s: not the seed of an nkey", file)
	}
	return pair, nil
}
