package kubectl

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

func device(id string, reachable metav1.ConditionStatus) v1alpha1.Device {
	d := v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: id}}
	if reachable != "" {
		d.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReachable, Status: reachable, LastTransitionTime: ago(5 * time.Minute)}}
	}
	return d
}

func web(t *testing.T) (*v1alpha1.Deployment, score.Digest) {
	t.Helper()
	d, err := request{Namespace: "default", Name: "web", Selector: "group=a", Image: "registry.example/web:2"}.deployment()
	if err != nil {
		t.Fatal(err)
	}
	canonical, err := score.Encode(d.Spec.Score)
	if err != nil {
		t.Fatal(err)
	}
	return d, score.DigestOf(canonical)
}

func TestDeviceReports(t *testing.T) {
	deployment, wanted := web(t)
	older := score.DigestOf([]byte("an older version"))
	at := func(s wire.DeviceState) stateAt { return stateAt{s, now.Add(-time.Minute)} }
	reported := ago(time.Minute)
	container := []wire.ContainerRef{{Service: "web", ID: strings.Repeat("ab", 32)}}
	deleting := deployment.DeepCopy()
	deleting.DeletionTimestamp = &reported

	cases := map[string]struct {
		reason     string
		deployment *v1alpha1.Deployment
		matched    []v1alpha1.Device
		states     map[wire.DeviceID]stateAt
		want       []deviceReport
	}{
		"Current": {
			reason:     "what a device says of the wanted version is shown as it is, also of one that is unreachable now",
			deployment: deployment,
			matched:    []v1alpha1.Device{device("b", metav1.ConditionFalse), device("a", metav1.ConditionTrue)},
			states: map[wire.DeviceID]stateAt{
				"a": at(wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: wanted, Containers: container}),
				"b": at(wire.DeviceState{Phase: wire.PhaseFailed, Reason: "PortInUse", Message: "80 is taken", Digest: wanted}),
			},
			want: []deviceReport{
				{Device: "a", Phase: wire.PhaseSucceeded, Reason: "Running", Reachable: metav1.ConditionTrue, Reported: &reported, Containers: container},
				{Device: "b", Phase: wire.PhaseFailed, Reason: "PortInUse", Message: "80 is taken", Reachable: metav1.ConditionFalse, Reported: &reported},
			},
		},
		"NotReported": {
			reason:     "a device that matches and says nothing is pending, and one without a condition neither reachable nor not",
			deployment: deployment,
			matched:    []v1alpha1.Device{device("a", "")},
			want:       []deviceReport{{Device: "a", Phase: wire.PhasePending, Reason: reasonNotReported, Reachable: metav1.ConditionUnknown}},
		},
		"Older": {
			reason:     "success with an older version is no success, and the container that runs is still shown",
			deployment: deployment,
			matched:    []v1alpha1.Device{device("a", metav1.ConditionTrue)},
			states:     map[wire.DeviceID]stateAt{"a": at(wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: older, Containers: container})},
			want: []deviceReport{{
				Device: "a", Phase: wire.PhasePending, Reason: reasonOlder, Message: "of an older version: Succeeded (Running)",
				Reachable: metav1.ConditionTrue, Reported: &reported, Containers: container,
			}},
		},
		"NoLongerMatched": {
			reason:     "a container that still runs where it should not is not hidden",
			deployment: deployment,
			states:     map[wire.DeviceID]stateAt{"a": at(wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: wanted, Containers: container})},
			want:       []deviceReport{{Device: "a", Phase: phaseRemoving, Reason: reasonNotMatched, Reachable: metav1.ConditionUnknown, Reported: &reported, Containers: container}},
		},
		"Deleting": {
			reason:     "while a Deployment is deleted every report is of something that goes, and silence is the end of it",
			deployment: deleting,
			matched:    []v1alpha1.Device{device("a", metav1.ConditionTrue), device("b", metav1.ConditionTrue)},
			states:     map[wire.DeviceID]stateAt{"a": at(wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: wanted, Containers: container})},
			want:       []deviceReport{{Device: "a", Phase: phaseRemoving, Reason: v1alpha1.ReasonDeleting, Reachable: metav1.ConditionTrue, Reported: &reported, Containers: container}},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := deviceReports(tc.deployment, tc.matched, tc.states)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestDecodeStatesSkipsPoison(t *testing.T) {
	_, digest := web(t)
	good, err := wire.DeviceState{Phase: wire.PhaseSucceeded, Digest: digest}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got := decodeStates([]bus.Entry{
		{Key: "a.default.web", Value: good, At: now},
		{Key: "b.default.web", Value: []byte("{")},
		{Key: "A.default.web", Value: good},
	})
	if len(got) != 1 || !got["a"].at.Equal(now) {
		t.Errorf("want the state of a alone, got %v", got)
	}
}

func TestStatusText(t *testing.T) {
	reported := ago(90 * time.Second)
	r := &report{Namespace: "default", Name: "web", Generation: 3}
	r.Status.ObservedGeneration = 2
	r.Status.Aggregate = v1alpha1.Aggregate{
		MatchedDeviceCount: 2, Failed: 1, Pending: 1, Unreachable: 1,
		LastError: &v1alpha1.LastError{Device: "a", Reason: "ImagePullFailed", Message: "manifest unknown", Time: ago(time.Minute)},
	}
	r.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "Progressing", Message: "1 of 2 devices to go"}}
	r.Devices = []deviceReport{
		{Device: "a", Phase: wire.PhaseFailed, Reason: "ImagePullFailed", Message: "manifest unknown\nsee above", Reachable: metav1.ConditionTrue, Reported: &reported,
			Containers: []wire.ContainerRef{{Service: "web", ID: "0123456789abcdef"}, {Service: "db", ID: "short"}}},
		{Device: "b", Phase: wire.PhasePending, Reason: reasonNotReported, Reachable: metav1.ConditionFalse},
	}
	want := `Deployment default/web, generation 3; what follows is of generation 2, the operator has yet to follow
Ready: False (Progressing) 1 of 2 devices to go
Devices: 2 matched = 0 succeeded + 1 failed + 1 pending; 1 of them unreachable
Last error: a, 60s ago: ImagePullFailed: manifest unknown
DEVICE   PHASE     REASON            REACHABLE   AGE      CONTAINER            MESSAGE
a        Failed    ImagePullFailed   True        90s      0123456789ab,short   manifest unknown...
b        Pending   NotReported       False       <none>   <none>               
`
	var out strings.Builder
	r.printSummary(&out, now)
	if err := (&format{}).printTable(&out, r.table(now)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDeviceTable(t *testing.T) {
	known := device("pi-4", metav1.ConditionFalse)
	known.Labels = map[string]string{"device-id": "pi-4", "group": "a"}
	known.Spec.Inventory = &wire.Inventory{Architecture: "arm64", OperatingSystem: "Debian GNU/Linux 12", PodmanVersion: "4.3.1", AgentVersion: "v1"}
	cloned := device("pi-6", metav1.ConditionTrue)
	cloned.Status.Conditions = append(cloned.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionIdentityConflict, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonTwoAgents,
	})
	held := device("pi-7", metav1.ConditionTrue)
	held.Status.Conditions = append(held.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionHeld, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonHeldByDevice,
	})
	want := `DEVICE   REACHABLE   SINCE       PROBLEM        ARCH        OS                    PODMAN      AGENT       LABELS
pi-4     False       5m          <none>         arm64       Debian GNU/Linux 12   4.3.1       v1          device-id=pi-4,group=a
pi-5     Unknown     <unknown>   <none>         <unknown>   <unknown>             <unknown>   <unknown>   <none>
pi-6     True        5m          TwoAgents      <unknown>   <unknown>             <unknown>   <unknown>   <none>
pi-7     True        5m          HeldByDevice   <unknown>   <unknown>             <unknown>   <unknown>   <none>
`
	var out strings.Builder
	table := deviceTable([]v1alpha1.Device{known, device("pi-5", ""), cloned, held}, now)
	if err := (&format{value: formatWide}).printTable(&out, table); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
