package load

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const page = client.Limit(500)

// findings are what is not as the plan says. Only the first few are kept in words.
type findings struct {
	wrong int
	words []string
}

func (f *findings) add(format string, args ...any) {
	if f.wrong++; len(f.words) < 5 {
		f.words = append(f.words, fmt.Sprintf(format, args...))
	}
}

// verifyAggregates compares the aggregate of every Deployment with a recount.
func (s *stack) verifyAggregates(ctx context.Context, p *plan, truths []truth) (findings, error) {
	var f findings
	got := map[string]v1alpha1.Aggregate{}
	list := &v1alpha1.DeploymentList{}
	for more := true; more; more = list.Continue != "" {
		if err := s.client.List(ctx, list, client.InNamespace(namespace), page, client.Continue(list.Continue)); err != nil {
			return f, fmt.Errorf("listing Deployments: %w", err)
		}
		for i := range list.Items {
			got[list.Items[i].Name] = list.Items[i].Status.Aggregate
		}
	}
	for j, d := range p.deployments {
		a, found := got[d.id.Name]
		if !found {
			f.add("%s is not there", d.id)
			continue
		}
		if a.LastError != nil {
			a.LastError.Time = metav1.Time{}
		}
		if diff := cmp.Diff(p.recount(j, truths), a); diff != "" {
			f.add("%s (-recount +status):\n%s", d.id, diff)
		}
	}
	return f, nil
}

// verifyDevices compares every Device's labels and whether it is reachable.
func (s *stack) verifyDevices(ctx context.Context, p *plan) (findings, error) {
	var f findings
	want := map[string]device{}
	for _, d := range p.devices {
		want[string(d.id)] = d
	}
	list := &v1alpha1.DeviceList{}
	for more := true; more; more = list.Continue != "" {
		if err := s.client.List(ctx, list, page, client.Continue(list.Continue)); err != nil {
			return f, fmt.Errorf("listing Devices: %w", err)
		}
		for i := range list.Items {
			got := &list.Items[i]
			d, known := want[got.Name]
			if !known {
				f.add("device %s is not of this fleet", got.Name)
				continue
			}
			delete(want, got.Name)
			labels := maps.Clone(d.labels)
			labels[v1alpha1.LabelDeviceID] = got.Name
			if diff := cmp.Diff(labels, got.Labels); diff != "" {
				f.add("labels of device %s (-want +got):\n%s", got.Name, diff)
			}
			if meta.IsStatusConditionTrue(got.Status.Conditions, v1alpha1.ConditionReachable) == d.silent {
				f.add("device %s: silent %v, conditions %v", got.Name, d.silent, got.Status.Conditions)
			}
		}
	}
	for id := range want {
		f.add("device %s is not there", id)
	}
	return f, nil
}

// store is a connection that reads the desired state as the operator may.
type store struct {
	nc     *nats.Conn
	stream jetstream.Stream
}

func (s *stack) openStore(ctx context.Context) (*store, error) {
	as := s.broker.Operator()
	nc, err := nats.Connect(s.broker.URL(), nats.Name("load"), nats.UserInfo(as.User, as.Password))
	if err != nil {
		return nil, fmt.Errorf("connecting to read the desired state: %w", err)
	}
	js, err := jetstream.New(nc)
	if err == nil {
		var stream jetstream.Stream
		if stream, err = js.Stream(ctx, wire.DesiredState.Stream()); err == nil {
			return &store{nc, stream}, nil
		}
	}
	nc.Close()
	return nil, fmt.Errorf("opening the desired state: %w", err)
}

// keys is the number of keys, deletion markers among them.
func (s *store) keys(ctx context.Context) (int, error) {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking for the state of the desired state: %w", err)
	}
	return int(info.State.Msgs), nil
}

// desired is what the store holds: digests by key, and manifests by device.
type desired struct {
	scores    map[string]score.Digest
	manifests map[string]map[string]score.Digest
}

// verify compares every key of the desired state with what the plan says.
func (s *store) verify(ctx context.Context, p *plan) (findings, error) {
	want := desired{map[string]score.Digest{}, map[string]map[string]score.Digest{}}
	for _, d := range p.devices {
		entries := map[string]score.Digest{}
		for _, n := range d.pairs {
			dep := p.deployments[p.pairs[n].deployment]
			entries[dep.id.Token()] = dep.digest
			want.scores[wire.DeploymentKey(d.id, dep.id)] = dep.digest
		}
		if len(entries) > 0 {
			want.manifests[wire.DeviceKey(d.id)] = entries
		}
	}
	got, err := s.read(ctx)
	if err != nil {
		return findings{}, err
	}
	var f findings
	compare(&f, "score", want.scores, got.scores)
	compare(&f, "manifest", want.manifests, got.manifests)
	return f, nil
}

func compare[V any](f *findings, what string, want, got map[string]V) {
	for key, v := range want {
		if diff := cmp.Diff(v, got[key]); diff != "" {
			f.add("%s %s (-want +got):\n%s", what, key, diff)
		}
	}
	for key := range got {
		if _, wanted := want[key]; !wanted {
			f.add("%s %s should not be there", what, key)
		}
	}
}

// read reads every key that is not deleted. An empty manifest counts as none.
func (s *store) read(ctx context.Context) (desired, error) {
	d := desired{map[string]score.Digest{}, map[string]map[string]score.Digest{}}
	keys, err := s.keys(ctx)
	if err != nil || keys == 0 {
		return d, err
	}
	consumer, err := s.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy})
	if err != nil {
		return d, fmt.Errorf("reading the desired state: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return d, fmt.Errorf("reading the desired state: %w", err)
	}
	defer messages.Stop()
	for pending := uint64(1); pending > 0; {
		next, err := messages.Next(jetstream.NextMaxWait(30 * time.Second))
		if err != nil {
			return d, fmt.Errorf("reading the desired state: %w", err)
		}
		metadata, err := next.Metadata()
		if err != nil {
			return d, fmt.Errorf("reading the desired state: %w", err)
		}
		pending = metadata.NumPending
		key, _ := wire.DesiredState.Key(next.Subject())
		if next.Headers().Get(wire.HeaderOperation) != "" {
			continue
		}
		if _, err := wire.ParseDeviceKey(key); err != nil {
			d.scores[key] = score.DigestOf(next.Data())
			continue
		}
		manifest, err := wire.DecodeSignedManifest(next.Data())
		if err != nil {
			return d, fmt.Errorf("manifest of %s: %w", key, err)
		}
		for token, entry := range manifest.Deployments {
			if d.manifests[key] == nil {
				d.manifests[key] = map[string]score.Digest{}
			}
			d.manifests[key][token] = entry.Digest
		}
	}
	return d, nil
}
