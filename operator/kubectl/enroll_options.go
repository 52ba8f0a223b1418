package kubectl

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/enrol"
)

// How a device proves who it is.
const (
	loginNKey  = "nkey"
	loginToken = "token"
)

// Where the agent's files are that a person copies to a device.
const (
	keyFile = "/etc/fleet-agent/key.json"
	caFile  = "/etc/fleet-agent/ca.pem"
)

// Bounds of --valid-for.
const (
	minValidFor = time.Minute
	maxValidFor = 7 * 24 * time.Hour
)

// enrolOptions are the flags of enroll and re-enroll.
type enrolOptions struct {
	labels, sources   []string
	validFor          time.Duration
	login             string
	urls, trustedKeys []string
	caFile            string
	// Of a device that brings tokens.
	issuer, audience, loginMount, devicePrefix string

	store  storeFlags
	output *format
}

func (o *enrolOptions) addTo(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&o.labels, "label", nil, "label that the device may claim, as KEY=VALUE; * for any value; may be repeated")
	f.StringArrayVar(&o.sources, "source", nil, "network that it may connect from, such as 192.0.2.0/24; may be repeated (default anywhere)")
	f.DurationVar(&o.validFor, "valid-for", time.Hour, "how long the command may be used")
	f.StringVar(&o.login, "login", loginNKey, "how the device proves who it is: nkey, by a key of its own, or token, by tokens of an OpenID provider")
	f.StringArrayVar(&o.urls, "url", fromEnvironment("FLEET_NATS_URL"), "address at which the device reaches the broker; may be repeated")
	f.StringVar(&o.caFile, "ca-file", os.Getenv("FLEET_NATS_CA_FILE"), "certificates for the device to trust at the broker instead of its system's")
	f.StringArrayVar(&o.trustedKeys, "trusted-key", fromEnvironment("FLEET_TRUSTED_KEYS"), "public key of the operator (O…); may be repeated")
	f.StringVar(&o.issuer, "issuer", "", "with --login token: the provider, as fleet-callout's oidc.issuer has it")
	f.StringVar(&o.audience, "audience", "", "with --login token: as fleet-callout's oidc.audience has it, with Zitadel the id of the project")
	f.StringVar(&o.devicePrefix, "device-prefix", config.CalloutDefaults().OIDC.DevicePrefix, "with --login token: as fleet-callout's oidc.devicePrefix has it")
	f.StringVar(&o.loginMount, "login-mount", "jwt", "with --login token and OpenBao: where its login method for devices is mounted, below auth/")
	o.store.addTo(cmd)
	o.output.addTo(cmd)
	must(cmd.RegisterFlagCompletionFunc("login", cobra.FixedCompletions([]string{loginNKey, loginToken}, cobra.ShellCompDirectiveNoFileComp)))
}

// fromEnvironment is the value of a variable, a list with commas between.
func fromEnvironment(name string) (values []string) {
	for value := range strings.SplitSeq(os.Getenv(name), ",") {
		if value = strings.TrimSpace(value); value != "" {
			values = append(values, value)
		}
	}
	return values
}

// name of the device at its provider.
func (o *enrolOptions) name(id wire.DeviceID) string { return o.devicePrefix + string(id) }

// read checks the flags, but for those that way checks.
func (o *enrolOptions) read(id wire.DeviceID) (enrol.Request, error) {
	q := enrol.Request{Device: id, ValidFor: o.validFor}
	var err error
	if q.Policy.Labels, err = parseLabels(o.labels); err != nil {
		return q, err
	}
	q.Policy.Sources = o.sources
	for _, source := range o.sources {
		if _, err := netip.ParsePrefix(source); err != nil {
			return q, fmt.Errorf("--source %q: want a network such as 192.0.2.0/24", source)
		}
	}
	if _, err := q.Policy.Encode(); err != nil {
		return q, fmt.Errorf("--label, --source: %w", err)
	}
	if o.validFor < minValidFor || o.validFor > maxValidFor {
		return q, fmt.Errorf("--valid-for %s: want %s to %s", o.validFor, minValidFor, maxValidFor)
	}
	switch o.login {
	case loginNKey:
	case loginToken:
		if o.issuer == "" || o.audience == "" {
			return q, errors.New("--login token needs --issuer and --audience, as fleet-callout's configuration has them")
		}
		q.Login = enrol.Login{Mount: o.loginMount, Name: o.name(id)}
	default:
		return q, fmt.Errorf("--login %q: want %s or %s", o.login, loginNKey, loginToken)
	}
	return q, nil
}

// parseLabels reads KEY=VALUE, each key as often as it has values.
func parseLabels(texts []string) (map[string][]string, error) {
	if texts == nil {
		return nil, nil
	}
	labels := map[string][]string{}
	for _, text := range texts {
		key, value, found := strings.Cut(text, "=")
		if !found || key == "" {
			return nil, fmt.Errorf("--label %q: want KEY=VALUE, or KEY=* for any value", text)
		}
		if key == v1alpha1.LabelDeviceID {
			return nil, errors.New("--label device-id: every device has that one, it is its id")
		}
		if problems := validation.IsQualifiedName(key); len(problems) > 0 {
			return nil, fmt.Errorf("--label %q: the key: %s", text, problems[0])
		}
		if problems := validation.IsValidLabelValue(value); value != policy.AnyValue && len(problems) > 0 {
			return nil, fmt.Errorf("--label %q: the value: %s", text, problems[0])
		}
		labels[key] = append(labels[key], value)
	}
	for key, values := range labels {
		if len(values) > 1 && slices.Contains(values, policy.AnyValue) {
			return nil, fmt.Errorf("--label %s: * is any value, so no other is needed beside it", key)
		}
	}
	return labels, nil
}

func formatLabels(labels map[string][]string) string {
	var texts []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		for _, value := range labels[key] {
			texts = append(texts, key+"="+value)
		}
	}
	return strings.Join(texts, ", ")
}

// way is how a device gets to the broker, and whom it believes.
type way struct {
	urls, trustedKeys []string
	ca                []byte // certificates in DER, one after the other; nil for the system's
	caFrom            string // where they were
}

// way takes what the operator published where no flag says otherwise, and checks
// it, for a device would find mistakes too late.
func (o *enrolOptions) way(told *published) (way, error) {
	w := way{urls: o.urls, trustedKeys: o.trustedKeys}
	if len(w.urls) == 0 && told.natsURL != "" {
		w.urls = []string{told.natsURL}
	}
	if len(w.trustedKeys) == 0 {
		w.trustedKeys = told.trustedKeys
	}
	section := config.NATSSection{URLs: w.urls}
	if err := cmp.Or(section.Validate(), section.Encrypted()); err != nil {
		return w, fmt.Errorf("--url or FLEET_NATS_URL: %w", err)
	}
	if len(w.trustedKeys) == 0 {
		return w, errors.New("--trusted-key or FLEET_TRUSTED_KEYS: missing; the operator logs its public keys (O…) when it starts, and publishes them when publish.configMap is set in its configuration")
	}
	for _, key := range w.trustedKeys {
		if err := wire.CheckSigningKey(key); err != nil {
			return w, fmt.Errorf("--trusted-key: %w", err)
		}
	}
	return w, w.readCA(o.caFile, told)
}

// readCA reads the file, or what was published when there is none.
func (w *way) readCA(file string, told *published) error {
	data := []byte(told.ca)
	w.caFrom = told.caFrom
	if file != "" {
		var err error
		if data, err = os.ReadFile(file); err != nil {
			return fmt.Errorf("--ca-file: %w", err)
		}
		w.caFrom = file
	}
	if len(data) == 0 && file == "" {
		return nil
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			w.ca = append(w.ca, block.Bytes...)
		}
	}
	if certificates, err := x509.ParseCertificates(w.ca); err != nil || len(certificates) == 0 {
		return fmt.Errorf("--ca-file: %s: %w", w.caFrom, cmp.Or(err, errors.New("no certificate in PEM")))
	}
	return nil
}

// command is what is run on the device.
func (w way) command(token policy.Token) string {
	words := []string{"fleet-agent", "join", "--device-id", string(token.Device)}
	for _, url := range w.urls {
		words = append(words, "--url", quote(url))
	}
	for _, key := range w.trustedKeys {
		words = append(words, "--trusted-key", key)
	}
	if w.ca != nil {
		words = append(words, "--ca", base64.RawURLEncoding.EncodeToString(w.ca))
	}
	return strings.Join(append(words, token.Text()), " ")
}

// quote makes one word of a shell of the text.
func quote(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return !strings.ContainsRune(plain, r) }) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:/"

// configuration is the file of a device that brings tokens.
func (w way) configuration(id wire.DeviceID, o *enrolOptions) string {
	var b bytes.Buffer
	line := func(name string, values ...string) {
		for i := range values {
			values[i] = strconv.Quote(values[i])
		}
		text := strings.Join(values, ", ")
		if name == "urls" || name == "trusted_keys" {
			text = "[" + text + "]"
		}
		fmt.Fprintf(&b, "%s = %s\n", name, text)
	}
	fmt.Fprintln(&b, "[agent]")
	line("device_id", string(id))
	line("trusted_keys", slices.Clone(w.trustedKeys)...)
	fmt.Fprintln(&b, "\n[nats]")
	line("urls", slices.Clone(w.urls)...)
	if w.ca != nil {
		line("ca_file", caFile)
	}
	fmt.Fprintln(&b, "\n[credentials]")
	line("type", string(config.CredentialZitadelJWT))
	line("issuer", o.issuer)
	line("audience", o.audience)
	line("key_file", keyFile)
	return b.String()
}
