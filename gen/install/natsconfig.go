package install

import (
	"fmt"
	"strings"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/gen/manifest"
)

// servers of a broker that holds every stream thrice.
const servers = 3

// spareBytes is what the store has beyond what the buckets can hold.
const spareBytes = 512 << 20

func (b builder) natsConfig() []any {
	if !b.ownBroker() {
		return nil
	}
	return []any{b.configMap("nats", b.natsConfigData())}
}

// natsConfigData is nats-server's configuration. What it is about by choice stands
// in files of its own, which it includes.
func (b builder) natsConfigData() map[string]string {
	// The buckets reserve what they may hold, whatever the volume has.
	store := int64(spareBytes)
	for _, bucket := range wire.Buckets() {
		store += bucket.MaxBytes
	}
	lines := []string{
		"port: 4222",
		"# For the kubelet's probes, which come from the node: on loopback they would not be",
		"# answered, and an image without a shell has nothing to ask with. No Service has it.",
		"http_port: 8222",
		"max_payload: 1MB",
		"max_connections: 100000",
		"max_pending: 64MB",
		"lame_duck_duration: 30s",
		"lame_duck_grace_period: 5s",
		"tls {",
		fmt.Sprintf("  cert_file: %q", tlsDir+"/tls.crt"),
		fmt.Sprintf("  key_file: %q", tlsDir+"/tls.key"),
		"  # A whole fleet that comes back has its handshakes wait for each other, and a satellite",
		"  # lets one take long.",
		"  timeout: 30",
		"  # Who is reached through a proxy that goes by the name in the handshake begins with it.",
		"  handshake_first: auto",
		"}",
		"jetstream {",
		fmt.Sprintf("  store_dir: %q", natsDataDir+"/jetstream"),
		fmt.Sprintf("  max_file_store: %d", store),
		"  # What is acknowledged outlives a power cut.",
		"  sync_interval: always",
		"  limits { default_max_consumers: 1000 }",
		"}",
		"include accounts.conf",
	}
	data := map[string]string{"accounts.conf": manifest.Accounts()}
	if b.v.Callout.Enabled {
		lines = append(lines, "include callout.conf")
		data["callout.conf"] = calloutConf()
	}
	if b.v.NATS.Replicas > 1 {
		lines = append(lines, "include cluster.conf")
		data["cluster.conf"] = b.clusterConf()
	}
	// The last line does not end: kustomize would take that away from a patch.
	data["nats.conf"] = strings.Join(lines, "\n")
	return data
}

// calloutConf has the broker ask the callout about everybody whom it does not know.
func calloutConf() string {
	return fmt.Sprintf(`authorization {
  # The callout may have to ask others.
  timeout: 10
  auth_callout {
    issuer: $FLEET_ISSUER
    xkey: $FLEET_XKEY
    account: %s
    auth_users: [%s]
  }
}
`, wire.AccountAuth, strings.Join(manifest.Users(), ", "))
}

// clusterConf joins the servers. Only who has a certificate of the same authority
// may join.
func (b builder) clusterConf() string {
	lines := []string{
		"cluster {",
		"  name: fleet",
		"  port: 6222",
		"  tls {",
		fmt.Sprintf("    cert_file: %q", tlsDir+"/tls.crt"),
		fmt.Sprintf("    key_file: %q", tlsDir+"/tls.key"),
		fmt.Sprintf("    ca_file: %q", tlsDir+"/ca.crt"),
		"    verify: true",
		"    timeout: 10",
		"  }",
		"  routes: [",
	}
	for number := range servers {
		lines = append(lines, fmt.Sprintf("    tls://%s:6222", b.peer(number)))
	}
	return strings.Join(append(lines, "  ]", "}"), "\n") + "\n"
}
