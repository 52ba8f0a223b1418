package access_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/operator/access"
	"github.com/nationtech/harmony-fleet/smoke/kube"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What docs/people.md says; the test runs what people copy from there.
const (
	guide       = "../../docs/people.md"
	project     = "300000000000000001"
	application = "300000000000000002"
	roleClaim   = "urn:zitadel:iam:org:project:" + project + ":roles"
)

// patience is how long a role or a binding may take to count.
const patience = time.Minute

// cluster is an API server set up by the guide, with objects to try rights on.
type cluster struct {
	*testing.T
	url     string
	http    *http.Client
	api     client.Client  // the administrator's
	zitadel *oidc.Provider // puts roles into tokens, as Zitadel does
	plain   *oidc.Provider // puts a list of groups into tokens
	stored  map[string]string
}

// blocks are the YAML documents of the guide.
func blocks(t *testing.T) (all []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	for _, after := range strings.Split(string(text), "```yaml\n")[1:] {
		block, _, closed := strings.Cut(after, "```")
		if !closed {
			t.Fatalf("%s has a block without an end", guide)
		}
		for _, document := range strings.Split(block, "\n---\n") {
			var value map[string]any
			if err := yaml.UnmarshalStrict([]byte(document), &value); err != nil {
				t.Fatalf("%s: %v in\n%s", guide, err, document)
			}
			all = append(all, value)
		}
	}
	return all
}

// authentication is the file of the guide, with the address and the certificate
// of the test's provider in the place of the example's, and a second provider
// whose groups are a list.
func (c *cluster) authentication(certificate string) []byte {
	c.Helper()
	var file, groups map[string]any
	for _, block := range blocks(c.T) {
		if block["kind"] == "AuthenticationConfiguration" {
			file = block
		}
		if g, found := block["groups"].(map[string]any); found {
			groups = g
		}
	}
	if file == nil || groups == nil {
		c.Fatalf("%s lacks the configuration of the API server", guide)
	}
	issuer := file["jwt"].([]any)[0].(map[string]any)["issuer"].(map[string]any)
	issuer["url"], issuer["certificateAuthority"] = c.zitadel.Issuer(), certificate
	file["jwt"] = append(file["jwt"].([]any), map[string]any{
		"issuer": map[string]any{"url": c.plain.Issuer(), "certificateAuthority": certificate, "audiences": []string{application}},
		"claimMappings": map[string]any{
			"username": map[string]any{"claim": "sub", "prefix": "oidc:"},
			"groups":   groups,
		},
	})
	data, err := yaml.Marshal(file)
	c.must(err)
	return data
}

// start runs the providers and the API server, and fills it.
func start(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{T: t, stored: map[string]string{}}
	certified := httptest.NewTLSServer(nil) // for its certificate alone
	certified.Close()
	for _, p := range []**oidc.Provider{&c.zitadel, &c.plain} {
		provider, err := oidc.Start(t.Context(), oidc.Options{ProjectID: project, TLS: certified.TLS})
		c.must(err)
		t.Cleanup(provider.Stop)
		*p = provider
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certified.Certificate().Raw})
	plane, err := kube.Start(t.Context(), kube.Options{Authentication: c.authentication(string(certificate))})
	c.must(err)
	t.Cleanup(func() { c.must(plane.Stop()) })

	config := plane.Config()
	c.url = config.Host
	transport, err := rest.TransportFor(rest.AnonymousClientConfig(config))
	c.must(err)
	c.http = &http.Client{Transport: transport, Timeout: patience}
	t.Cleanup(c.http.CloseIdleConnections)
	scheme := runtime.NewScheme()
	c.must(clientscheme.AddToScheme(scheme))
	c.must(v1alpha1.AddToScheme(scheme))
	c.api, err = client.New(config, client.Options{Scheme: scheme})
	c.must(err)
	administrator, err := rest.HTTPClientFor(config)
	c.must(err)
	t.Cleanup(administrator.CloseIdleConnections)

	c.must(kube.InstallCRDs(t.Context(), config, crds.All()))
	c.fill()
	return c
}

// fill makes the roles, the bindings of the guide, and what people try to reach.
func (c *cluster) fill() {
	c.Helper()
	for _, role := range access.ClusterRoles() {
		c.create(role)
	}
	c.create(&v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "pi", Labels: map[string]string{"site": "berlin"}}})
	for _, namespace := range []string{"berlin", "hamburg"} {
		meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: name} }
		c.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
		c.create(&corev1.Secret{ObjectMeta: meta("password")})
		web := deployment(namespace, "web")
		web.Finalizers = []string{v1alpha1.Finalizer}
		c.create(web)
		web.Status.Aggregate = v1alpha1.Aggregate{MatchedDeviceCount: 3, Pending: 3}
		c.must(c.api.Status().Update(c.Context(), web))
		c.stored[namespace] = body(web)
	}
	bindings := 0
	for _, block := range blocks(c.T) {
		if kind, _ := block["kind"].(string); strings.HasSuffix(kind, "Binding") {
			c.create(&unstructured.Unstructured{Object: block})
			bindings++
		}
	}
	if bindings == 0 {
		c.Fatalf("%s has no binding", guide)
	}
	for _, role := range []string{access.DevicesView, "view", "edit", "admin"} {
		c.create(&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "hamburg", Name: "kubernetes-" + role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "oidc:hamburg-" + role}},
		})
	}
}

// await waits until a request of a person is answered with the code.
func (c *cluster) await(token string, r request, want int) {
	c.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		got, answer := c.ask(token, r)
		if got == want {
			return
		}
		if time.Now().After(end) {
			c.Fatalf("%s %s: not %d within %s, but %d: %s", r.method, r.path, want, patience, got, answer)
		}
	}
}

// request is one request; as is whom the person claims to be besides.
type request struct{ method, path, body, as string }

// ask sends a request with a token, or none, and returns what the API server says.
func (c *cluster) ask(token string, r request) (int, string) {
	c.Helper()
	question, err := http.NewRequestWithContext(c.Context(), r.method, c.url+r.path, strings.NewReader(r.body))
	c.must(err)
	question.Header.Set("Content-Type", "application/json")
	if r.method == http.MethodPatch {
		question.Header.Set("Content-Type", "application/merge-patch+json")
	}
	if token != "" {
		question.Header.Set("Authorization", "Bearer "+token)
	}
	if r.as != "" {
		question.Header.Set("Impersonate-User", r.as)
	}
	answer, err := c.http.Do(question)
	c.must(err)
	defer answer.Body.Close()
	var text bytes.Buffer
	_, err = io.Copy(&text, answer.Body)
	c.must(err)
	return answer.StatusCode, text.String()
}

// person is the token of somebody to whom Zitadel gave roles in the project.
func (c *cluster) person(roles ...string) string {
	c.Helper()
	given := map[string]any{}
	for _, role := range roles {
		given[role] = map[string]string{"300000000000000009": "fleet.localhost"}
	}
	return c.token(c.zitadel, map[string]any{roleClaim: given})
}

// token is one that is right but for the claims; nil takes a claim out.
func (c *cluster) token(p *oidc.Provider, claims map[string]any) string {
	c.Helper()
	all := map[string]any{"sub": "300000000000000008", "aud": []string{application, project}}
	for name, value := range claims {
		all[name] = value
	}
	token, err := p.Token(all)
	c.must(err)
	return token
}

func (c *cluster) create(object client.Object) {
	c.Helper()
	c.must(c.api.Create(c.Context(), object))
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func deployment(namespace, name string) *v1alpha1.Deployment {
	return &v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.DeploymentSpec{
			TargetSelector: metav1.LabelSelector{MatchLabels: map[string]string{"site": namespace}},
			Score:          score.Score{PodmanV0: &score.PodmanV0{Services: []score.Service{{Name: "main", Image: "registry.example/web:1"}}}},
		},
	}
}

// body is a Deployment as kubectl sends it.
func body(d *v1alpha1.Deployment) string {
	d.APIVersion, d.Kind = v1alpha1.GroupVersion.String(), "Deployment"
	data, err := json.Marshal(d)
	if err != nil {
		panic(fmt.Sprintf("a Deployment cannot be encoded: %v", err))
	}
	return string(data)
}
