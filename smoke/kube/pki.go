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

// writePKI makes the authority, puts what the control plane reads from files into
// dir and returns the administrator's pair.
func (c *ControlPlane) writePKI(dir string) (admin pki.Pair, err error) {
	if c.ca, err = pki.NewAuthority(); err != nil {
		return pki.Pair{}, err
	}
	hosts := []string{c.network.host(), "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	if c.network.Services.IsValid() {
		hosts = append(hosts, c.network.Services.Addr().Next().String()) // of the Service kubernetes
	}
	server, err := c.ca.Issue(pkix.Name{CommonName: "kube-apiserver"}, hosts...)
	if err != nil {
		return pki.Pair{}, err
	}
	if admin, err = c.ca.Issue(pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}); err != nil {
		return pki.Pair{}, err
	}
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pki.Pair{}, fmt.Errorf("making the key of the service accounts: %w", err)
	}
	accountsPEM, err := pki.EncodeKey(accounts)
	if err != nil {
		return pki.Pair{}, err
	}
	files := map[string][]byte{
		"ca.crt":     c.ca.PEM,
		"server.crt": server.Cert, "server.key": server.Key,
		"admin.crt": admin.Cert, "admin.key": admin.Key,
		"accounts.key": accountsPEM,
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return pki.Pair{}, fmt.Errorf("writing the certificates: %w", err)
		}
	}
	return admin, nil
}
