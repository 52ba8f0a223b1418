package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

const (
	// returning is how many agents come back, and restarts how often: less often
	// than other things are measured, because each takes a minute. The worse one is
	// what the table has as the median.
	returning = 2000
	restarts  = 2
	// policyAge is how long the callout uses a policy without reading it again,
	// and a little more: a broker seldom dies just after its devices logged in.
	policyAge = 31 * time.Second
	// returnWithin bounds the wait until all agents are back.
	returnWithin = 2 * time.Minute
	// files are those that this process has open besides one for each agent.
	files = 500
)

// restart measures how long a fleet takes to come back when its broker is killed
// and started again on its store: until the last agent is connected over TLS, let
// in by the callout with a token that it had, and has read its manifest. Agents
// are agent/bus as it is in the product, its waits between attempts included, each
// with something to tell that it tells again; all of them are in this process.
//
// The time runs from the kill, and is held against what the TLS handshakes alone
// would take: their CPU time, that of both sides, on all cores. Agents, broker,
// callout and OpenBao share these.
func (b *bench) restart(ctx context.Context) error {
	if err := allowFiles(returning + files); err != nil {
		return err
	}
	handshaker, err := newHandshaker()
	if err != nil {
		return err
	}
	w, err := b.newReturnWorld(ctx)
	if err != nil {
		return err
	}
	defer w.stop()
	var took, started, bound, failed, late series
	for range restarts {
		if err := sleep(ctx, policyAge); err != nil {
			return err
		}
		_, each, err := handshaker.run(ctx, decisionCount)
		if err != nil {
			return err
		}
		bound = append(bound, returning*each.Seconds()/cores())
		before := w.agents.failures()
		up, all, err := w.kill(ctx)
		if err != nil {
			return err
		}
		started, took = append(started, up.Seconds()), append(took, all.Seconds())
		timeouts, err := w.timeouts(ctx)
		if err != nil {
			return err
		}
		late = append(late, float64(timeouts))
		failed = append(failed, float64(w.agents.failures()-before-returning)) // each lost a connection too
	}
	consumers, err := w.consumers(ctx)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("broker killed, %d agents", returning)
	b.add(row{what: name + ": until it serves again", unit: "s", values: started})
	b.add(row{what: name + ": until all are current", unit: "s", values: took})
	b.add(row{what: name + ": CPU bound of their handshakes", unit: "s", values: bound})
	b.add(row{what: name + ": until all are current over that bound", values: ratio(took, bound), atMost: 3})
	b.add(row{what: name + ": attempts that failed", values: failed})
	b.add(row{what: name + ": logins that timed out", values: late, none: true})
	b.add(row{what: name + ": consumers that they left", values: series{float64(consumers)}, none: true})
	return nil
}

// allowFiles raises the bound of open files when that is necessary.
func allowFiles(n uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("reading the limit of open files: %w", err)
	}
	if limit.Cur >= n {
		return nil
	}
	limit.Cur, limit.Max = n, max(n, limit.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raising the limit of open files to %d; raise it with ulimit -n: %w", n, err)
	}
	return nil
}

// returnWorld is a fleet that is connected and has nothing to do.
type returnWorld struct {
	broker  *broker.Process
	monitor string
	agents  *agents
	stops   []func()
}

func (w *returnWorld) stop() {
	for i := range w.stops {
		w.stops[len(w.stops)-1-i]()
	}
}

func (b *bench) newReturnWorld(ctx context.Context) (_ *returnWorld, err error) {
	w := &returnWorld{}
	defer func() {
		if err != nil {
			w.stop()
		}
	}()
	s, err := newSite(ctx, b.dir, returning)
	if err != nil {
		return nil, err
	}
	w.stops = append(w.stops, s.Stop)
	port, err := process.FreePort()
	if err != nil {
		return nil, err
	}
	w.monitor = fmt.Sprintf("http://127.0.0.1:%d", port)
	w.broker, err = broker.StartProcess(ctx, broker.Options{
		Callout: true, TLS: true, SyncAlways: true, LoginTimeout: loginTimeout, MonitorPort: port,
	})
	if err != nil {
		return nil, err
	}
	w.stops = append(w.stops, w.broker.Stop)
	if err := w.write(ctx); err != nil {
		return nil, err
	}
	callout, err := s.startCallout(ctx, w.broker.Callout())
	if err != nil {
		return nil, err
	}
	w.stops = append(w.stops, func() { callout.Stop(10 * time.Second) })
	if w.agents, err = newAgents(s, w.broker); err != nil {
		return nil, err
	}
	w.stops = append(w.stops, w.agents.stop)
	return w, w.agents.start(ctx)
}

// returningDeployment is what each of the agents runs.
var returningDeployment = wire.DeploymentID{Namespace: "bench", Name: "app-0000"}

// write stores a desired state for each agent.
func (w *returnWorld) write(ctx context.Context) error {
	conn, err := bus.Connect(ctx, bus.Options{NATS: w.broker.NATS(), Credentials: w.broker.Operator(), Name: "bench", Log: logr.Discard(), FailFast: true})
	if err != nil {
		return err
	}
	defer conn.Close()
	canonical, err := score.Encode(deployment(0).Spec.Score)
	if err != nil {
		return err
	}
	entries := map[string]wire.ManifestEntry{returningDeployment.Token(): {Revision: 1, Digest: score.DigestOf(canonical)}}
	units := make([][]bus.Message, returning)
	for i := range units {
		manifest, err := w.broker.Manifest(deviceID(i), 1, entries)
		if err != nil {
			return err
		}
		units[i] = []bus.Message{
			{Key: wire.DeploymentKey(deviceID(i), returningDeployment), Value: canonical},
			{Key: wire.DeviceKey(deviceID(i)), Value: manifest},
		}
	}
	_, err = conn.Write(ctx, units)
	return err
}

// kill kills the broker and starts it again. It returns when every agent is
// current, and after how long the broker served, and they were.
func (w *returnWorld) kill(ctx context.Context) (up, all time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, returnWithin, fmt.Errorf("not all agents came back within %s", returnWithin))
	defer cancel()
	begin := time.Now()
	w.broker.Kill()
	w.agents.lose()
	if err := w.broker.Restart(ctx); err != nil {
		return 0, 0, err
	}
	up = time.Since(begin)
	if err := w.agents.wait(ctx, returning); err != nil {
		return 0, 0, err
	}
	return up, time.Since(begin), nil
}

// timeouts counts the logins that the broker gave up since it was started last.
func (w *returnWorld) timeouts(ctx context.Context) (n int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.monitor+"/connz?state=closed&limit=100000", http.NoBody)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	var closed struct {
		Connections []struct {
			Reason string `json:"reason"`
		} `json:"connections"`
	}
	if err := json.NewDecoder(response.Body).Decode(&closed); err != nil {
		return 0, fmt.Errorf("reading why the broker closed connections: %w", err)
	}
	for _, c := range closed.Connections {
		if strings.HasPrefix(c.Reason, "Authentication") || strings.HasPrefix(c.Reason, "TLS") {
			n++
		}
	}
	return n, nil
}

// consumers counts those of all buckets.
func (w *returnWorld) consumers(ctx context.Context) (n int, err error) {
	as, to := w.broker.Provisioner(), w.broker.NATS()
	nc, err := nats.Connect(to.URLs[0], nats.RootCAs(to.CAFile), nats.UserInfo(as.User, as.Password))
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	for _, bucket := range wire.Buckets() {
		stream, err := js.Stream(ctx, bucket.Stream())
		if err != nil {
			return 0, err
		}
		n += stream.CachedInfo().State.Consumers
	}
	return n, nil
}
