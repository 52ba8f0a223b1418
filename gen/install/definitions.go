package install

import (
	"sync"

	"github.com/nationtech/harmony-fleet/apis/crds"
)

// Keep has Helm and Argo CD leave a definition alone when the installation is
// removed, since every resource of the fleet would go with it. Argo CD applies it
// on the server: the copy that it would put into an annotation is too large.
func Keep() map[string]string {
	return map[string]string{
		"helm.sh/resource-policy":            "keep",
		"argocd.argoproj.io/sync-options":    "Prune=false,Delete=false,ServerSideApply=true",
		"argocd.argoproj.io/sync-wave":       "-5",
		"argocd.argoproj.io/compare-options": "ServerSideDiff=true",
	}
}

// definitions are the fleet's, the same at each call.
var definitions = sync.OnceValue(func() (objects []any) {
	for _, definition := range crds.All() {
		for key, value := range Keep() {
			definition.Annotations[key] = value
		}
		objects = append(objects, definition)
	}
	return objects
})

// crds are the fleet's custom resource definitions.
func (b builder) crds() []any {
	if !b.v.CRDs.Enabled {
		return nil
	}
	return definitions()
}
