package wire_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const digest = score.Digest("sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")

// TestGoldenBytes locks the bytes of every payload: a device in the field reads
// what an operator of another version wrote.
func TestGoldenBytes(t *testing.T) {
	grace := int32(5)
	pids := int64(64)
	encoded := map[string]func() ([]byte, error){
		"score.json": func() ([]byte, error) {
			return score.Encode(score.Score{PodmanV0: &score.PodmanV0{Services: []score.Service{{
				Name: "web", Image: "registry.example/web:1", Command: []string{"/web"}, Args: []string{"-v"},
				Env:           []score.EnvVar{{Name: "MODE", Value: "a \"b\" <c>"}},
				Ports:         []score.Port{{ContainerPort: 80, HostPort: 8080, HostIP: "127.0.0.1", Protocol: score.UDP}},
				Volumes:       []score.Volume{{ContainerPath: "/data", Volume: "data"}, {ContainerPath: "/etc/x", HostPath: "/srv/x", ReadOnly: true}},
				RestartPolicy: score.RestartOnFailure,
				Resources:     &score.Resources{CPU: "500m", Memory: "64Mi", Pids: &pids},
				HealthCheck:   &score.HealthCheck{Command: []string{"/check"}, IntervalSeconds: 5, TimeoutSeconds: 2, StartPeriodSeconds: 1, Retries: 2},

				StopGracePeriodSeconds: &grace,
			}}}})
		},
		"manifest.json": func() ([]byte, error) {
			return testSigner(1, 2).Sign("pi-1", wire.Manifest{Generation: 7, NotAfter: notAfter, Deployments: map[string]wire.ManifestEntry{
				"shop.web": {Revision: 3, Digest: digest}, "default.log": {Revision: 1, Digest: digest}}})
		},
		"manifest-empty.json": func() ([]byte, error) {
			return testSigner(1).Sign("pi-1", wire.Manifest{Generation: 8, NotAfter: notAfter})
		},
		"manifest-held.json": func() ([]byte, error) {
			return testSigner(1).Sign("pi-1", wire.Manifest{Generation: 9, NotAfter: notAfter, HoldUntil: notAfter.Add(time.Hour)})
		},
		"info-held.json": wire.DeviceInfo{Hold: &wire.Hold{Until: notAfter, By: wire.HeldByCluster}}.Encode,
		"info.json": wire.DeviceInfo{Labels: map[string]string{"group": "a", "arch": "arm64"}, Inventory: wire.Inventory{
			Hostname: "pi", Architecture: "arm64", OperatingSystem: "Debian GNU/Linux 12 (bookworm)", KernelVersion: "6.1.0",
			PodmanVersion: "4.3.1", AgentVersion: "0.1.0", CPUModel: "Cortex-A76", CPUCount: 4, MemoryBytes: 8 << 30, DiskBytes: 64 << 30}}.Encode,
		"state.json": wire.DeviceState{Phase: wire.PhaseFailed, Reason: "CrashLoop", Message: "exit code 1", Digest: digest,
			Containers: []wire.ContainerRef{{Service: "web", ID: "0123456789ab"}}}.Encode,
		"heartbeat.json":      wire.Heartbeat{Session: "0a1b2c3d", Generation: 7}.Encode,
		"heartbeat-twin.json": wire.Heartbeat{Session: "0a1b2c3d", Generation: 7, Twin: wire.TwinStandsBy}.Encode,
		"logsrequest.json":    wire.LogsRequest{Namespace: "shop", Deployment: "web", Service: "web", Lines: 10}.Encode,
		"logsreply.json": func() ([]byte, error) {
			return wire.EncodeReply(wire.LogsReply{Logs: []wire.ServiceLog{{Service: "web", Container: "0123", Lines: []string{"one", "two"}, Truncated: true}}})
		},
		"pingreply.json": func() ([]byte, error) {
			return wire.EncodeReply(wire.PingReply{AgentVersion: "0.1.0", Session: "0a1b2c3d", UptimeSeconds: 60, Generation: 7})
		},
		"error.json": func() ([]byte, error) {
			return wire.EncodeReply(wire.PingReply{Error: &wire.CommandError{Reason: wire.CommandUnknownVerb, Message: "no such verb"}})
		},
	}
	for name, encode := range encoded {
		t.Run(name, func(t *testing.T) {
			got, err := encode()
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", "golden", name)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("the bytes changed: devices in the field would not understand\ngot  %s\nwant %s", got, want)
			}
		})
	}
}

// TestHeartbeatSize holds the largest heartbeat below its bound.
func TestHeartbeatSize(t *testing.T) {
	got, err := wire.Heartbeat{Session: "ffffffff", Generation: wire.MaxGeneration, Twin: wire.TwinStandsBy}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) >= wire.MaxHeartbeat {
		t.Errorf("the largest heartbeat has %d bytes, want fewer than %d", len(got), wire.MaxHeartbeat)
	}
}

// TestLargestManifestFits: the bounds of the wire must agree with each other.
func TestLargestManifestFits(t *testing.T) {
	m := wire.Manifest{Generation: wire.MaxGeneration, NotAfter: notAfter, Deployments: map[string]wire.ManifestEntry{}}
	for i := range wire.MaxDeploymentsPerDevice {
		name := strings.Repeat("n", 59) + string([]byte{byte('0' + i/1000%10), byte('0' + i/100%10), byte('0' + i/10%10), byte('0' + i%10)})
		m.Deployments[strings.Repeat("s", 63)+"."+name] = wire.ManifestEntry{Revision: 1 << 40, Digest: digest}
	}
	got, err := testSigner(1, 2, 3, 4).Sign(wire.DeviceID(strings.Repeat("d", 63)), m)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) > int(wire.DesiredState.MaxMessageSize) {
		t.Errorf("the largest manifest has %d bytes, the bucket takes %d", len(got), wire.DesiredState.MaxMessageSize)
	}
	if _, err := wire.DecodeSignedManifest(got); err != nil {
		t.Errorf("the largest manifest does not decode: %v", err)
	}
}
