package registry

import (
	"net/http"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T) *Registry {
	t.Helper()
	r, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestPushAndPull(t *testing.T) {
	r := start(t)
	image, err := random.Image(1024, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Push("team/app:v1", image); err != nil {
		t.Fatal(err)
	}
	if n := r.Pulls("team/app"); n != 0 {
		t.Errorf("a push counted as %d pulls", n)
	}
	ref, err := name.ParseReference(r.Ref("team/app:v1"), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(ref, remote.WithTransport(&http.Transport{DisableKeepAlives: true}))
	if err != nil {
		t.Fatal(err)
	}
	want, _ := image.Digest()
	if got, err := pulled.Digest(); err != nil || got != want {
		t.Errorf("pulled %v, %v, want %v", got, err, want)
	}
	if n := r.Pulls("team/app"); n != 1 {
		t.Errorf("Pulls() = %d after one pull", n)
	}
	layers, err := pulled.Layers()
	if err != nil {
		t.Fatal(err)
	}
	before := r.Blobs("team/app")
	content, err := layers[1].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	if err := content.Close(); err != nil {
		t.Error(err)
	}
	if n := r.Blobs("team/app"); n != before+1 {
		t.Errorf("Blobs() = %d after a layer, and %d before", n, before)
	}
}

func TestBreak(t *testing.T) {
	tests := map[string]struct {
		reason string
		fault  Fault
		status int // 0: no answer
	}{
		"healthy": {"a registry starts without a fault", Healthy, http.StatusOK},
		"failing": {"every request is answered with 500", Failing, http.StatusInternalServerError},
		"down":    {"no request is answered", Down, 0},
	}
	r := start(t)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r.Break(tc.fault)
			status := 0
			if response, err := client.Get("http://" + r.Addr() + "/v2/"); err == nil {
				status = response.StatusCode
				response.Body.Close()
			}
			if status != tc.status {
				t.Errorf("%s: status %d, want %d", tc.reason, status, tc.status)
			}
		})
	}
}

func TestStopDoesNotWaitForClients(t *testing.T) {
	r, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	response, err := (&http.Client{Transport: transport}).Get("http://" + r.Addr() + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	defer response.Body.Close()
	for range 2 {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	}
}
