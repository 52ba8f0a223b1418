package bus

import (
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// login is how a connection proves which device it is. Files are read at each
// connect: what is in them may have been renewed.
func login(to Target) ([]nats.Option, error) {
	if to.Credentials.Type == v1alpha1.CredentialNKey {
		return keyLogin(to)
	}
	password, err := password(to)
	if err != nil {
		return nil, err
	}
	return []nats.Option{nats.UserInfo(to.Credentials.User, password)}, nil
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
	file := to.Credentials.SeedFile
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading [credentials] seed_file: %w", err)
	}
	pair, err := nkeys.ParseDecoratedNKey(data)
	if err != nil {
		return nil, fmt.Errorf("[credentials] seed_file: %s does not hold the seed of a user nkey (SU…)", file)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("[credentials] seed_file: %s: %w", file, err)
	}
	return []nats.Option{nats.UserInfo(string(to.Device), ""), nats.Nkey(public, pair.Sign)}, nil
}

// who is the login in words.
func who(to Target) string {
	if to.Credentials.Type == v1alpha1.CredentialNKey {
		return fmt.Sprintf("device %q by its key: nobody let that key in, or it is revoked", to.Device)
	}
	return fmt.Sprintf("user %q: wrong user or password", to.Credentials.User)
}
