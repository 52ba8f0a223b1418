package kustomize

import (
	"embed"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/gen/tree"
)

//go:embed argocd/*.lua
var healthScripts embed.FS

// argoCD is a component for the configuration of Argo CD itself: how the fleet's
// resources do, for which it needs a script for each kind.
func argoCD() (tree.Tree, error) {
	const dir, patchFile = Dir + "/argocd/", "argocd-cm.yaml"
	settings := &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: "argocd-cm"}, Data: map[string]string{},
	}
	for kind, file := range map[string]string{"Deployment": "deployment.lua", "Device": "device.lua"} {
		script, err := healthScripts.ReadFile("argocd/" + file)
		if err != nil {
			return nil, fmt.Errorf("reading a script of Argo CD: %w", err)
		}
		key := v1alpha1.Group + "_" + kind
		settings.Data["resource.customizations.health."+key] = string(script)
		// A status that changes is no reason to compare, unless the health changes
		// with it: that, Argo CD looks at first.
		settings.Data["resource.customizations.ignoreResourceUpdates."+key] = "jsonPointers:\n- /status\n"
	}
	component := map[string]any{
		"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "patches": []map[string]string{{"path": patchFile}},
	}
	files := tree.Tree{}
	for _, f := range []example{
		{dir + patchFile, "How Argo CD tells how the fleet's resources do: a patch of its ConfigMap.", settings},
		{dir + "kustomization.yaml", "The same for an Argo CD that is installed with Kustomize.", component},
	} {
		text, err := render(f.comment, f.object)
		if err != nil {
			return nil, fmt.Errorf("file %s: %w", f.path, err)
		}
		files[f.path] = []byte(strings.Replace(string(text), "gen/install", "gen/kustomize", 1))
	}
	return files, nil
}
