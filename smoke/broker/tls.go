package broker

import (
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nationtech/harmony-fleet/smoke/pki"
)

// The broker's certificate and its key, in its folder.
const certFile, keyFile = "server.crt", "server.key"

// writePKI makes a certificate for the broker and returns the file that holds the
// authority's.
func writePKI(dir string) (caFile string, err error) {
	ca, err := pki.NewAuthority()
	if err != nil {
		return "", err
	}
	server, err := ca.Issue(pkix.Name{CommonName: "nats"}, "127.0.0.1", "localhost")
	if err != nil {
		return "", err
	}
	for name, content := range map[string][]byte{"ca.crt": ca.PEM, certFile: server.Cert, keyFile: server.Key} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return "", fmt.Errorf("writing the broker's certificates: %w", err)
		}
	}
	return filepath.Join(dir, "ca.crt"), nil
}
