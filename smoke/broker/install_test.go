package broker_test

import (
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/gen/install"
	"github.com/nationtech/harmony-fleet/gen/values"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/pki"
)

// installed puts the configuration of an installation, and what it names, where
// this process can read it. It returns the seed of the operator.
func installed(t *testing.T, v values.Values) (dir string, operator nkeys.KeyPair) {
	t.Helper()
	dir = t.TempDir()
	ca, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pkix.Name{CommonName: "nats"}, "127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"ca.crt": ca.PEM, "tls.crt": pair.Cert, "tls.key": pair.Key} {
		save(t, filepath.Join(dir, name), string(content))
	}
	for _, object := range install.Build(v, install.Release{Name: "rel", Namespace: "ns", Version: "1"})[install.NATSConfigFile] {
		for name, content := range object.(*corev1.ConfigMap).Data {
			here := strings.NewReplacer("/etc/fleet/tls", dir, "/data", dir).Replace(content)
			save(t, filepath.Join(dir, name), here)
		}
	}
	for name, create := range map[string]func() (nkeys.KeyPair, error){
		"FLEET_OPERATOR": nkeys.CreateUser, "FLEET_STREAMS": nkeys.CreateUser, "FLEET_CALLOUT": nkeys.CreateUser,
		"FLEET_ISSUER": nkeys.CreateAccount, "FLEET_XKEY": nkeys.CreateCurveKeys,
	} {
		key, err := create()
		if err != nil {
			t.Fatal(err)
		}
		public, err := key.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv(name, public)
		if name == "FLEET_OPERATOR" {
			operator = key
		}
	}
	t.Setenv("FLEET_ADMIN_PASSWORD", "secret-of-people")
	return dir, operator
}

func save(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestInstalledConfiguration: nats-server takes the configuration of every kind of
// installation, and means by it what the product does.
func TestInstalledConfiguration(t *testing.T) {
	for _, replicas := range []int32{1, 3} {
		for _, callout := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d servers, callout %t", replicas, callout), func(t *testing.T) {
				v := install.Defaults()
				v.NATS.Replicas, v.Callout.Enabled = replicas, callout
				dir, _ := installed(t, v)
				o, err := server.ProcessConfigFile(filepath.Join(dir, "nats.conf"))
				if err != nil {
					t.Fatal(err)
				}
				if !o.SyncAlways || o.JetStreamLimits.DefaultMaxConsumers != 1000 || o.TLSConfig == nil || o.TLSTimeout != 30 {
					t.Errorf("the store or TLS is not as the product wants: %+v", o)
				}
				if len(o.Accounts) != len(wire.Accounts()) || o.SystemAccount != wire.AccountSystem {
					t.Errorf("there are %d accounts, want those of wire", len(o.Accounts))
				}
				if asks := o.AuthCallout != nil && o.AuthTimeout == 10 && o.AuthCallout.Account == wire.AccountAuth && len(o.AuthCallout.AuthUsers) == 4; asks != callout {
					t.Errorf("asks the callout: %t, want %t: %+v", asks, callout, o.AuthCallout)
				}
				if joined := len(o.Routes) == 3 && o.Cluster.TLSConfig != nil; joined != (replicas == 3) {
					t.Errorf("joins others: %t: %+v", joined, o.Routes)
				}
				var reserved int64
				for _, b := range wire.Buckets() {
					reserved += b.MaxBytes
				}
				if o.JetStreamMaxStore < reserved {
					t.Errorf("the store holds %d bytes, and the buckets reserve %d", o.JetStreamMaxStore, reserved)
				}
			})
		}
	}
}

// TestInstalledBroker runs it: the probes of the pod are answered, the operator
// logs in with its key, and somebody who is not known is not let in.
func TestInstalledBroker(t *testing.T) {
	v := install.Defaults()
	dir, operator := installed(t, v)
	o, err := server.ProcessConfigFile(filepath.Join(dir, "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	o.Host, o.Port, o.HTTPHost, o.HTTPPort, o.NoSigs, o.NoLog = "127.0.0.1", -1, "127.0.0.1", -1, true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("it is not ready for connections")
	}
	probes(t, v, "http://"+s.MonitorAddr().String())
	public, err := operator.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("tls://127.0.0.1:%d", s.Addr().(*net.TCPAddr).Port)
	trust := nats.RootCAs(filepath.Join(dir, "ca.crt"))
	conn, err := nats.Connect(url, trust, nats.Nkey(public, operator.Sign))
	if err != nil {
		t.Fatalf("the operator: %v", err)
	}
	conn.Close()
	if conn, err := nats.Connect(url, trust, nats.UserInfo("admin", "wrong"), nats.Timeout(patience)); err == nil {
		conn.Close()
		t.Error("a wrong password is let in")
	}
	if conn, err := nats.Connect(url, trust, nats.UserInfo("admin", "secret-of-people")); err != nil {
		t.Errorf("people: %v", err)
	} else {
		conn.Close()
	}
	router, err := broker.NewRouter(map[string]string{"localhost": url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(router.Close)
	byName := fmt.Sprintf("tls://localhost:%d", router.Port())
	conn, err = nats.Connect(byName, trust, nats.Nkey(public, operator.Sign), nats.TLSHandshakeFirst(), nats.Timeout(patience))
	if err != nil {
		t.Fatalf("who begins with the handshake, through a router that goes by its name: %v", err)
	}
	conn.Close()
}

// probes asks what the kubelet asks.
func probes(t *testing.T, v values.Values, monitor string) {
	t.Helper()
	asked := 0
	for _, object := range install.Build(v, install.Release{Name: "rel", Namespace: "ns", Version: "1"})["nats.yaml"] {
		set, isSet := object.(*appsv1.StatefulSet)
		if !isSet {
			continue
		}
		c := set.Spec.Template.Spec.Containers[0]
		for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
			answer, err := http.Get(monitor + probe.HTTPGet.Path)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				t.Errorf("%s is answered with %s", probe.HTTPGet.Path, answer.Status)
			}
			asked++
		}
	}
	if asked != 3 {
		t.Errorf("%d probes were asked", asked)
	}
}
