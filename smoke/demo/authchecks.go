package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// authChecks are the checks of Options.Auth. Containers run on both devices
// before, and the same ones after.
func (s *story) authChecks() []check {
	return []check{
		{"a label that its policy does not allow is not taken from device-b", s.labelsByPolicy},
		{"kubectl fleet whoami says what each device may do, and what it was refused", s.whoami},
		{"device-a reads its own manifest, and whatever it tries to get at device-b is refused", s.breakouts},
		{"a device without a policy and a token for another project are refused", s.strangers},
		{"device-b is revoked and cut off, device-a stays connected, and containers run on", s.revoked},
		{"device-b is let in again", s.pardoned},
	}
}

func (s *story) labelsByPolicy(ctx context.Context) error {
	return eventually(ctx, func() error {
		b, err := s.resource(ctx, "device-b")
		if err != nil {
			return err
		}
		if b.Labels["group"] != "b" || b.Labels["site"] != "x" || b.Labels[overreach] != "" {
			return fmt.Errorf("the labels of device-b are %v", b.Labels)
		}
		if c := b.Status.LabelConflicts; len(c) != 1 || !strings.Contains(c[0], overreach) {
			return fmt.Errorf("the refused labels of device-b are %q, want %s alone", c, overreach)
		}
		return nil
	})
}

// resource is the Device as the cluster has it.
func (s *story) resource(ctx context.Context, id wire.DeviceID) (v1alpha1.Device, error) {
	text, err := s.fleet(ctx, "devices", "-o", "json")
	if err != nil {
		return v1alpha1.Device{}, err
	}
	var list v1alpha1.DeviceList
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return v1alpha1.Device{}, fmt.Errorf("reading the devices: %w", err)
	}
	at := slices.IndexFunc(list.Items, func(d v1alpha1.Device) bool { return d.Name == string(id) })
	if at < 0 {
		return v1alpha1.Device{}, fmt.Errorf("there is no device %s", id)
	}
	return list.Items[at], nil
}

func (s *story) whoami(ctx context.Context) error {
	for _, d := range s.devices {
		got, err := s.identity(ctx, d.id)
		if err != nil {
			return err
		}
		var publish []string
		for _, g := range got.Publish {
			publish = append(publish, g.Subject)
		}
		if want := wire.DevicePermissions(d.id).Publish; !got.Policy.Enrolled || !slices.Equal(publish, want) {
			return fmt.Errorf("kubectl fleet whoami %s: want enrolled and %q, have %+v", d.id, want, got)
		}
		if refused := strings.Join(got.Resource.RefusedLabels, ", "); strings.Contains(refused, overreach) != (d.id == "device-b") {
			return fmt.Errorf("kubectl fleet whoami %s tells refused labels: %q", d.id, refused)
		}
	}
	if _, err := s.identity(ctx, stranger); err == nil || !strings.Contains(err.Error(), "is not enrolled") {
		return fmt.Errorf("kubectl fleet whoami of a device without a policy: %w", err)
	}
	return nil
}

// identity is what kubectl fleet whoami tells, as far as the checks look.
type identity struct {
	Policy struct {
		Enrolled bool
		Revoked  *struct{ Reason string }
	}
	Resource struct{ RefusedLabels []string }
	Publish  []struct{ Subject string }
}

func (s *story) identity(ctx context.Context, id wire.DeviceID) (identity, error) {
	var told identity
	text, err := s.fleet(ctx, "whoami", string(id), "-o", "json")
	if err != nil {
		return told, err
	}
	if err := json.Unmarshal([]byte(text), &told); err != nil {
		return told, fmt.Errorf("reading what kubectl fleet whoami tells: %w", err)
	}
	return told, nil
}

// breakouts runs the commands of the menu. One that is not refused may time out
// or find nothing, so that the refusal itself has to be there.
func (s *story) breakouts(ctx context.Context) error {
	const refusal = "permissions violation"
	own, err := s.shell(ctx, ownManifest().Shell())
	if err != nil {
		return err
	}
	if !strings.Contains(own, `"deployments"`) || strings.Contains(strings.ToLower(own), refusal) {
		return fmt.Errorf("device-a does not get its own manifest: %s", own)
	}
	tried := breakouts()
	errs := make([]error, len(tried))
	var trying sync.WaitGroup // each waits for an answer that does not come
	for i, b := range tried {
		trying.Go(func() { errs[i] = s.refuses(ctx, b, refusal) })
	}
	trying.Wait()
	return errors.Join(append(errs, s.unchanged(ctx))...)
}

// refuses tries until the refusal is seen, which comes too late for the command on
// a busy machine. That anything is received ends it at once.
func (s *story) refuses(ctx context.Context, b breakout, refusal string) (succeeded error) {
	err := eventually(ctx, func() error {
		out, _ := s.shell(ctx, b.Shell()) // how it ends is the command's own affair
		if strings.Contains(out, "Received") {
			succeeded = fmt.Errorf("%s (%s) succeeds: %s", b.What, b.Shell(), out)
			return nil
		}
		if !strings.Contains(strings.ToLower(out), refusal) {
			return fmt.Errorf("%s (%s) is not refused: %s", b.What, b.Shell(), out)
		}
		return nil
	})
	return errors.Join(err, succeeded)
}

func (s *story) strangers(ctx context.Context) error {
	for _, r := range s.auth.refused {
		before, err := s.decisions()
		if err != nil {
			return err
		}
		if err := eventually(ctx, func() error {
			out, err := s.shell(ctx, "fleet-agent check --config "+r.Config)
			if err == nil || !strings.Contains(out, "FAIL  broker") || !strings.Contains(out, "refused the login") {
				return fmt.Errorf("%s, and it is not refused: %s", r.Why, out)
			}
			after, err := s.decisions()
			if err != nil {
				return err
			}
			if strings.Count(after, r.reason) <= strings.Count(before, r.reason) {
				return fmt.Errorf("no log of fleet-callout says %q", r.reason)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// decisions are the logs of all replicas of fleet-callout.
func (s *story) decisions() (string, error) {
	var all strings.Builder
	for _, name := range replicas {
		content, err := os.ReadFile(s.logFile(name))
		if err != nil {
			return "", fmt.Errorf("reading what the callout decided: %w", err)
		}
		all.Write(content)
	}
	return all.String(), nil
}

// connections counts how often the agent of a device has connected.
func (s *story) connections(id wire.DeviceID) (int, error) {
	content, err := os.ReadFile(s.logFile(string(id)))
	if err != nil {
		return 0, fmt.Errorf("reading how often %s connected: %w", id, err)
	}
	return strings.Count(string(content), "connected to the broker"), nil
}

func (s *story) revoked(ctx context.Context) error {
	before, err := s.connections("device-a")
	if err != nil {
		return err
	}
	if err := s.auth.Bao.Revoke(ctx, "device-b", "stolen"); err != nil {
		return err
	}
	if err := eventually(ctx, func() error {
		if _, err := s.fleet(ctx, "ping", "device-b"); err == nil || !strings.Contains(err.Error(), "is offline") {
			return fmt.Errorf("device-b is revoked, and kubectl fleet ping ends with %w", err)
		}
		return nil
	}); err != nil {
		return err
	}
	if _, err := s.fleet(ctx, "ping", "device-a"); err != nil {
		return err
	}
	if told, err := s.identity(ctx, "device-b"); err != nil || told.Policy.Revoked == nil || told.Policy.Revoked.Reason != "stolen" {
		return errors.Join(fmt.Errorf("kubectl fleet whoami does not tell that device-b is revoked: %+v", told), err)
	}
	after, err := s.connections("device-a")
	if err != nil {
		return err
	}
	if before == 0 || after != before {
		return fmt.Errorf("device-a had connected %d times, and after device-b was revoked %d times", before, after)
	}
	return s.unchanged(ctx)
}

func (s *story) pardoned(ctx context.Context) error {
	if err := s.auth.Bao.Pardon(ctx, "device-b"); err != nil {
		return err
	}
	if err := eventually(ctx, func() error { _, err := s.fleet(ctx, "ping", "device-b"); return err }); err != nil {
		return err
	}
	if err := eventually(ctx, func() error {
		b, err := s.resource(ctx, "device-b")
		if err != nil {
			return err
		}
		if !meta.IsStatusConditionPresentAndEqual(b.Status.Conditions, v1alpha1.ConditionReachable, metav1.ConditionTrue) {
			return fmt.Errorf("device-b is not reachable: %+v", b.Status.Conditions)
		}
		return nil
	}); err != nil {
		return err
	}
	return s.unchanged(ctx)
}
