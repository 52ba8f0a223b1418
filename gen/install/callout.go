package install

import (
	corev1 "k8s.io/api/core/v1"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/operator/roster"
)

func (b builder) calloutConfig() []any {
	if !b.v.Callout.Enabled {
		return nil
	}
	return []any{b.configMap("callout", b.calloutConfigData())}
}

func (b builder) calloutConfigData() map[string]string {
	c, chosen := config.CalloutDefaults(), b.v.Callout.Config
	c.NATS = b.natsSection()
	c.Credentials = config.Credentials{Type: config.CredentialNKey, SeedFile: keysDir + "/callout.seed"}
	c.IssuerKeyFile, c.XKeyFile = keysDir+"/issuer.seed", keysDir+"/xkey.seed"
	c.OIDC, c.OpenBao, c.Roster = chosen.OIDC, chosen.OpenBao, chosen.Roster
	c.SessionMax, c.Workers = chosen.SessionMax, chosen.Workers
	c.LogLevel = string(chosen.LogLevel)
	return map[string]string{configKey: text(c)}
}

func (b builder) callout() []any {
	if !b.v.Callout.Enabled {
		return nil
	}
	const component = "callout"
	keys, keysMount := b.seeds("callout.seed", "issuer.seed", "xkey.seed")
	pod := b.program(program{
		component: component, keys: keys, keysMount: keysMount,
		container: corev1.Container{
			Name: "fleet-callout", Image: b.image("fleet-callout", b.v.Image.Digests.Callout), Resources: b.v.Callout.Resources,
		},
	})
	pod.Annotations = b.checksum(CalloutConfigFile, b.calloutConfigData())
	objects := []any{b.account(component)}
	objects = append(objects, b.clusterRole(component, roster.CalloutRules())...)
	objects = append(objects, b.deployment(component, b.v.Callout.Replicas, pod), b.metricsService(component))
	return append(objects, b.budget(component, b.v.Callout.Replicas)...)
}
