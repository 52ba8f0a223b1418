package v1alpha1_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

func validAgent() v1alpha1.AgentConfig {
	c := v1alpha1.AgentDefaults()
	c.Agent.DeviceID = "pi-42"
	c.Agent.TrustedKeys = []string{"OCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVYOCS"}
	c.NATS.URLs = []string{"tls://nats.example.com:4222"}
	c.Credentials = v1alpha1.Credentials{Type: "password", User: "pi-42", PasswordFile: "/etc/fleet-agent/password"}
	return c
}

// zitadel and client are valid credentials of a provider.
func zitadel() v1alpha1.Credentials {
	return v1alpha1.Credentials{Type: "zitadel-jwt", Issuer: "https://sso.example.com", Audience: "1234", KeyFile: "/etc/fleet-agent/key.json"}
}

func client() v1alpha1.Credentials {
	return v1alpha1.Credentials{
		Type: "oidc-client-credentials", Issuer: "https://sso.example.com", Audience: "fleet", ClientID: "pi-42",
		ClientSecretFile: "/etc/fleet-agent/secret", CAFile: "/etc/fleet-agent/ca.pem",
	}
}

func TestAgentValidateNamesTheField(t *testing.T) {
	cases := map[string]struct {
		change func(*v1alpha1.AgentConfig)
		want   string // "" means valid
	}{
		"complete":               {func(*v1alpha1.AgentConfig) {}, ""},
		"no device id":           {func(c *v1alpha1.AgentConfig) { c.Agent.DeviceID = "" }, "[agent] device_id"},
		"device id with a dot":   {func(c *v1alpha1.AgentConfig) { c.Agent.DeviceID = "pi.42" }, "[agent] device_id"},
		"upper case device id":   {func(c *v1alpha1.AgentConfig) { c.Agent.DeviceID = "Pi" }, "[agent] device_id"},
		"wildcard device id":     {func(c *v1alpha1.AgentConfig) { c.Agent.DeviceID = "*" }, "[agent] device_id"},
		"64 characters":          {func(c *v1alpha1.AgentConfig) { c.Agent.DeviceID = strings.Repeat("a", 64) }, "[agent] device_id"},
		"relative state dir":     {func(c *v1alpha1.AgentConfig) { c.Agent.StateDir = "state" }, "[agent] state_dir"},
		"no broker":              {func(c *v1alpha1.AgentConfig) { c.NATS.URLs = nil }, "[nats] urls"},
		"two brokers in one URL": {func(c *v1alpha1.AgentConfig) { c.NATS.URLs = []string{"tls://a:1,tls://b:2"} }, "[nats] urls"},
		"broker without scheme":  {func(c *v1alpha1.AgentConfig) { c.NATS.URLs = []string{"nats.example.com"} }, "[nats] urls"},
		"handshake first":        {func(c *v1alpha1.AgentConfig) { c.NATS.URLs = []string{"tls-first://a:1", "tls-first://b:2"} }, ""},
		"handshake first at one": {func(c *v1alpha1.AgentConfig) { c.NATS.URLs = []string{"tls-first://a:1", "tls://b:2"} }, "must start with tls-first://, or none"},
		"podman over TCP":        {func(c *v1alpha1.AgentConfig) { c.Podman.Socket = "tcp://127.0.0.1:8080" }, "[podman] socket"},
		"negative retention":     {func(c *v1alpha1.AgentConfig) { c.Podman.ImageRetention = -1 }, "[podman] image_retention"},
		"jitter of days":         {func(c *v1alpha1.AgentConfig) { c.Podman.PullJitter = v1alpha1.Duration(48 * time.Hour) }, "[podman] pull_jitter: must be 0s to 24h"},
		"polling too fast":       {func(c *v1alpha1.AgentConfig) { c.Podman.PollInterval = 1 }, "[podman] poll_interval"},
		"unknown credentials":    {func(c *v1alpha1.AgentConfig) { c.Credentials.Type = "magic" }, "[credentials] type"},
		"no credentials":         {func(c *v1alpha1.AgentConfig) { c.Credentials = v1alpha1.Credentials{} }, "[credentials] type"},
		"a key":                  {func(c *v1alpha1.AgentConfig) { c.Credentials = v1alpha1.Credentials{Type: "nkey", SeedFile: "/k"} }, ""},
		"a key without a file":   {func(c *v1alpha1.AgentConfig) { c.Credentials = v1alpha1.Credentials{Type: "nkey"} }, "[credentials] type nkey"},
		"a key and a password":   {func(c *v1alpha1.AgentConfig) { c.Credentials.SeedFile = "/k" }, "[credentials] type password"},
		"two passwords":          {func(c *v1alpha1.AgentConfig) { c.Credentials.Password = "x" }, "[credentials]"},
		"all types are named":    {func(c *v1alpha1.AgentConfig) { c.Credentials.Type = "magic" }, `"password", "nkey", "zitadel-jwt", "oidc-client-credentials"`},
		"secrets":                {func(c *v1alpha1.AgentConfig) { c.OpenBao.Address = "https://openbao.example.com:8200" }, ""},
		"secrets here":           {func(c *v1alpha1.AgentConfig) { c.OpenBao.Address = "http://127.0.0.1:8200" }, ""},
		"secrets in clear":       {func(c *v1alpha1.AgentConfig) { c.OpenBao.Address = "http://openbao.example.com" }, "[openbao] address"},
		"no address":             {func(c *v1alpha1.AgentConfig) { c.OpenBao.CAFile = "/ca.pem" }, "[openbao] address: missing"},
		"no engine":              {func(c *v1alpha1.AgentConfig) { c.OpenBao.Address, c.OpenBao.Mount = "https://a", "" }, "[openbao] mount"},
		"no login":               {func(c *v1alpha1.AgentConfig) { c.OpenBao.Address, c.OpenBao.LoginMount = "https://a", "" }, "[openbao] login_mount"},
		"no role":                {func(c *v1alpha1.AgentConfig) { c.OpenBao.Address, c.OpenBao.LoginRole = "https://a", "" }, "[openbao] login_role"},
		"refreshed too often":    {func(c *v1alpha1.AgentConfig) { c.OpenBao.Address, c.OpenBao.RefreshInterval = "https://a", 1 }, "[openbao] refresh_interval: must be at least 10s"},
		"a machine key":          {func(c *v1alpha1.AgentConfig) { c.Credentials = zitadel() }, ""},
		"no issuer":              {func(c *v1alpha1.AgentConfig) { c.Credentials = zitadel(); c.Credentials.Issuer = "" }, "issuer is missing"},
		"issuer in clear": {func(c *v1alpha1.AgentConfig) {
			c.Credentials = zitadel()
			c.Credentials.Issuer = "http://sso.example.com"
		}, "[credentials] type zitadel-jwt: issuer"},
		"issuer with a slash":   {func(c *v1alpha1.AgentConfig) { c.Credentials = zitadel(); c.Credentials.Issuer += "/" }, "must not end with a slash"},
		"issuer without a host": {func(c *v1alpha1.AgentConfig) { c.Credentials = zitadel(); c.Credentials.Issuer = "https://" }, "issuer"},
		"issuer like loopback": {func(c *v1alpha1.AgentConfig) {
			c.Credentials = zitadel()
			c.Credentials.Issuer = "http://127.0.0.1.example.com"
		}, "issuer"},
		"issuer on loopback": {func(c *v1alpha1.AgentConfig) {
			c.Credentials = zitadel()
			c.Credentials.Issuer = "http://127.0.0.1:8080"
		}, ""},
		"two audiences":          {func(c *v1alpha1.AgentConfig) { c.Credentials = zitadel(); c.Credentials.Audience = "1 2" }, "audience"},
		"no key file":            {func(c *v1alpha1.AgentConfig) { c.Credentials = zitadel(); c.Credentials.KeyFile = "" }, "key_file is missing"},
		"a key and a secret":     {func(c *v1alpha1.AgentConfig) { c.Credentials = zitadel(); c.Credentials.ClientSecretFile = "/s" }, "client_secret_file belongs to another type; take it away"},
		"a client":               {func(c *v1alpha1.AgentConfig) { c.Credentials = client() }, ""},
		"a client with scopes":   {func(c *v1alpha1.AgentConfig) { c.Credentials = client(); c.Credentials.Scopes = []string{"fleet"} }, ""},
		"scopes in one":          {func(c *v1alpha1.AgentConfig) { c.Credentials = client(); c.Credentials.Scopes = []string{"a b"} }, "write one scope per entry"},
		"a client without an id": {func(c *v1alpha1.AgentConfig) { c.Credentials = client(); c.Credentials.ClientID = "" }, "client_id is missing"},
		"scopes of a password":   {func(c *v1alpha1.AgentConfig) { c.Credentials.Scopes = []string{"a"} }, "scopes belongs to another type"},
		"odd log level":          {func(c *v1alpha1.AgentConfig) { c.Agent.LogLevel = "loud" }, "[agent] log_level"},
		"no trusted key":         {func(c *v1alpha1.AgentConfig) { c.Agent.TrustedKeys = nil }, "[agent] trusted_keys"},
		"five trusted keys":      {func(c *v1alpha1.AgentConfig) { c.Agent.TrustedKeys = make([]string, 5) }, "[agent] trusted_keys"},
		"a secret as trust":      {func(c *v1alpha1.AgentConfig) { c.Agent.TrustedKeys = []string{"SOAKEYS"} }, "[agent] trusted_keys"},
		"label without a key":    {func(c *v1alpha1.AgentConfig) { c.Labels = map[string]string{"": "x"} }, `[labels] "": the key: want letters`},
		"label with a space":     {func(c *v1alpha1.AgentConfig) { c.Labels = map[string]string{"my room": "x"} }, `[labels] "my room": the key: want letters, digits, '-', '_' and '.', a letter or digit at both ends, at most 63; write "my-room"`},
		"label with a prefix":    {func(c *v1alpha1.AgentConfig) { c.Labels = map[string]string{"example.com/a b": ""} }, `; write "example.com/a-b"`},
		"prefix in capitals":     {func(c *v1alpha1.AgentConfig) { c.Labels = map[string]string{"Example.com/a": "x"} }, "want before its / the name of a domain"},
		"value with a bracket":   {func(c *v1alpha1.AgentConfig) { c.Labels = map[string]string{"room": "2nd floor (left)"} }, `[labels] "room": the value "2nd floor (left)": want letters`},
		"value that is too long": {func(c *v1alpha1.AgentConfig) { c.Labels = map[string]string{"a": strings.Repeat("b", 64)} }, `; write "` + strings.Repeat("b", 63) + `"`},
		"value of nothing good":  {func(c *v1alpha1.AgentConfig) { c.Labels = map[string]string{"a": "???"} }, "at most 63"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			config := validAgent()
			c.change(&config)
			expectError(t, config.Validate(), c.want)
		})
	}
}

func TestOperatorValidateNamesTheField(t *testing.T) {
	cases := map[string]struct {
		change func(*v1alpha1.OperatorConfig)
		want   string
	}{
		"complete":           {func(*v1alpha1.OperatorConfig) {}, ""},
		"no broker":          {func(c *v1alpha1.OperatorConfig) { c.NATS.URLs = nil }, "nats: urls"},
		"a token":            {func(c *v1alpha1.OperatorConfig) { c.Credentials = zitadel() }, `credentials: type: "zitadel-jwt" is for agents`},
		"no namespace":       {func(c *v1alpha1.OperatorConfig) { c.LeaderElection.Namespace = "" }, "leaderElection.namespace"},
		"no patches allowed": {func(c *v1alpha1.OperatorConfig) { c.Status.PatchesPerSecond = 0 }, "status.patchesPerSecond"},
		"no signing key":     {func(c *v1alpha1.OperatorConfig) { c.Signing.KeyFiles = nil }, "signing: keyFiles"},
		"policies in clear":  {func(c *v1alpha1.OperatorConfig) { c.OpenBao.Address = "http://bao" }, "openbao: address"},
		"policies here":      {func(c *v1alpha1.OperatorConfig) { c.Roster.Enabled = true }, ""},
		"policies for ever":  {func(c *v1alpha1.OperatorConfig) { c.Roster.Enabled, c.Roster.MaxStale = true, 0 }, "roster: maxStale"},
		"published":          {func(c *v1alpha1.OperatorConfig) { c.Publish.ConfigMap, c.Publish.NATSURL = "a", "tls://a:4222" }, ""},
		"published nowhere":  {func(c *v1alpha1.OperatorConfig) { c.Publish.NATSURL = "tls://a:4222" }, "publish: configMap: missing"},
		"published in clear": {func(c *v1alpha1.OperatorConfig) { c.Publish.ConfigMap, c.Publish.NATSURL = "a", "nats://a:4222" }, "publish: natsURL"},
		"five signing keys":  {func(c *v1alpha1.OperatorConfig) { c.Signing.KeyFiles = make([]string, 5) }, "signing: keyFiles"},
		"a short validity":   {func(c *v1alpha1.OperatorConfig) { c.Signing.Validity = 1 }, "signing: validity"},
		"no audit":           {func(c *v1alpha1.OperatorConfig) { c.AuditInterval = 0 }, "auditInterval"},
		"odd log level":      {func(c *v1alpha1.OperatorConfig) { c.LogLevel = "loud" }, "logLevel"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			config := v1alpha1.OperatorDefaults()
			config.NATS.URLs = []string{"nats://nats:4222"}
			config.Credentials = v1alpha1.Credentials{Type: "password", User: "operator", Password: "secret"}
			config.Signing.KeyFiles = []string{"/etc/fleet-operator/signing.seed"}
			c.change(&config)
			expectError(t, config.Validate(), c.want)
		})
	}
}

func TestCalloutValidateNamesTheField(t *testing.T) {
	cases := map[string]struct {
		change func(*v1alpha1.CalloutConfig)
		want   string
	}{
		"complete":               {func(*v1alpha1.CalloutConfig) {}, ""},
		"no broker":              {func(c *v1alpha1.CalloutConfig) { c.NATS.URLs = nil }, "nats: urls"},
		"no issuer key":          {func(c *v1alpha1.CalloutConfig) { c.IssuerKeyFile = "" }, "issuerKeyFile"},
		"no curve key":           {func(c *v1alpha1.CalloutConfig) { c.XKeyFile = "" }, "xkeyFile"},
		"issuer in clear":        {func(c *v1alpha1.CalloutConfig) { c.OIDC.Issuer = "http://sso.example.com" }, "oidc: issuer"},
		"issuer with a slash":    {func(c *v1alpha1.CalloutConfig) { c.OIDC.Issuer += "/" }, "oidc: issuer"},
		"no audience":            {func(c *v1alpha1.CalloutConfig) { c.OIDC.Audience = "" }, "oidc: audience"},
		"no name":                {func(c *v1alpha1.CalloutConfig) { c.OIDC.NameClaim = "" }, "oidc: nameClaim"},
		"no outage survived":     {func(c *v1alpha1.CalloutConfig) { c.OIDC.MaxStale = 0 }, "oidc: maxStale"},
		"policies in clear":      {func(c *v1alpha1.CalloutConfig) { c.OpenBao.Address = "http://bao.example.com" }, "openbao: address"},
		"keys alone":             {func(c *v1alpha1.CalloutConfig) { c.OIDC.Issuer, c.OIDC.Audience = "", "" }, ""},
		"no issuer":              {func(c *v1alpha1.CalloutConfig) { c.OIDC.Issuer = "" }, "oidc: issuer: missing"},
		"policies here":          {func(c *v1alpha1.CalloutConfig) { c.OpenBao.Address = "" }, ""},
		"policies nowhere":       {func(c *v1alpha1.CalloutConfig) { c.OpenBao.Address, c.Roster.Enabled = "", false }, "openbao.address: missing; or set roster.enabled"},
		"policies for ever":      {func(c *v1alpha1.CalloutConfig) { c.OpenBao.Address, c.Roster.MaxStale = "", 1 }, "roster: maxStale"},
		"no engine":              {func(c *v1alpha1.CalloutConfig) { c.OpenBao.Mount = "" }, "openbao: mount"},
		"no outage of policies":  {func(c *v1alpha1.CalloutConfig) { c.OpenBao.MaxStale = 0 }, "openbao: maxStale"},
		"sessions too short":     {func(c *v1alpha1.CalloutConfig) { c.SessionMax = 1 }, "sessionMax"},
		"nobody works":           {func(c *v1alpha1.CalloutConfig) { c.Workers = 0 }, "workers"},
		"odd log level":          {func(c *v1alpha1.CalloutConfig) { c.LogLevel = "loud" }, "logLevel"},
		"credentials of no type": {func(c *v1alpha1.CalloutConfig) { c.Credentials.Type = "" }, "credentials"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			config := v1alpha1.CalloutDefaults()
			config.NATS.URLs = []string{"nats://nats:4222"}
			config.Credentials = v1alpha1.Credentials{Type: "nkey", SeedFile: "/etc/fleet-callout/user.seed"}
			config.IssuerKeyFile, config.XKeyFile = "/etc/fleet-callout/issuer.seed", "/etc/fleet-callout/x.seed"
			config.OpenBao.Address = "https://bao.example.com:8200"
			config.OIDC.Issuer, config.OIDC.Audience = "https://sso.example.com", "1234"
			c.change(&config)
			expectError(t, config.Validate(), c.want)
		})
	}
}

func expectError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("got error %v, want one that names %q", err, want)
	}
}

func TestDurationText(t *testing.T) {
	var d v1alpha1.Duration
	if err := d.UnmarshalText([]byte("90s")); err != nil {
		t.Fatal(err)
	}
	if text, _ := d.MarshalText(); string(text) != "1m30s" {
		t.Errorf("printed %s", text)
	}
	if err := d.UnmarshalText([]byte("90")); err == nil || !strings.Contains(err.Error(), "unit") {
		t.Errorf("a number without a unit: got error %v", err)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]v1alpha1.Size{"0": 0, "1": 1, "1000": 1000, "1Ki": 1024, "512Mi": 512 << 20, "1Gi": 1 << 30, "2Ti": 2 << 40} {
		var got v1alpha1.Size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
		if back, err := want.MarshalText(); err != nil || string(back) != text {
			t.Errorf("%d: %s, %v, want %s", want, back, err, text)
		}
	}
	for _, text := range []string{"", "Gi", "1GB", "1G", "-1Gi", "1.5Gi", "9999999Ti", "5%", "1 Gi"} {
		var got v1alpha1.Size
		if err := got.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), `such as "512Mi"`) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
