package podman

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// The texts are podman's own, of several versions and both runtimes.
func TestReason(t *testing.T) {
	for text, want := range map[string]string{
		"cannot listen on the TCP port: listen tcp4 :8080: bind: address already in use": reconcile.ReasonPortInUse,
		"rootlessport listen tcp 0.0.0.0:8080: bind: address already in use":             reconcile.ReasonPortInUse,
		"statfs /nonexistent: no such file or directory":                                 reconcile.ReasonVolumeMissing,
		"runc: runc create failed: unable to start container process: exec: \"/bin/absent\": stat /bin/absent: no such file or directory: OCI runtime attempted to invoke a command that was not found":                                         reconcile.ReasonCommandNotFound,
		"crun: executable file `/bin/absent` not found: No such file or directory: OCI runtime attempted to invoke a command that was not found":                                                                                                reconcile.ReasonCommandNotFound,
		"crun: setrlimit `RLIMIT_NOFILE`: Operation not permitted: OCI permission denied":                                                                                                                                                       reconcile.ReasonLimitRefused,
		"runc: runc create failed: error setting rlimits for ready process: error setting rlimit type 7: operation not permitted":                                                                                                               reconcile.ReasonLimitRefused,
		"crun: cgroups in hybrid mode not supported, drop all controllers from cgroupv1 if running with runc: OCI runtime error":                                                                                                                reconcile.ReasonCgroupError,
		"runc: runc create failed: unable to start container process: unable to apply cgroup configuration: mkdir /sys/fs/cgroup/cpuset/libpod_parent: no such file or directory: OCI runtime attempted to invoke a command that was not found": reconcile.ReasonCgroupError,
		"crun: the requested cgroup controller `memory` is not available: OCI runtime error":                                                                                                                                                    reconcile.ReasonCgroupError,
		"no such container abc": reconcile.ReasonPodmanError,
		"creating container storage: the container name \"a\" is already in use by 0123. You have to remove that container to be able to reuse that name: that name is already in use": reconcile.ReasonNameInUse,
		"writing blob: storing blob to file \"/var/tmp/x\": write /var/tmp/x: no space left on device":                                                                                 reconcile.ReasonDiskFull,
		"open /var/lib/containers/storage/libpod/bolt_state.db: read-only file system":                                                                                                 reconcile.ReasonDiskReadOnly,
		"registry.example/a:1: image not known":                                       reconcile.ReasonImageMissing,
		"No such image: registry.example/a:1":                                         reconcile.ReasonImageMissing,
		"crun: exec container process `/hello`: Exec format error: OCI runtime error": reconcile.ReasonWrongArchitecture,
		"something new": reconcile.ReasonPodmanError,
	} {
		if got := Reason(text); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

func TestSpecification(t *testing.T) {
	grace, pids := int32(5), int64(64)
	svc := score.Service{
		Name: "app", Image: "registry.example/app:1", Command: []string{"/app"}, Args: []string{"-v"},
		Env:                    []score.EnvVar{{Name: "A", Value: "$B"}},
		Ports:                  []score.Port{{ContainerPort: 53, HostPort: 5353, Protocol: score.UDP, HostIP: "127.0.0.1"}},
		Volumes:                []score.Volume{{ContainerPath: "/a", HostPath: "/srv/a", ReadOnly: true}, {ContainerPath: "/b", Volume: "b"}},
		Resources:              &score.Resources{CPU: "250m", Memory: "64Mi", Pids: &pids},
		HealthCheck:            &score.HealthCheck{Command: []string{"/app", "-check"}, TimeoutSeconds: 3},
		StopGracePeriodSeconds: &grace,
	}
	step := reconcile.Step{
		Key:     reconcile.Key{Deployment: wire.DeploymentID{Namespace: "shop", Name: "web"}, Service: "app"},
		Service: reconcile.Service{Spec: svc, Digest: svc.Digest()},
	}
	s := specification("pi-1", step)
	if !strings.HasPrefix(s.Name, "shop.web.app-") || s.Name == specification("pi-2", step).Name {
		t.Errorf("name %q", s.Name)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"image": "registry.example/app:1", "entrypoint": []any{"/app"}, "command": []any{"-v"}, "env": map[string]any{"A": "$B"},
		"restart_policy": "no", "stop_timeout": 5.0,
		"labels": map[string]any{
			"io.nationtech.fleet.managed": "true", "io.nationtech.fleet.device": "pi-1", "io.nationtech.fleet.deployment": "shop/web",
			"io.nationtech.fleet.service": "app", "io.nationtech.fleet.digest": string(svc.Digest()),
		},
		"portmappings": []any{map[string]any{"host_ip": "127.0.0.1", "container_port": 53.0, "host_port": 5353.0, "range": 0.0, "protocol": "udp"}},
		"mounts":       []any{map[string]any{"destination": "/a", "type": "bind", "source": "/srv/a", "options": []any{"rbind", "ro"}}},
		"volumes":      []any{map[string]any{"Name": "b", "Dest": "/b", "Options": []any{"rw"}, "IsAnonymous": false, "SubPath": ""}},
		"resource_limits": map[string]any{
			"cpu": map[string]any{"quota": 25000.0, "period": 100000.0}, "memory": map[string]any{"limit": 67108864.0}, "pids": map[string]any{"limit": 64.0},
		},
		"healthconfig": map[string]any{"Test": []any{"CMD", "/app", "-check"}, "Timeout": 3e9, "Retries": 1.0},
	}
	for field, value := range want {
		if diff := cmp.Diff(value, got[field]); diff != "" {
			t.Errorf("%s (- want, + got):\n%s", field, diff)
		}
	}
	svc.HealthCheck, step.Service.Spec = nil, score.Service{Name: "app", Image: "a"}
	plain := specification("pi-1", step)
	if diff := cmp.Diff([]string{"NONE"}, plain.HealthConfig.Test); diff != "" || *plain.StopTimeout != 30 {
		t.Errorf("defaults: grace %d, check (- want, + got):\n%s", *plain.StopTimeout, diff)
	}
}

func TestOthersContainersAreNotListed(t *testing.T) {
	labels := map[string]string{LabelDeployment: "shop/web", LabelService: "app", LabelDigest: "sha256:0"}
	for reason, c := range map[string]struct {
		change func(*listed)
		want   bool
		state  reconcile.ContainerState
	}{
		"ours":             {func(l *listed) {}, true, reconcile.Running},
		"no deployment":    {func(l *listed) { delete(l.Labels, LabelDeployment) }, false, ""},
		"odd deployment":   {func(l *listed) { l.Labels[LabelDeployment] = "web" }, false, ""},
		"no service":       {func(l *listed) { delete(l.Labels, LabelService) }, false, ""},
		"stopped":          {func(l *listed) { l.State = "stopped" }, true, reconcile.Releasing},
		"being removed":    {func(l *listed) { l.State = "removing" }, true, reconcile.Broken},
		"a state to come":  {func(l *listed) { l.State = "hovering" }, true, reconcile.Broken},
		"failed to start":  {func(l *listed) { l.State = "initialized" }, true, reconcile.Created},
		"nobody waits now": {func(l *listed) { l.State = "stopping" }, true, reconcile.Stopping},
	} {
		l := listed{ID: "1", State: "running", Labels: map[string]string{}, StartedAt: 5, Created: time.Unix(4, 5)}
		for k, v := range labels {
			l.Labels[k] = v
		}
		c.change(&l)
		got, ok := l.container()
		if ok != c.want || got.State != c.state {
			t.Errorf("%s: %+v, %v", reason, got, ok)
		}
	}
}

// frames is a log stream as podman sends it.
func frames(lines ...string) *bytes.Buffer {
	var b bytes.Buffer
	for _, line := range lines {
		header := [8]byte{0: 1}
		binary.BigEndian.PutUint32(header[4:], uint32(len(line)))
		b.Write(header[:])
		b.WriteString(line)
	}
	return &b
}

func TestLogsAreBounded(t *testing.T) {
	var hundred, quotes []string
	for i := range 100 {
		hundred = append(hundred, fmt.Sprintf("line %d\n", i))
		quotes = append(quotes, strings.Repeat(`"<`, 50)+"\n")
	}
	for reason, c := range map[string]struct {
		stream    *bytes.Buffer
		most      limits
		lines     int
		last      string
		truncated bool
	}{
		"all":              {frames("a\n", "b\n"), limits{10, 100}, 2, "b", false},
		"the last lines":   {frames(hundred...), limits{10, 10000}, 10, "line 99", false},
		"the last bytes":   {frames(hundred...), limits{100, 50}, 5, "line 99", true},
		"JSON is longer":   {frames(quotes...), limits{100, 1000}, 2, "", true},
		"one endless line": {frames(strings.Repeat("x", 5000)), limits{10, 100}, 1, strings.Repeat("x", 50), false},
		"control codes":    {frames("a\x1b[2Jb\r\n"), limits{10, 100}, 1, "a [2Jb ", false},
		"empty line":       {frames("\n"), limits{10, 100}, 1, "", false},
		"nothing":          {frames(), limits{10, 100}, 0, "", false},
	} {
		w := window{most: c.most}
		if err := w.fill(c.stream); err != nil {
			t.Errorf("%s: %v", reason, err)
			continue
		}
		if len(w.lines) != c.lines || w.truncated != c.truncated || (c.last != "" && w.lines[len(w.lines)-1] != c.last) {
			t.Errorf("%s: %d lines, truncated %v: %q", reason, len(w.lines), w.truncated, w.lines)
		}
		if encoded, err := json.Marshal(w.lines); err != nil || len(encoded) > c.most.bytes+2 {
			t.Errorf("%s: %d bytes of JSON, %v", reason, len(encoded), err)
		}
	}
	for reason, stream := range map[string]string{"cut header": "\x01\x00", "cut frame": "\x01\x00\x00\x00\x00\x00\x00\x09abc", "absurd size": "\x01\x00\x00\x00\xff\xff\xff\xff"} {
		if err := new(window).fill(strings.NewReader(stream)); err == nil {
			t.Errorf("%s: accepted", reason)
		}
	}
}
