package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/agent"
	"github.com/nationtech/harmony-fleet/agent/bus"
	"github.com/nationtech/harmony-fleet/agent/config"
	"github.com/nationtech/harmony-fleet/agent/podman"
	"github.com/nationtech/harmony-fleet/agent/secret"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// checkTimeout bounds each check.
const checkTimeout = time.Minute

// check prints a line per check and returns the exit code.
func (p program) check(ctx context.Context, path string) int {
	cfg, err := config.Load(path)
	p.verdict("configuration", fmt.Sprintf("%s, device %s", path, cfg.Agent.DeviceID), err)
	if err != nil {
		return 1
	}
	code := 0
	type part struct {
		name string
		try  func(context.Context, v1alpha1.AgentConfig) (string, error)
	}
	parts := []part{{"podman", tryPodman}, {"broker", p.tryBroker}}
	if cfg.OpenBao.Address != "" {
		parts = append(parts, part{"openbao", p.tryOpenBao})
	}
	for _, part := range parts {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		found, err := part.try(ctx, cfg)
		cancel()
		p.verdict(part.name, found, err)
		if err != nil {
			code = 1
		}
	}
	return code
}

func (p program) verdict(name, found string, err error) {
	if err != nil {
		// Several mistakes stay in their column.
		text := strings.ReplaceAll(err.Error(), "\n", "\n"+strings.Repeat(" ", 21))
		fmt.Fprintf(p.out, "FAIL  %-14s %s\n", name, text)
		return
	}
	fmt.Fprintf(p.out, "ok    %-14s %s\n", name, found)
}

// tryPodman finds the socket, asks for the version, and refuses one that is too
// old.
func tryPodman(ctx context.Context, cfg v1alpha1.AgentConfig) (string, error) {
	client, err := podman.Connect(ctx, cfg.Podman.Socket)
	if err != nil {
		return "", err
	}
	version, err := client.Version(ctx)
	return "podman " + version, err
}

// tryBroker connects, logs in, and uses the permissions that the agent needs.
func (p program) tryBroker(ctx context.Context, cfg v1alpha1.AgentConfig) (string, error) {
	target := agent.Target(cfg, p.logger(cfg))
	if files, err := store.Open(cfg.Agent.StateDir); err == nil {
		// Keys that the operator replaced since the configuration was written.
		if report, err := files.LoadReport(); err == nil {
			target.TrustedKeys = append(slices.Clone(target.TrustedKeys), report.TrustedKeys...)
		}
	}
	findings, err := bus.Probe(ctx, target)
	if err != nil {
		return "", err
	}
	encrypted, manifest := "with TLS", fmt.Sprintf("desired state has generation %d", findings.Generation)
	if !findings.TLS {
		encrypted = "WITHOUT TLS"
	}
	if findings.Generation == 0 {
		manifest = "no desired state for this device yet"
	}
	return fmt.Sprintf("%s, %s, %s; %s", findings.Server, encrypted, shown(cfg.Credentials), manifest), nil
}

// tryOpenBao logs in where secrets are kept.
func (p program) tryOpenBao(ctx context.Context, cfg v1alpha1.AgentConfig) (string, error) {
	var tokens secret.Tokens
	if target := agent.Target(cfg, p.logger(cfg)); target.Tokens != nil {
		tokens = target.Tokens
	}
	life, err := secret.Probe(ctx, cfg.OpenBao, tokens)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, logged in as role %q for %s", cfg.OpenBao.Address, cfg.OpenBao.LoginRole, life), nil
}

// shown is what the broker let in.
func shown(c v1alpha1.Credentials) string {
	switch c.Type {
	case v1alpha1.CredentialNKey:
		return "with its own key"
	case v1alpha1.CredentialZitadelJWT:
		return fmt.Sprintf("with a token of %s for the key in %s", c.Issuer, c.KeyFile)
	case v1alpha1.CredentialClientCredentials:
		return fmt.Sprintf("with a token of %s for the client %q", c.Issuer, c.ClientID)
	}
	return fmt.Sprintf("as user %q", c.User)
}
