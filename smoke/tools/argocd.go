package tools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Argo CD and what it calls. Each is of a module of its own, to be built with the
// libraries that its version names.
var (
	argocd    = &module{folder: "argocd", source: "github.com/argoproj/argo-cd/v3", coldMinutes: 8}
	helm3     = &module{folder: "helm3", source: "helm.sh/helm/v3", coldMinutes: 2}
	kustomize = &module{folder: "kustomize", source: "sigs.k8s.io/kustomize/kustomize/v5", coldMinutes: 1}

	// ArgoCD is all of Argo CD: which of its parts, the variable ARGOCD_BINARY_NAME says.
	ArgoCD = argocd.tool("argocd", "github.com/argoproj/argo-cd/v3/cmd")
	// Helm3 is the helm command of the version that Argo CD calls.
	Helm3 = helm3.tool("helm", "helm.sh/helm/v3/cmd/helm")
	// Kustomize is the kustomize command.
	Kustomize = kustomize.tool("kustomize", "sigs.k8s.io/kustomize/kustomize/v5")
)

// Source is the folder with the source of the module that the tool is of, which is
// downloaded when it is missing. Nobody may write to it.
func (t Tool) Source(ctx context.Context) (string, error) {
	root, err := sourceDir()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", t.module.source)
	cmd.Dir = filepath.Join(root, t.module.folder)
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	var module struct{ Dir, Error string }
	if err := errors.Join(err, json.Unmarshal(out, &module)); err != nil {
		return "", fmt.Errorf("finding the source of %s: %w %s", t, err, module.Error)
	}
	return module.Dir, nil
}
