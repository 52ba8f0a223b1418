package argocd

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Application is what Argo CD says of one.
type Application struct {
	Metadata struct {
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Status struct {
		Sync struct {
			Status   string `json:"status"`
			Revision string `json:"revision"`
		} `json:"sync"`
		Health struct {
			Status string `json:"status"`
		} `json:"health"`
		// ReconciledAt is when all of it was compared last, to the second.
		ReconciledAt   string `json:"reconciledAt"`
		OperationState struct {
			Phase     string `json:"phase"`
			Message   string `json:"message"`
			StartedAt string `json:"startedAt"`
		} `json:"operationState"`
		Resources  []Resource `json:"resources"`
		Conditions []struct {
			Type    string `json:"type"`
			Message string `json:"message"`
		} `json:"conditions"`
	} `json:"status"`
}

// Resource is one that an Application is about.
type Resource struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Status string `json:"status"` // Synced or not
}

// String is what a person wants to know when it is not as it should be.
func (a Application) String() string {
	var text strings.Builder
	s := a.Status
	fmt.Fprintf(&text, "%s and %s at %.7s, compared at %s; last sync at %s: %s %s",
		s.Sync.Status, s.Health.Status, s.Sync.Revision, s.ReconciledAt, s.OperationState.StartedAt, s.OperationState.Phase, s.OperationState.Message)
	for _, c := range s.Conditions {
		fmt.Fprintf(&text, "\n  %s: %s", c.Type, c.Message)
	}
	for _, r := range s.Resources {
		if r.Status != "Synced" {
			fmt.Fprintf(&text, "\n  %s %s is %s", r.Kind, r.Name, r.Status)
		}
	}
	return text.String()
}

// Settled is nil when it is Synced and Healthy, and else says how it is.
func (a Application) Settled() error {
	if a.Status.Sync.Status == "Synced" && a.Status.Health.Status == "Healthy" {
		return nil
	}
	return fmt.Errorf("the Application is %s", a)
}

// Application reads one.
func (a *ArgoCD) Application(ctx context.Context, name string) (app Application, err error) {
	object, err := a.apps.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return app, fmt.Errorf("reading Application %s: %w", name, err)
	}
	data, err := object.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(data, &app)
	}
	if err != nil {
		return app, fmt.Errorf("reading Application %s: %w", name, err)
	}
	return app, nil
}

// refreshAnnotation is how a person, or a git server, asks Argo CD to look now; Argo CD
// takes it off when it has.
const refreshAnnotation = "argocd.argoproj.io/refresh"

// Refresh has Argo CD read the repository and compare now, and says how long that took.
func (a *ArgoCD) Refresh(ctx context.Context, name string) (took time.Duration, err error) {
	begin := time.Now()
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"normal"}}}`, refreshAnnotation)
	if _, err := a.apps.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return 0, fmt.Errorf("asking for a refresh of Application %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		app, err := a.Application(ctx, name)
		if err != nil {
			return 0, err
		}
		if app.Metadata.Annotations[refreshAnnotation] == "" {
			return time.Since(begin), nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Delete deletes an Application with what it has made, as far as that may be deleted,
// and returns when it is gone.
func (a *ArgoCD) Delete(ctx context.Context, name string) error {
	cascade := []byte(`{"metadata":{"finalizers":["resources-finalizer.argocd.argoproj.io"]}}`)
	if _, err := a.apps.Patch(ctx, name, types.MergePatchType, cascade, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("having Application %s take along what it made: %w", name, err)
	}
	_, err := a.cluster.Kubectl(ctx, "", "--namespace="+Namespace, "delete", "applications.argoproj.io", name, "--timeout=5m")
	return err
}
