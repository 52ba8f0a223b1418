package v1alpha1

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// OpenBaoSection says where the policies of devices are kept: in an engine of
// the type KV version 2, a policy at devices/<device id> and, for a device that is
// revoked, anything at revoked/<device id>.
type OpenBaoSection struct {
	// Address of OpenBao, such as "https://openbao.example.com:8200".
	Address string `json:"address,omitempty"`
	// CAFile holds the certificates to trust there instead of the system's.
	CAFile string `json:"caFile,omitempty"`
	// Mount of the engine.
	Mount string `json:"mount"`
	// LoginMount is where the method is mounted, "jwt" or "kubernetes", by which
	// the program logs in with the role LoginRole and the token in LoginTokenFile,
	// which is that of the pod's service account.
	LoginMount     string `json:"loginMount"`
	LoginRole      string `json:"loginRole"`
	LoginTokenFile string `json:"loginTokenFile"`
	// MaxStale is how long an outage of OpenBao cuts no known device off. Then
	// nobody is let in.
	MaxStale Duration `json:"maxStale"`
}

// minStale is above the time between two reads of the revocations, many times.
const minStale = time.Minute

// OpenBaoDefaults is what holds where a file is silent.
func OpenBaoDefaults() OpenBaoSection {
	return OpenBaoSection{
		Mount: "fleet", LoginMount: "kubernetes", LoginRole: "fleet-callout",
		LoginTokenFile: "/var/run/secrets/kubernetes.io/serviceaccount/token",
		MaxStale:       Duration(24 * time.Hour),
	}
}

// Validate reports what is wrong with the section.
func (o OpenBaoSection) Validate() error {
	if err := validHTTP(o.Address); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	for name, value := range map[string]string{"mount": o.Mount, "loginMount": o.LoginMount, "loginRole": o.LoginRole, "loginTokenFile": o.LoginTokenFile} {
		if value == "" {
			return fmt.Errorf("%s: must not be empty", name)
		}
	}
	if o.MaxStale < Duration(minStale) {
		return fmt.Errorf("maxStale: must be at least %s", minStale)
	}
	return nil
}

// validHTTP wants an address that nobody on the way can read or change. Issuers are
// compared letter by letter, so a slash at the end counts.
func validHTTP(address string) error {
	parsed, err := url.Parse(address)
	if err != nil || parsed.Host == "" || parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" ||
		(parsed.Scheme != "https" && (parsed.Scheme != "http" || parsed.Hostname() != "127.0.0.1")) {
		return fmt.Errorf(`%q must look like "https://host.example.com"; http:// is for 127.0.0.1 alone`, address)
	}
	if strings.HasSuffix(address, "/") {
		return fmt.Errorf("%q must not end with a slash", address)
	}
	return nil
}
