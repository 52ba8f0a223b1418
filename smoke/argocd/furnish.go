package argocd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// settingsFile has Argo CD's settings as the cluster has them.
const settingsFile = "argocd-cm.json"

// overlay is the configuration of a release of Argo CD, with a component on top.
const overlay = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: ` + Namespace + `
resources: [config, project.yaml]
components: [component]
`

// project is the one that a running API server would make.
const project = `apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: default}
spec:
  sourceRepos: ["*"]
  destinations: [{namespace: "*", server: "*"}]
  clusterResourceWhitelist: [{group: "*", kind: "*"}]
`

// furnish puts into the cluster what Argo CD's own manifests have, but for pods.
func (a *ArgoCD) furnish(ctx context.Context, component string) error {
	source, err := tools.ArgoCD.Source(ctx)
	if err != nil {
		return err
	}
	manifests := a.path("manifests")
	err = errors.Join(
		// Copied: kustomize takes a base only by a relative path.
		os.CopyFS(filepath.Join(manifests, "config"), os.DirFS(filepath.Join(source, "manifests", "base", "config"))),
		os.CopyFS(filepath.Join(manifests, "component"), os.DirFS(component)),
		os.WriteFile(filepath.Join(manifests, "project.yaml"), []byte(project), 0o600),
		os.WriteFile(filepath.Join(manifests, "kustomization.yaml"), []byte(overlay), 0o600),
	)
	if err != nil {
		return fmt.Errorf("copying the manifests of Argo CD: %w", err)
	}
	build := exec.CommandContext(ctx, a.programs.kustomize, "build", manifests)
	configured, err := build.Output()
	if err != nil {
		return fmt.Errorf("building Argo CD's configuration with the component %s: %w", component, err)
	}
	crds := "--kustomize=" + filepath.Join(source, "manifests", "crds")
	if _, err := a.cluster.Kubectl(ctx, "", "apply", "--server-side", crds); err != nil {
		return err
	}
	if _, err := a.cluster.Kubectl(ctx, "", "create", "namespace", Namespace); err != nil {
		return err
	}
	if err := a.configure(ctx, string(configured)); err != nil {
		return err
	}
	key := `{"stringData":{"server.secretkey":"of nobody, since nobody logs in"}}`
	if _, err := a.cluster.Kubectl(ctx, "", "--namespace="+Namespace, "patch", "secret", "argocd-secret", "--type=merge", "--patch="+key); err != nil {
		return err
	}
	settings, err := a.cluster.Kubectl(ctx, "", "--namespace="+Namespace, "get", "configmap", "argocd-cm", "--output=json")
	if err != nil {
		return err
	}
	return os.WriteFile(a.path(settingsFile), []byte(settings), 0o600)
}

// configure tries again and again: a new kind is served a moment after it is taken.
func (a *ArgoCD) configure(ctx context.Context, manifest string) error {
	for end := time.Now().Add(startTimeout); ; time.Sleep(500 * time.Millisecond) {
		_, err := a.cluster.Kubectl(ctx, manifest, "apply", "--server-side", "--filename=-")
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
	}
}

// Remove takes Argo CD's own resources out of the cluster. Applications have to be
// deleted before Stop: with a finalizer, they would wait for the controller.
func (a *ArgoCD) Remove(ctx context.Context) error {
	for _, args := range [][]string{
		{"delete", "namespace", Namespace, "--timeout=3m"},
		{"delete", "customresourcedefinition", "--timeout=2m", "applications.argoproj.io", "applicationsets.argoproj.io", "appprojects.argoproj.io"},
	} {
		if _, err := a.cluster.Kubectl(ctx, "", args...); err != nil {
			return err
		}
	}
	return nil
}
