package argocd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

var healthLines = regexp.MustCompile(`(?s)STATUS: (\w+)\nMESSAGE: (.*)`)

// Health is what Argo CD, with the settings that it was started with, says of how a
// resource does: a word such as Healthy, and why.
func (a *ArgoCD) Health(ctx context.Context, resource any) (word, why string, err error) {
	content, err := json.Marshal(resource)
	if err != nil {
		return "", "", fmt.Errorf("encoding a resource: %w", err)
	}
	file := a.path("resource.json")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		return "", "", err
	}
	cmd := exec.CommandContext(ctx, a.programs.argocd,
		"admin", "settings", "resource-overrides", "health", file, "--argocd-cm-path", a.path(settingsFile))
	cmd.Env = append(append(os.Environ(), a.env()...), "ARGOCD_BINARY_NAME=argocd")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", "", fmt.Errorf("asking Argo CD for the health of a resource: %w\n%s", err, out)
	}
	found := healthLines.FindStringSubmatch(string(out))
	if found == nil {
		return "", "", fmt.Errorf("asking Argo CD for the health of a resource: it says %s", out)
	}
	return found[1], strings.TrimSpace(found[2]), nil
}
