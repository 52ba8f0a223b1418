// Package schema is the version lock between the operator and the cluster: it
// compares the CustomResourceDefinitions that are installed with the ones the
// operator was built with. While they differ the operator is not ready, says why
// and writes nothing. It never installs or changes a definition.
//
// Definitions of a later release are as good as the operator's own: they are there
// in every upgrade just before it is replaced, and a later release takes no field
// away. Only the start is guarded: a running operator goes on whatever happens to
// the definitions.
package schema

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/mod/semver"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// recheck is the time between two comparisons until one passes.
const recheck = 2 * time.Second

// errUnchecked is the answer before the first comparison.
var errUnchecked = errors.New("the custom resource definitions have not been compared yet")

// Gate is closed until the definitions match, and stays open from then on.
type Gate struct {
	reader client.Reader
	log    logr.Logger
	open   chan struct{}

	mu      sync.Mutex
	problem error // guarded by mu; nil once the gate is open
}

// New returns a closed gate. The reader must not be a cache.
func New(reader client.Reader, log logr.Logger) *Gate {
	return &Gate{reader: reader, log: log, open: make(chan struct{}), problem: errUnchecked}
}

// NeedLeaderElection is false: every replica says whether it fits the cluster.
func (g *Gate) NeedLeaderElection() bool { return false }

// Start compares until the definitions match, then opens the gate and returns.
func (g *Gate) Start(ctx context.Context) error {
	for {
		problem := Check(ctx, g.reader)
		g.report(problem)
		if problem == nil {
			close(g.open)
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(recheck):
		}
	}
}

// report keeps the problem for Ready and logs it when it is a new one.
func (g *Gate) report(problem error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if problem != nil && problem.Error() != g.problem.Error() {
		g.log.Error(problem, "waiting for matching custom resource definitions")
	}
	g.problem = problem
}

// Wait waits for the gate to open. It returns false when ctx ends before.
func (g *Gate) Wait(ctx context.Context) bool {
	select {
	case <-g.open:
		return true
	case <-ctx.Done():
		return false
	}
}

// Ready is a readiness check: the reason why the gate is closed.
func (g *Gate) Ready(*http.Request) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.problem
}

// Check compares every definition once. The error names each one that is
// missing, changed or of no later release, both hashes, and what to do.
func Check(ctx context.Context, reader client.Reader) error {
	var errs []error
	for _, wanted := range crds.All() {
		errs = append(errs, check(ctx, reader, wanted))
	}
	return errors.Join(errs...)
}

func check(ctx context.Context, reader client.Reader, wanted *apiextensionsv1.CustomResourceDefinition) error {
	found := &apiextensionsv1.CustomResourceDefinition{}
	err := reader.Get(ctx, client.ObjectKeyFromObject(wanted), found)
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("custom resource definition %s is missing; install the definitions of this release", wanted.Name)
	case err != nil:
		return fmt.Errorf("reading custom resource definition %s: %w", wanted.Name, err)
	}
	have, want := crds.SchemaHash(found), crds.SchemaHash(wanted)
	if have != "" && !crds.Intact(found) {
		return fmt.Errorf("custom resource definition %s has been changed: its schema is not that of its hash %q, and this operator was built with %q; install the definitions of this release again", wanted.Name, have, want)
	}
	if have != want && !newer(found, wanted) {
		return fmt.Errorf("custom resource definition %s has schema hash %q and this operator was built with %q; install the definitions and the operator of one release", wanted.Name, have, want)
	}
	if !served(found) {
		return fmt.Errorf("custom resource definition %s is not established or does not serve %s yet", wanted.Name, v1alpha1.GroupVersion.Version)
	}
	return nil
}

// newer says that a is of a later release than b.
func newer(a, b *apiextensionsv1.CustomResourceDefinition) bool {
	return semver.Compare(a.Annotations[v1alpha1.AnnotationVersion], b.Annotations[v1alpha1.AnnotationVersion]) > 0
}

func served(definition *apiextensionsv1.CustomResourceDefinition) bool {
	established := false
	for _, c := range definition.Status.Conditions {
		established = established || c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
	}
	for _, v := range definition.Spec.Versions {
		if v.Name == v1alpha1.GroupVersion.Version {
			return established && v.Served
		}
	}
	return false
}

// Rules is what the gate may do in the cluster.
func Rules() []rbacv1.PolicyRule {
	var names []string
	for _, definition := range crds.All() {
		names = append(names, definition.Name)
	}
	return []rbacv1.PolicyRule{{
		APIGroups: []string{apiextensionsv1.GroupName}, Resources: []string{"customresourcedefinitions"},
		ResourceNames: names, Verbs: []string{"get"},
	}}
}
