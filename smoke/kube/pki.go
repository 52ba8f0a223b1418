package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nationtech/harmony-fleet/smoke/pki"
)

// writePKI puts what kube-apiserver reads from files into dir and returns the
// authority and the administrator's pair.
func writePKI(dir string) (*pki.Authority, pki.Pair, error) {
	ca, err := pki.NewAuthority()
	if err != nil {
		return nil, pki.Pair{}, err
	}
	server, err := ca.Issue(pkix.Name{CommonName: "kube-apiserver"}, "127.0.0.1", "localhost", "kubernetes.default.svc")
	if err != nil {
		return nil, pki.Pair{}, err
	}
	admin, err := ca.Issue(pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	if err != nil {
		return nil, pki.Pair{}, err
	}
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, pki.Pair{}, fmt.Errorf("making the key of the service accounts: %w", err)
	}
	accountsPEM, err := pki.EncodeKey(accounts)
	if err != nil {
		return nil, pki.Pair{}, err
	}
	files := map[string][]byte{"ca.crt": ca.PEM, "server.crt": server.Cert, "server.key": server.Key, "accounts.key": accountsPEM}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, pki.Pair{}, fmt.Errorf("writing the certificates: %w", err)
		}
	}
	return ca, admin, nil
}
