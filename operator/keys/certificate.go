package keys

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

const (
	// certificateLife is that of the broker's certificate. It is issued anew when a
	// third of it is left, so an install that is off for months comes back with one
	// that is good.
	certificateLife = 365 * 24 * time.Hour
	// clockSkew is by how much the clock of a device may be behind.
	clockSkew = time.Hour
)

// authority signs the broker's certificate. Devices trust it, and it alone, so it
// lives for the ten years that the library gives it.
type authority struct {
	cert            *x509.Certificate
	key             *ecdsa.PrivateKey
	certPEM, keyPEM []byte
}

func newAuthority() (authority, error) {
	keyPEM, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		return authority{}, fmt.Errorf("making the key of the certificate authority: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return authority{}, err
	}
	made, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "harmony-fleet"}, key)
	if err != nil {
		return authority{}, fmt.Errorf("making the certificate authority: %w", err)
	}
	certPEM, err := cert.EncodeCertificates(made)
	if err != nil {
		return authority{}, fmt.Errorf("encoding the certificate authority: %w", err)
	}
	return authority{cert: made, key: key, certPEM: certPEM, keyPEM: keyPEM}, nil
}

// readAuthority takes the authority out of the Secret's entries.
func readAuthority(entries map[string][]byte) (authority, error) {
	a := authority{certPEM: entries[AuthorityCert], keyPEM: entries[AuthorityKey]}
	certs, err := cert.ParseCertsPEM(a.certPEM)
	if err != nil || len(certs) != 1 || !certs[0].IsCA {
		return a, fmt.Errorf("entry %q is not the certificate of one authority in PEM: mend it, or remove it and %q for a new one", AuthorityCert, AuthorityKey)
	}
	a.cert = certs[0]
	if a.key, err = parseKey(a.keyPEM); err != nil {
		return a, fmt.Errorf("entry %q: %w", AuthorityKey, err)
	}
	if !a.key.PublicKey.Equal(a.cert.PublicKey) {
		return a, fmt.Errorf("entry %q is not the key of the certificate in %q", AuthorityKey, AuthorityCert)
	}
	return a, nil
}

func parseKey(keyPEM []byte) (*ecdsa.PrivateKey, error) {
	parsed, err := keyutil.ParsePrivateKeyPEM(keyPEM)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("not an elliptic key")
	}
	return key, nil
}

// Certify returns the entries of the broker's TLS Secret for these hosts, names or
// addresses, and why they were made anew; "" when those that it has will do. keys
// are the entries of the complete Secret of keys.
func Certify(have, keys map[string][]byte, hosts []string, now time.Time) (entries map[string][]byte, why string, err error) {
	a, err := readAuthority(keys)
	if err != nil {
		return nil, "", err
	}
	if why = a.lacks(have, hosts, now); why == "" {
		return have, "", nil
	}
	certPEM, keyPEM, err := a.issue(hosts, now)
	if err != nil {
		return nil, "", err
	}
	return map[string][]byte{
		corev1.TLSCertKey: certPEM, corev1.TLSPrivateKeyKey: keyPEM, corev1.ServiceAccountRootCAKey: a.certPEM,
	}, why, nil
}

// lacks is why the entries will not do; "" when they will.
func (a authority) lacks(have map[string][]byte, hosts []string, now time.Time) string {
	if len(have[corev1.TLSCertKey]) == 0 {
		return "there is none"
	}
	pair, err := tls.X509KeyPair(have[corev1.TLSCertKey], have[corev1.TLSPrivateKeyKey])
	if err != nil {
		return "it cannot be read"
	}
	leaf := pair.Leaf
	switch {
	case leaf.CheckSignatureFrom(a.cert) != nil, !bytes.Equal(have[corev1.ServiceAccountRootCAKey], a.certPEM):
		return "it is of another authority"
	case leaf.NotAfter.Sub(now) < certificateLife/3:
		return "it expires"
	}
	for _, host := range hosts {
		if leaf.VerifyHostname(host) != nil {
			return "it lacks the host " + host
		}
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses) > len(hosts) {
		return "it has hosts that are no longer wanted"
	}
	return ""
}

func (a authority) issue(hosts []string, now time.Time) (certPEM, keyPEM []byte, err error) {
	if keyPEM, err = keyutil.MakeEllipticPrivateKeyPEM(); err != nil {
		return nil, nil, fmt.Errorf("making the broker's key: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, fmt.Errorf("making a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "harmony-fleet broker"},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature,
		// The servers of a cluster are each other's clients.
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, host := range slices.Compact(slices.Sorted(slices.Values(hosts))) {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("signing the broker's certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: der}), keyPEM, nil
}
