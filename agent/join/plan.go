package join

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
)

// Request is what the command that `kubectl fleet enroll` prints says.
type Request struct {
	// Token of enrolment.
	Token string
	// Device that the token must be for; "" for whichever it is.
	Device string
	// URLs of the broker, and TrustedKeys of the operator, as in the configuration.
	URLs, TrustedKeys []string
	// CA has certificates to trust at the broker instead of the system's: in DER,
	// one after the other, in base64 for URLs; "" for the system's.
	CA string
}

// plan is what a request comes to, before anything is done.
type plan struct {
	token  policy.Token
	config v1alpha1.AgentConfig
	ca     []byte // in PEM; nil for the system's
}

// newPlan checks a request whose files are to be in dir; cfg is what was written
// before. The token is shown to nobody before all of it is right.
func newPlan(r Request, cfg v1alpha1.AgentConfig, dir string) (plan, error) {
	token, err := policy.ParseToken(r.Token)
	if err != nil {
		return plan{}, err
	}
	if r.Device != "" && r.Device != string(token.Device) {
		return plan{}, fmt.Errorf("--device-id is %q, and the token is for device %q: copy the whole command", r.Device, token.Device)
	}
	p := plan{token: token, config: cfg}
	p.config.Agent.DeviceID, p.config.Agent.TrustedKeys = string(token.Device), r.TrustedKeys
	p.config.NATS.URLs = r.URLs
	// Each token has a key of its own, so no try can use up or replace another's.
	p.config.Credentials = v1alpha1.Credentials{Type: v1alpha1.CredentialNKey, SeedFile: filepath.Join(dir, "device-"+token.Digest()[:8]+".seed")}
	if r.CA != "" {
		if p.ca, err = decodeCA(r.CA); err != nil {
			return plan{}, fmt.Errorf("--ca: %w", err)
		}
		p.config.NATS.CAFile = filepath.Join(dir, "ca.pem")
	}
	if err := p.config.NATS.Encrypted(); err != nil {
		return plan{}, fmt.Errorf("--url: %w", err)
	}
	return p, p.config.Validate()
}

// decodeCA reads certificates and writes them in PEM.
func decodeCA(text string) ([]byte, error) {
	der, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("not base64; copy the whole command")
	}
	certificates, err := x509.ParseCertificates(der)
	if err != nil || len(certificates) == 0 {
		return nil, errors.New("no certificates; copy the whole command")
	}
	var out bytes.Buffer
	for _, c := range certificates {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}
