package operator_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// The attacker's id is the beginning of the victim's.
const attacker, victim wire.DeviceID = "pi-4", "pi-42"

// attack is what a device writes under keys that are its own. One of the last three
// says how it is told; a state that counts for nothing is not.
type attack struct {
	reason   string
	bucket   wire.Bucket
	key      string
	payload  string
	refused  string // in the broker's answer
	conflict string // in the status of the attacker's Device
	poison   bool   // in the log and the metric
}

// arena is an operator at work for an attacker and a victim, with policies.
type arena struct {
	*world
	running *running
	login   config.Credentials
	// group is for devices of group a, byID for the victim by its label device-id,
	// and own for the attacker.
	group, byID, own *v1alpha1.Deployment
	fences           int
}

func newArena(t *testing.T) *arena {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Options{Devices: []wire.DeviceID{attacker, victim}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	a := &arena{world: newWorldWith(t, b), login: b.Device(attacker)}
	bao, with := a.policies()
	any := []string{policy.AnyValue}
	a.must(bao.PutPolicy(t.Context(), victim, policy.Policy{Labels: map[string][]string{"group": {"a"}}}))
	a.must(bao.PutPolicy(t.Context(), attacker, policy.Policy{Labels: map[string][]string{"group": {"b"}, "fence": any, "si-te": any, "kubernetes.io/arch": any, v1alpha1.LabelDeviceID: any}}))
	a.running = a.startConverged(with)
	namespace := a.namespace()
	a.group, a.byID, a.own = deployment(namespace, "group", "a"), deployment(namespace, "by-id", ""), deployment(namespace, "own", "b")
	a.byID.Spec.TargetSelector.MatchLabels = map[string]string{v1alpha1.LabelDeviceID: string(victim)}
	a.announce(victim, map[string]string{"group": "a"})
	a.announce(attacker, map[string]string{"group": "b"})
	for d, id := range map[*v1alpha1.Deployment]wire.DeviceID{a.group: victim, a.byID: victim, a.own: attacker} {
		a.must(a.api.Create(t.Context(), d))
		a.report(id, idOf(d), wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: digestOf(t, d.Spec.Score)})
		a.awaitStatus(d, "ready", func(s v1alpha1.DeploymentStatus) bool { return s.Aggregate.Succeeded == 1 })
	}
	a.awaitDesired(victim, a.group, a.byID)
	a.awaitDesired(attacker, a.own)
	return a
}

// publish writes by the protocol itself, as the attacker, and returns what the
// broker says to it.
func (a *arena) publish(subject, payload string) string {
	a.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(a.broker.URL(), "nats://"))
	a.must(err)
	defer conn.Close()
	a.must(conn.SetDeadline(time.Now().Add(patience)))
	sent := make(chan struct{})
	go func() { // the broker may hang up before it has read all
		defer close(sent)
		_, _ = fmt.Fprintf(conn, "CONNECT {\"user\":%q,\"pass\":%q,\"headers\":true}\r\nSUB %s.> 1\r\nPUB %s %s.x %d\r\n%s\r\n",
			a.login.User, a.login.Password, wire.InboxPrefix(attacker), subject, wire.InboxPrefix(attacker), len(payload), payload)
	}()
	defer func() { <-sent }()
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		switch {
		case err == io.EOF || strings.HasPrefix(line, "-ERR"):
			return line
		case strings.HasPrefix(line, "MSG"):
			answer, err := lines.ReadString('\n')
			a.must(err)
			return answer
		}
		a.must(err)
	}
}

// read is the attacker's Device.
func (a *arena) read(id wire.DeviceID) *v1alpha1.Device {
	a.Helper()
	device := &v1alpha1.Device{}
	a.must(a.api.Get(a.Context(), client.ObjectKey{Name: string(id)}, device))
	return device
}

// fence waits until the operator has acted on all that the attacker wrote into the
// bucket before: it describes itself truly, or reports a failure, and that shows.
func (a *arena) fence(bucket wire.Bucket) {
	a.Helper()
	a.fences++
	mark := fmt.Sprintf("fence-%d", a.fences)
	if bucket.Name == wire.DeviceStates.Name {
		a.report(attacker, idOf(a.own), wire.DeviceState{Phase: wire.PhaseFailed, Reason: "Fence", Message: mark, Digest: digestOf(a.T, a.own.Spec.Score)})
		a.awaitStatus(a.own, mark, func(s v1alpha1.DeploymentStatus) bool {
			return s.Aggregate.LastError != nil && s.Aggregate.LastError.Message == mark
		})
		return
	}
	a.announce(attacker, map[string]string{"group": "b", "fence": mark})
	a.eventually("the operator has read "+mark, func() error {
		if labels := a.read(attacker).Labels; labels["fence"] != mark {
			return fmt.Errorf("labels are %v", labels)
		}
		return nil
	})
}

// dump is what the attacker must not move: the labels of the victim, what both
// devices are to run, and the counts of the victim's Deployments.
func (a *arena) dump() map[string]any {
	a.Helper()
	all := map[string]any{"labels": a.read(victim).Labels, "inventory": a.read(victim).Spec, "generation": a.manifest(victim).Generation}
	for _, id := range []wire.DeviceID{attacker, victim} {
		wanted := a.manifest(id).Deployments
		delete(wanted, idOf(a.own).Token()) // which it may give up
		all["manifest of "+string(id)] = wanted
	}
	for _, d := range []*v1alpha1.Deployment{a.group, a.byID} {
		current := &v1alpha1.Deployment{}
		a.must(a.api.Get(a.Context(), client.ObjectKeyFromObject(d), current))
		current.Status.Aggregate.Unreachable = 0 // as time goes by
		all[d.Name] = current.Status.Aggregate
	}
	devices := &v1alpha1.DeviceList{}
	a.must(a.api.List(a.Context(), devices))
	all["devices"] = len(devices.Items)
	return all
}

// labels is an info with these labels, in JSON.
func labels(text string) string { return `{"labels":{` + text + `},"inventory":{}}` }

// claims are attacks by what a device says of itself.
func claims() map[string]attack {
	many := func(n int) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf(`"l%d":"x"`, i)
		}
		return labels(strings.Join(all, ","))
	}
	info := func(reason, payload, conflict string) attack {
		return attack{reason: reason, bucket: wire.DeviceInfos, key: string(attacker), payload: payload, conflict: conflict}
	}
	poison := func(reason, payload string) attack {
		return attack{reason: reason, bucket: wire.DeviceInfos, key: string(attacker), payload: payload, poison: true}
	}
	const most = "message size exceeds maximum allowed"
	return map[string]attack{
		"A30 device-id":         info("a device must not attract what is meant for another", labels(`"group":"b","device-id":"pi-42"`), `"device-id": the operator sets this label`),
		"A30 device id":         info("nor by a label that becomes that one", labels(`"group":"b","device id":"pi-42"`), `"device id": the operator sets this label`),
		"A30 kubernetes.io":     info("prefixes of Kubernetes are not a device's, whatever its policy says", labels(`"group":"b","kubernetes.io/arch":"x"`), "its prefix is reserved"),
		"A30 fleet":             info("nor are the fleet's", labels(`"group":"b","x.Fleet.nationtech.io/y":"x"`), "its prefix is reserved"),
		"A30 value":             info("labels that drive targeting are the policy's to allow", labels(`"group":"a"`), `does not allow the value "a"`),
		"A30 value with a dot":  info("as they become, not as they are written", labels(`"group":".a "`), `does not allow the value "a"`),
		"A30 65 labels":         poison("a device has 64 labels at most", many(65)),
		"A30 overlong value":    poison("a label has 512 bytes at most", labels(`"group":"`+strings.Repeat("a", 513)+`"`)),
		"A30 overlong key":      poison("a label has 512 bytes at most", labels(`"`+strings.Repeat("a", 513)+`":"x"`)),
		"A30 2,000 labels":      {reason: "a bucket takes no more of them", bucket: wire.DeviceInfos, key: string(attacker), payload: many(4_000), refused: most},
		"A30 100,000 labels":    {reason: "the broker takes no more of them", bucket: wire.DeviceInfos, key: string(attacker), payload: many(100_000), refused: "Maximum Payload Violation"},
		"A32 two become one":    info("of two labels that become one neither counts", labels(`"group":"b","si te":"1","si+te":"2"`), `"si te": it becomes "si-te", as another one does`),
		"A32 one becomes group": info("a label that is written so comes before one that becomes so", labels(`"group":"b","group~":"a"`), `"group~": it becomes "group", which is reported as well`),
		"A32 another id":        {reason: "an id is never made to fit: what is no id is nobody's", bucket: wire.DeviceInfos, key: "PI-42", payload: labels(""), refused: "Permissions Violation"},
	}
}

// reports are attacks by what a device says of Deployments.
func reports(a *arena) map[string]attack {
	state := func(d *v1alpha1.Deployment, more string) attack {
		return attack{
			bucket: wire.DeviceStates, key: wire.DeploymentKey(attacker, idOf(d)),
			payload: fmt.Sprintf(`{"phase":"Succeeded","reason":"Running","digest":%q%s}`, digestOf(a.T, d.Spec.Score), more),
		}
	}
	because := func(reason string, t attack) attack { t.reason = reason; return t }
	unreadable := func(reason, payload string) attack {
		return attack{reason: reason, bucket: wire.DeviceStates, key: wire.DeploymentKey(attacker, idOf(a.group)), payload: payload, poison: true}
	}
	absent := deployment(a.group.Namespace, "absent", "a")
	failed := state(a.group, "")
	failed.payload = strings.Replace(failed.payload, "Succeeded", "Failed", 1)
	elsewhere := state(a.group, "")
	elsewhere.key = string(attacker) + "." + strings.ToUpper(a.group.Namespace) + ".group"
	elsewhere.poison = true
	const counters = `,"succeeded":-1,"matchedDeviceCount":18446744073709551616,"aggregate":{"succeeded":1e300},"time":"2999-01-01T00:00:00Z"`
	return map[string]attack{
		"A31 succeeded":      because("who is not asked does not count", state(a.group, "")),
		"A31 by id":          because("who is not asked does not count", state(a.byID, "")),
		"A31 failed":         because("nor is its failure anybody's last error", failed),
		"A31 absent":         because("a Deployment that does not exist stays absent", state(absent, "")),
		"A31 counters":       because("the operator counts, devices do not", state(a.group, counters)),
		"A31 a phase of its": unreadable("phases are three", `{"phase":"Sabotaged","digest":"x"}`),
		"A31 a huge number":  unreadable("a number is no digest", `{"phase":"Succeeded","digest":1e999}`),
		"A32 upper case":     because("a name is never made to fit", elsewhere),
	}
}

// TestDeviceAttacks has a device attack others through the operator, which reads
// what it writes: the labels that route (A30), claims about Deployments (A31), and
// names that become another's (A32). The victim stays as it is, and the attacker
// gets what it had.
func TestDeviceAttacks(t *testing.T) {
	a := newArena(t)
	before := a.dump()
	try := func(name string, tc attack) {
		t.Run(name, func(t *testing.T) {
			poisons := a.running.metric("fleet_poison_total", tc.bucket.Name)
			answer := a.publish(tc.bucket.Subject(tc.key), tc.payload)
			if !strings.Contains(answer, tc.refused) || tc.refused == "" && !strings.Contains(answer, `"seq"`) {
				t.Fatalf("%s: the broker says %q", tc.reason, answer)
			}
			if tc.conflict != "" {
				a.eventually(tc.reason, func() error {
					told := a.read(attacker).Status.LabelConflicts
					if !slices.ContainsFunc(told, func(text string) bool { return strings.Contains(text, tc.conflict) }) {
						return fmt.Errorf("the Device tells %q, want %q", told, tc.conflict)
					}
					return nil
				})
			}
			if tc.poison {
				a.eventually(tc.reason, func() error { return a.running.poisonous(tc.bucket.Name, int(poisons)+1) })
				a.running.waitLog("bucket=" + tc.bucket.Name + " key=" + tc.key)
			}
			if diff := cmp.Diff(before, a.dump()); diff != "" {
				t.Errorf("%s: what is the victim's has changed (-before +after):\n%s", tc.reason, diff)
			}
			a.fence(tc.bucket)
			if diff := cmp.Diff(before, a.dump()); diff != "" {
				t.Errorf("%s: what is the victim's has changed in the end (-before +after):\n%s", tc.reason, diff)
			}
		})
	}
	for name, tc := range claims() {
		try(name, tc)
	}
	for name, tc := range reports(a) {
		try(name, tc)
	}
}

// TestDeviceAttacksBite is the control: what is refused for its policy, or counts for
// nothing because nobody asked, is taken where the policy allows it.
func TestDeviceAttacksBite(t *testing.T) {
	a := newArena(t)
	before := a.dump()
	device := a.read(attacker)
	changed := device.DeepCopy()
	changed.Labels["group"] = "a" // an admin says so
	a.must(a.api.Patch(t.Context(), changed, client.MergeFrom(device)))
	a.awaitDesired(attacker, a.group)
	tc := reports(a)["A31 succeeded"]
	if answer := a.publish(tc.bucket.Subject(tc.key), tc.payload); !strings.Contains(answer, `"seq"`) {
		t.Fatalf("the broker says %q", answer)
	}
	a.awaitStatus(a.group, "both count", func(s v1alpha1.DeploymentStatus) bool { return s.Aggregate.Succeeded == 2 })
	if cmp.Equal(before, a.dump()) {
		t.Error("the dump shows nothing of that")
	}
}

// TestDeviceTexts (A31): what a device writes of its failures steers neither the
// terminal of who reads them nor the log, and its clock does not count.
func TestDeviceTexts(t *testing.T) {
	a := newArena(t)
	const hostile = "one\u001b[31mtwo\nlevel=ERROR msg=\"forged line\"\r\u202ethree<script>alert(1)</script>\u0000\u009b2J"
	message, err := json.Marshal(hostile)
	a.must(err)
	payload := fmt.Sprintf(`{"phase":"Failed","reason":%s,"message":%s,"digest":%q,"time":"2999-01-01T00:00:00Z"}`, message, message, digestOf(t, a.own.Spec.Score))
	begun := time.Now().Add(-time.Minute)
	if answer := a.publish(wire.DeviceStates.Subject(wire.DeploymentKey(attacker, idOf(a.own))), payload); !strings.Contains(answer, `"seq"`) {
		t.Fatalf("the broker says %q", answer)
	}
	var told *v1alpha1.LastError
	a.awaitStatus(a.own, "failed", func(s v1alpha1.DeploymentStatus) bool {
		told = s.Aggregate.LastError
		return s.Aggregate.Failed == 1 && told != nil
	})
	if !strings.Contains(told.Message, "three") || told.Time.Time.Before(begun) || told.Time.After(time.Now().Add(time.Minute)) {
		t.Errorf("the last error is %+v", told)
	}
	if at := strings.IndexFunc(told.Reason+told.Message, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }); at >= 0 {
		t.Errorf("%q and %q may steer a terminal", told.Reason, told.Message)
	}
	a.publish(wire.DeviceStates.Subject(wire.DeploymentKey(attacker, idOf(a.own))), `{"phase":"`+"\x1b[31m\nmsg=forged"+`"`)
	a.eventually("it is poison", func() error { return a.running.poisonous("device-state", 1) })
	for line := range strings.Lines(a.running.logs.String()) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "msg=forged") || strings.HasPrefix(line, "level=ERROR msg=\"forged") || strings.ContainsFunc(line, unicode.IsControl) {
			t.Errorf("the log has %q", line)
		}
	}
}
