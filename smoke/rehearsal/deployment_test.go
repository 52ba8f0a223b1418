package rehearsal_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	fleetv1 "github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// scoreOf is a version of a Deployment. Its container says in the environment which.
func (f *fleet) scoreOf(name string, version int) score.Score {
	return score.Score{PodmanV0: &score.PodmanV0{Services: []score.Service{{
		Name: "hello", Image: f.registry.Ref("hello:1"), Env: []score.EnvVar{{Name: "VERSION", Value: fmt.Sprintf("%s=%d", name, version)}},
	}}}}
}

// deploy has version 0 run on both devices.
func (f *fleet) deploy(name string) *fleetv1.Deployment {
	f.Helper()
	d := &fleetv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: fleetv1.DeploymentSpec{
			TargetSelector: metav1.LabelSelector{MatchLabels: map[string]string{"group": "rehearsal"}}, Score: f.scoreOf(name, 0),
		},
	}
	f.must(f.kube.Create(f.Context(), d))
	return d
}

// update has another version run, whoever else writes.
func (f *fleet) update(d *fleetv1.Deployment, version int) error {
	for {
		if err := f.kube.Get(f.Context(), client.ObjectKeyFromObject(d), d); err != nil {
			return err
		}
		d.Spec.Score = f.scoreOf(d.Name, version)
		if err := f.kube.Update(f.Context(), d); !apierrors.IsConflict(err) {
			return err
		}
	}
}

// current checks that the status says that the Deployment runs as it is now on so
// many devices, which is all.
func (f *fleet) current(d *fleetv1.Deployment, devices int32) error {
	got := &fleetv1.Deployment{}
	if err := f.kube.Get(f.Context(), client.ObjectKeyFromObject(d), got); err != nil {
		return err
	}
	s := got.Status
	if s.ObservedGeneration != got.Generation || s.Aggregate.Succeeded != devices || s.Aggregate.MatchedDeviceCount != devices ||
		s.Aggregate.Failed+s.Aggregate.Pending != 0 {
		return fmt.Errorf("generation %d of %s: %+v", got.Generation, d.Name, s)
	}
	return nil
}

// runs checks that the broker and the agent agree that these versions are what shall
// run on a device, and that nothing else does. podman is asked last: it takes its time.
func (f *fleet) runs(d *device, versions map[string]int) error {
	if err := f.agrees(d, versions); err != nil {
		return err
	}
	var want, got []string
	for name, version := range versions {
		want = append(want, fmt.Sprintf("VERSION=%s=%d", name, version))
	}
	out, err := d.podman.Run(f.Context(), "ps", "--all", "--quiet")
	if err != nil {
		return err
	}
	for id := range strings.FieldsSeq(out) {
		out, err := d.podman.Run(f.Context(), "inspect", "--format={{.State.Running}} {{range .Config.Env}}{{.}} {{end}}", id)
		if err != nil {
			return err
		}
		words := strings.Fields(out)
		at := slices.IndexFunc(words, func(word string) bool { return strings.HasPrefix(word, "VERSION=") })
		if at < 0 || words[0] != "true" {
			return fmt.Errorf("%s has container %s: %s", d.id, id, out)
		}
		got = append(got, words[at])
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		return fmt.Errorf("%s runs %v, want %v", d.id, got, want)
	}
	return nil
}

// agrees checks that the agent holds the generation that the broker has, and that the
// broker has of each Deployment the state that speaks of its version.
func (f *fleet) agrees(d *device, versions map[string]int) error {
	manifest, err := f.manifest(d.id)
	if err != nil {
		return err
	}
	ping, err := f.ping(d)
	if err != nil {
		return err
	}
	if ping.Generation != manifest.Generation || len(manifest.Deployments) != len(versions) {
		return fmt.Errorf("%s holds generation %d, the broker %d with %d Deployments", d.id, ping.Generation, manifest.Generation, len(manifest.Deployments))
	}
	for name, version := range versions {
		canonical, err := score.Encode(f.scoreOf(name, version))
		if err != nil {
			return err
		}
		want, id := score.DigestOf(canonical), wire.DeploymentID{Namespace: "default", Name: name}
		msg, err := f.last(wire.DeviceStates, wire.DeploymentKey(d.id, id))
		if err != nil {
			return err
		}
		state, err := wire.DecodeDeviceState(msg.Data)
		if err != nil {
			return err
		}
		if state.Phase != wire.PhaseSucceeded || state.Digest != want || manifest.Deployments[id.Token()].Digest != want {
			return fmt.Errorf("%s of %s: the state is %+v, the manifest %+v, want digest %s", name, d.id, state, manifest.Deployments, want)
		}
	}
	return nil
}

func (f *fleet) last(b wire.Bucket, key string) (*jetstream.RawStreamMsg, error) {
	stream, err := f.streams.Stream(f.Context(), b.Stream())
	if err != nil {
		return nil, err
	}
	return stream.GetLastMsgForSubject(f.Context(), b.Subject(key))
}

func (f *fleet) manifest(id wire.DeviceID) (wire.Manifest, error) {
	msg, err := f.last(wire.DesiredState, wire.DeviceKey(id))
	if err != nil {
		return wire.Manifest{}, err
	}
	m, err := wire.DecodeSignedManifest(msg.Data)
	if err != nil {
		return wire.Manifest{}, err
	}
	return m.Manifest, m.Verify(id, f.broker.TrustedKeys())
}

// ping asks a device what it holds, as `kubectl fleet ping` does. It fails with
// nats.ErrNoResponders for one that is offline.
func (f *fleet) ping(d *device) (wire.PingReply, error) {
	msg, err := f.admin.Request(wire.CommandSubject(d.id, wire.VerbPing), nil, wire.CommandTimeout)
	if err != nil {
		return wire.PingReply{}, fmt.Errorf("ping %s: %w", d.id, err)
	}
	return wire.DecodeReply[wire.PingReply](msg.Data)
}

// offline checks that nobody answers for a device.
func (f *fleet) offline(d *device) error {
	if _, err := f.ping(d); !errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("ping %s: %w, want no responders", d.id, err)
	}
	return nil
}

// consumers counts those of each bucket.
func (f *fleet) consumers() (map[string]int, error) {
	counts := map[string]int{}
	for _, b := range wire.Buckets() {
		stream, err := f.streams.Stream(f.Context(), b.Stream())
		if err != nil {
			return nil, err
		}
		counts[b.Name] = stream.CachedInfo().State.Consumers
	}
	return counts, nil
}
