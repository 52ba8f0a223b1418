package podman

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

func TestSecretsOfAContainer(t *testing.T) {
	t.Run("Rootful", func(t *testing.T) { liveWithSecrets(start(t, podman.Options{})) })
	t.Run("Rootless", func(t *testing.T) { liveWithSecrets(start(t, podman.Options{Rootless: true})) })
}

// liveWithSecrets has a container get a secret in each way, and looks for the value
// wherever podman tells of the container.
func liveWithSecrets(f fixture) {
	t, value := f.T, "s3cr3t & <more>\n"
	port, err := process.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	step := f.step(score.Service{
		Name: "web", Ports: []score.Port{{ContainerPort: images.Port, HostPort: int32(port), HostIP: "127.0.0.1"}},
		Env: []score.EnvVar{{Name: "OPEN", Value: "clear"}}, Volumes: []score.Volume{{ContainerPath: "/data", Volume: "data"}},
		HealthCheck: &score.HealthCheck{Command: []string{"/hello", "-check", "http://127.0.0.1:8080/"}},
		Secrets: []score.Secret{
			{Name: "db", Key: "password", Env: "PASSWORD"}, {Name: "db", Key: "password", File: "/etc/app/password"},
			{Name: "db", Key: "password", File: "/data/deep/password"},
		},
	})
	db := reconcile.SecretKey{Ref: secret.Ref{Deployment: step.Deployment, Name: "db"}, Key: "password"}
	step.Service = step.Service.Supplied(step.Deployment, map[reconcile.SecretKey]reconcile.Secret{db: {Version: "7"}})
	name := reconcile.SecretName(device, db, "7")
	f.must(step, reconcile.Pull)
	if got := f.run(step, reconcile.Create); got.Err == nil || !strings.Contains(got.Err.Message, name) {
		t.Errorf("without the secret: %+v", got)
	}
	if err := f.client.PutSecret(t.Context(), name, []byte(value)); err != nil {
		t.Fatal(err)
	}
	f.must(step, reconcile.Create, reconcile.Start, reconcile.Conceal)
	created := f.find(step)
	if diff := cmp.Diff([]string{name}, created.Secrets); diff != "" {
		t.Errorf("secrets of the container (- want, + got):\n%s", diff)
	}
	has := func(when string) {
		t.Helper()
		for _, path := range []string{"env?name=PASSWORD", "file?path=/etc/app/password", "file?path=/data/deep/password"} {
			if got := ask(t, port, path); strings.TrimSpace(got) != strings.TrimSpace(value) {
				t.Errorf("%s: %s is %q", when, path, got)
			}
		}
		if got := ask(t, port, "env?name=OPEN"); strings.TrimSpace(got) != "clear" {
			t.Errorf("%s: the other variable is %q", when, got)
		}
	}
	has("at first")
	f.tellsNothing("at first", created.ID, "s3cr3t")
	if got := f.must(step, reconcile.Check); !got.Health.OK {
		t.Errorf("a command in the container: %+v", got)
	}

	// Somebody starts it again by hand.
	if out, err := f.service.Run(t.Context(), "restart", "--time=0", created.ID); err != nil {
		t.Fatal(err, out)
	}
	other := step // which is wanted by now, and has no secret
	other.Service.Spec.Secrets = nil
	f.must(other, reconcile.Conceal, reconcile.Conceal)
	has("after a restart")
	f.tellsNothing("after a restart", created.ID, "s3cr3t")
	f.must(step, reconcile.Stop, reconcile.Conceal)
	f.tellsNothing("stopped", created.ID, "s3cr3t")
	f.must(step, reconcile.Remove)
}

// tellsNothing looks for the word in all that podman tells without being asked for
// a secret itself.
func (f fixture) tellsNothing(when, id, word string) {
	f.Helper()
	for _, args := range [][]string{
		{"inspect", id}, {"ps", "--all", "--format=json"}, {"events", "--stream=false"}, {"secret", "ls"}, {"generate", "kube", id}, {"logs", id},
	} {
		out, err := f.service.Run(f.Context(), args...)
		if err != nil {
			f.Errorf("%s: podman %q: %v", when, args, err)
		}
		if strings.Contains(out, word) {
			f.Errorf("%s: podman %q tells the value", when, args)
		}
	}
	out, err := f.service.Run(f.Context(), "inspect", "--format={{.Config.Env}}", id)
	if err != nil || !strings.Contains(out, "OPEN=clear") {
		f.Errorf("%s: the environment is %s, %v", when, out, err)
	}
}

// ask waits for the container's answer.
func ask(t *testing.T, port int, path string) string {
	t.Helper()
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/%s", port, path))
		if err == nil {
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err == nil && response.StatusCode == http.StatusOK {
				return string(body)
			}
		}
		if time.Now().After(end) {
			t.Fatalf("no answer for %s: %v", path, err)
		}
	}
}

// A device sees and touches its own secrets alone, whoever else uses this podman.
func TestSecretsAreTheDevicesOwn(t *testing.T) {
	f := start(t, podman.Options{})
	own := reconcile.SecretPrefix(device) + "0123"
	others := []string{reconcile.SecretPrefix("pi-2") + "0123", "somebodys"}
	for _, name := range append(others, own) {
		if err := f.client.PutSecret(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	list := func() []string {
		t.Helper()
		names, err := f.client.Secrets(t.Context(), device)
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if diff := cmp.Diff([]string{own}, list()); diff != "" {
		t.Errorf("secrets (- want, + got):\n%s", diff)
	}
	for range 2 { // the second time it is gone already
		if err := f.client.RemoveSecret(t.Context(), own); err != nil {
			t.Error(err)
		}
	}
	if left := list(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	out, err := f.service.Run(t.Context(), "secret", "ls", "--noheading", "--format={{.Name}}")
	slices.Sort(others)
	if got := strings.Fields(out); err != nil || len(got) != 2 {
		t.Errorf("others' are %q, %v; want %q", got, err, others)
	}
}

// The largest value and the smallest pass, and podman's refusal does not repeat
// one.
func TestSizeOfSecrets(t *testing.T) {
	f := start(t, podman.Options{})
	for size, fits := range map[int]bool{0: false, 1: true, MaxSecret: true, MaxSecret + 1: false} {
		err := f.client.PutSecret(t.Context(), fmt.Sprint(reconcile.SecretPrefix(device), size), []byte(strings.Repeat("v", size)))
		if (err == nil) != fits {
			t.Errorf("%d bytes: %v", size, err)
		}
		if err != nil && strings.Contains(err.Error(), "vvvv") {
			t.Errorf("%d bytes: the error repeats the value", size)
		}
	}
}

func TestRewriteKeepsTheRest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	const before = `{"ociVersion":"1.0.2","process":{"user":{"uid":7},"env":["A=b=c","PASSWORD=s3cr3t","PASSWORDS=x"],"cwd":"/"},"linux":{"big":9007199254740993}}`
	if err := os.WriteFile(path, []byte(before), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 1234, 1235); err != nil {
		t.Fatal(err)
	}
	if err := rewrite(path, []string{"PASSWORD"}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"linux":{"big":9007199254740993},"ociVersion":"1.0.2","process":{"cwd":"/","env":["A=b=c","PASSWORD=*******","PASSWORDS=x"],"user":{"uid":7}}}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 || !strings.Contains(fmt.Sprintf("%+v", info.Sys()), "Uid:1234 Gid:1235") {
		t.Errorf("%+v, %v", info, err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	for _, odd := range []string{"", "{}", `{"process":{}}`} {
		if err := os.WriteFile(path, []byte(odd), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := rewrite(path, []string{"PASSWORD"}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", odd, err)
		}
	}
}
