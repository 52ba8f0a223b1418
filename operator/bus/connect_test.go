package bus_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// stub is a server that introduces itself with the INFO and answers PING, and
// with a certificate speaks TLS after the INFO. It returns its address.
func stub(t *testing.T, info string, certificate *tls.Certificate) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = listener.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "INFO %s\r\n", info)
			if certificate != nil {
				conn = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*certificate}})
			}
			answerPings(conn)
			conn.Close()
		}
	}()
	return listener.Addr().String()
}

func answerPings(conn net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if strings.Contains(string(buffer[:n]), "PING") {
			fmt.Fprint(conn, "PONG\r\n")
		}
	}
}

func TestConnectFailsForWhatDoesNotHeal(t *testing.T) {
	b := startBroker(t, broker.Options{})
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	secured := stub(t, `{"server_id":"x","version":"2.15.2","max_payload":1048576,"tls_required":true}`, &web.TLS.Certificates[0])
	login := b.Operator()
	wrong, missing := login, login
	wrong.Password = "unguessable"
	missing.Password, missing.PasswordFile = "", filepath.Join(t.TempDir(), "password")
	plain := strings.TrimPrefix(b.URL(), "nats://")
	tests := map[string]struct {
		reason  string
		options bus.Options
		want    []string
	}{
		"wrong password":  {"only a person can mend it", bus.Options{NATS: b.NATS(), Credentials: wrong}, []string{b.URL(), login.User, "Authorization Violation", "check the user and the password"}},
		"password file":   {"a missing file is named", bus.Options{NATS: b.NATS(), Credentials: missing}, []string{"reading the password", missing.PasswordFile}},
		"unknown CA":      {"who could listen in must not be talked to", bus.Options{NATS: urls("tls://" + secured), Credentials: login}, []string{"certificate", "check ca_file"}},
		"CA file missing": {"a missing file is named", bus.Options{NATS: v1alpha1.NATSSection{URLs: []string{"tls://" + secured}, CAFile: "/nowhere/ca.crt"}, Credentials: login}, []string{"/nowhere/ca.crt"}},
		"no TLS there":    {"a password must not cross the network in clear", bus.Options{NATS: urls("tls://" + plain), Credentials: login}, []string{"secure connection not available", "scheme"}},
		"fail fast":       {"a person waits for the answer", bus.Options{NATS: urls("nats://127.0.0.1:1"), Credentials: login, FailFast: true}, []string{"nats://127.0.0.1:1", "no servers"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.options.Log = logger(t)
			conn, err := bus.Connect(t.Context(), tc.options)
			if err == nil {
				conn.Close()
				t.Fatalf("%s: Connect() succeeded", tc.reason)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s: error %q lacks %q", tc.reason, err, want)
				}
			}
			if strings.Contains(err.Error(), wrong.Password) {
				t.Error("the error tells the password")
			}
		})
	}
}

// TestConnectWithCA wants a certificate of the given authority to be enough.
func TestConnectWithCA(t *testing.T) {
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	address := stub(t, `{"server_id":"x","version":"2.15.2","max_payload":1048576,"tls_required":true}`, &web.TLS.Certificates[0])
	conn, err := bus.Connect(t.Context(), bus.Options{NATS: v1alpha1.NATSSection{URLs: []string{"tls://" + address}, CAFile: ca}, Log: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func urls(url string) v1alpha1.NATSSection { return v1alpha1.NATSSection{URLs: []string{url}} }

// TestConnectBeforeTheBroker connects while there is no broker, starts it, stops
// it and starts it again.
func TestConnectBeforeTheBroker(t *testing.T) {
	b := startBroker(t, broker.Options{Dir: t.TempDir()})
	b.Stop()
	changes := make(chan bool, 10)
	conn, err := bus.Connect(t.Context(), bus.Options{NATS: b.NATS(), Credentials: b.Operator(), Log: logger(t), OnConnection: func(up bool) { changes <- up }})
	if err != nil {
		t.Fatal(err)
	}
	if conn.Connected() {
		t.Error("connected without a broker")
	}
	r := follow(t, conn, states)
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wait(t, "the replay", func() bool { return r.caughtUp == 1 })
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitConnected(t, conn)
	conn.Close()
	close(changes)
	var got []bool
	for up := range changes {
		got = append(got, up)
	}
	if diff := cmp.Diff([]bool{true, false, true, false}, got); diff != "" {
		t.Errorf("OnConnection (-want +got):\n%s", diff)
	}
}

// TestPasswordFileIsReadAnew changes the password of the broker and the file.
func TestPasswordFileIsReadAnew(t *testing.T) {
	b := startBroker(t, broker.Options{})
	login := b.Operator()
	file := filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(login.Password)
	conn, err := bus.Connect(t.Context(), bus.Options{
		NATS: b.NATS(), Log: logger(t),
		Credentials: v1alpha1.Credentials{Type: v1alpha1.CredentialPassword, User: login.User, PasswordFile: file},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	write("wrong")
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // several refused attempts; a client gives up after two by default
	if conn.Connected() {
		t.Error("connected with a wrong password")
	}
	write(login.Password)
	waitConnected(t, conn)
}

func TestRequest(t *testing.T) {
	b := startBroker(t, broker.Options{Devices: []wire.DeviceID{"pi-4", "pi-42"}})
	as := b.Device("pi-4")
	device, err := nats.Connect(b.URL(), nats.UserInfo(as.User, as.Password))
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if _, err := device.Subscribe(wire.CommandSubjects("pi-4"), func(msg *nats.Msg) {
		if msg.Subject == wire.CommandSubject("pi-4", wire.VerbPing) {
			_ = msg.Respond(append([]byte("pong "), msg.Data...)) // a lost answer fails the test
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := device.Flush(); err != nil {
		t.Fatal(err)
	}
	admin, err := bus.Connect(t.Context(), bus.Options{NATS: b.NATS(), Credentials: b.Admin(), Log: logger(t), FailFast: true})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	answer, err := admin.Request(t.Context(), "pi-4", wire.VerbPing, []byte("hello"))
	if err != nil || string(answer) != "pong hello" {
		t.Errorf("Request() = %q, %v", answer, err)
	}
	begin := time.Now()
	if _, err := admin.Request(t.Context(), "pi-42", wire.VerbPing, nil); !errors.Is(err, bus.ErrDeviceOffline) || time.Since(begin) > time.Second {
		t.Errorf("Request() to an absent device = %v after %s, want ErrDeviceOffline at once", err, time.Since(begin))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := admin.Request(ctx, "pi-4", wire.VerbLogs, nil); !errors.Is(err, bus.ErrTimeout) {
		t.Errorf("Request() to a device that does not answer = %v, want ErrTimeout", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = connect(t, b).Request(ctx, "pi-4", wire.VerbPing, nil)
	if err == nil || !strings.Contains(err.Error(), `Permissions Violation for Publish to "device-commands.pi-4.ping"`) {
		t.Errorf("Request() by the operator, who may not send commands = %v, want the refusal in words", err)
	}
}
