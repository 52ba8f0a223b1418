package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/steps"
)

// checkTimeout bounds each check of the regression.
const checkTimeout = 2 * time.Minute

// name of the Deployment that the regression works with.
const name = "hello"

// check is one check of the regression.
type check struct {
	what string
	run  func(context.Context) error
}

// regression runs the main story as checks that build on each other. The first
// that fails ends it.
func (e *environment) regression(ctx context.Context) error {
	s := &story{environment: e, containers: map[wire.DeviceID]string{}}
	checks := []check{
		{"version 1 runs on device-a and answers on its published port", s.firstVersion},
		{"version 2 replaces it in a new container", s.secondVersion},
		{"matchExpressions bring it to both devices", s.bothDevices},
		{"both agents answer ping and logs", s.commands},
		{"a broken image is told with its true reason, and the old containers run on", s.brokenImage},
		{"repaired, the same containers are still there", s.repaired},
	}
	if e.auth != nil {
		checks = append(checks, s.authChecks()...)
	}
	checks = append(checks, check{"deleted, containers and keys are gone", s.deleted})
	fmt.Fprintln(e.out)
	for passed, check := range checks {
		begin := time.Now()
		err := withTimeout(ctx, check.run)
		if err != nil {
			fmt.Fprintf(e.out, "FAIL %s (%s)\n%s", check.what, steps.Since(begin), e.logTails())
			fmt.Fprintf(e.out, "%d passed, 1 failed, %d not run\n", passed, len(checks)-passed-1)
			return fmt.Errorf("%s: %w", check.what, err)
		}
		fmt.Fprintf(e.out, "ok %s (%s)\n", check.what, steps.Since(begin))
	}
	fmt.Fprintf(e.out, "%d passed, 0 failed\n", len(checks))
	return nil
}

func withTimeout(ctx context.Context, run func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return run(ctx)
}

// eventually tries until the attempt succeeds; the error is that of the last one.
func eventually(ctx context.Context, attempt func() error) error {
	for {
		err := attempt()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; at last: %w", ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// story is the regression, and what one check remembers for the next.
type story struct {
	*environment
	containers map[wire.DeviceID]string // the one that runs on the device
}

func (s *story) apply(ctx context.Context, version string, more ...string) error {
	args := append([]string{"apply", "--name", name, "--image", s.registry.Ref("hello:" + version)}, more...)
	_, err := s.fleet(ctx, args...)
	return err
}

// onDeviceA targets one device with a published port. Both devices are this
// machine, so that only one of them can have the port.
func (s *story) onDeviceA() []string {
	return []string{"--target-device", "device-a", "--port", fmt.Sprintf("%d:%d", s.hostPort, images.Port)}
}

func (s *story) firstVersion(ctx context.Context) error {
	if err := s.apply(ctx, "v1", s.onDeviceA()...); err != nil {
		return err
	}
	if err := s.succeeds(ctx, "v1", s.devices[:1]); err != nil {
		return err
	}
	return answers(ctx, fmt.Sprintf("127.0.0.1:%d", s.hostPort), "v1")
}

func (s *story) secondVersion(ctx context.Context) error {
	first := s.containers["device-a"]
	if err := s.apply(ctx, "v2", s.onDeviceA()...); err != nil {
		return err
	}
	if err := s.succeeds(ctx, "v2", s.devices[:1]); err != nil {
		return err
	}
	if s.containers["device-a"] == first {
		return fmt.Errorf("container %s is still the one of version 1", first)
	}
	return answers(ctx, fmt.Sprintf("127.0.0.1:%d", s.hostPort), "v2")
}

func (s *story) bothDevices(ctx context.Context) error {
	if err := s.apply(ctx, "v2", "--selector", "group in (a,b),!retired"); err != nil {
		return err
	}
	return s.succeeds(ctx, "v2", s.devices)
}

func (s *story) commands(ctx context.Context) error {
	for _, d := range s.devices {
		if _, err := s.fleet(ctx, "ping", string(d.id)); err != nil {
			return err
		}
		logs, err := s.fleet(ctx, "logs", string(d.id), name)
		if err != nil {
			return err
		}
		if !strings.Contains(logs, "version v2 serving") {
			return fmt.Errorf("the logs of %s lack what the program wrote:\n%s", d.id, logs)
		}
	}
	return nil
}

func (s *story) brokenImage(ctx context.Context) error {
	if err := s.apply(ctx, "no-such-version", "--selector", "group in (a,b),!retired"); err != nil {
		return err
	}
	err := eventually(ctx, func() error {
		status, err := s.status(ctx)
		if err != nil {
			return err
		}
		last := status.Aggregate.LastError
		if status.Aggregate.Failed != 2 || last == nil {
			return fmt.Errorf("want 2 failed and an error, have %+v", status.Aggregate)
		}
		if last.Reason != "ImagePullFailed" || !strings.Contains(last.Message, "manifest unknown") {
			return fmt.Errorf("the error does not have the registry's own words: %+v", *last)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.unchanged(ctx)
}

func (s *story) repaired(ctx context.Context) error {
	before := s.containers
	if err := s.bothDevices(ctx); err != nil {
		return err
	}
	s.containers = before
	return s.unchanged(ctx)
}

// unchanged checks that exactly the containers of before run, and answer.
func (s *story) unchanged(ctx context.Context) error {
	for _, d := range s.devices {
		running, err := s.runs(ctx, d, "v2")
		if err != nil {
			return err
		}
		if running != s.containers[d.id] {
			return fmt.Errorf("%s: container %s has been replaced by %s", d.id, s.containers[d.id], running)
		}
	}
	return nil
}

func (s *story) deleted(ctx context.Context) error {
	if _, err := s.fleet(ctx, "apply", "--name", name, "--delete"); err != nil {
		return err
	}
	conn, err := bus.Connect(ctx, bus.Options{NATS: s.broker.NATS(), Credentials: s.broker.Admin(), Name: "demo", FailFast: true})
	if err != nil {
		return err
	}
	defer conn.Close()
	return eventually(ctx, func() error {
		for _, d := range s.devices {
			left, err := d.podman.Run(ctx, "ps", "--all", "--quiet")
			if err != nil {
				return err
			}
			if left != "" {
				return fmt.Errorf("%s still has containers: %s", d.id, left)
			}
		}
		for _, bucket := range []wire.Bucket{wire.DesiredState, wire.DeviceStates} {
			entries, err := conn.List(ctx, bucket, "*.default."+name)
			if err != nil {
				return err
			}
			if len(entries) > 0 {
				return fmt.Errorf("bucket %s still has key %s", bucket.Name, entries[0].Key)
			}
		}
		if status, err := s.status(ctx); err == nil {
			return fmt.Errorf("the Deployment is still there: %+v", status)
		}
		return nil
	})
}

// succeeds waits until the status says that the version runs on exactly these
// devices, and checks on the devices that it tells the truth.
func (s *story) succeeds(ctx context.Context, version string, devices []*device) error {
	err := eventually(ctx, func() error {
		status, err := s.status(ctx)
		if err != nil {
			return err
		}
		want := v1alpha1.Aggregate{MatchedDeviceCount: int32(len(devices)), Succeeded: int32(len(devices))}
		if status.Aggregate != want {
			return fmt.Errorf("want %+v, have %+v", want, status.Aggregate)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.containers = map[wire.DeviceID]string{}
	for _, d := range devices {
		if s.containers[d.id], err = s.runs(ctx, d, version); err != nil {
			return err
		}
	}
	return nil
}

// status is the Deployment's status, when it speaks of the newest generation.
func (s *story) status(ctx context.Context) (v1alpha1.DeploymentStatus, error) {
	var answer struct {
		Generation int64                     `json:"generation"`
		Status     v1alpha1.DeploymentStatus `json:"status"`
	}
	text, err := s.fleet(ctx, "status", name, "-o", "json")
	if err != nil {
		return answer.Status, err
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return answer.Status, fmt.Errorf("reading the status: %w", err)
	}
	if answer.Status.ObservedGeneration != answer.Generation {
		return answer.Status, fmt.Errorf("the status is of generation %d, wanted is %d", answer.Status.ObservedGeneration, answer.Generation)
	}
	return answer.Status, nil
}

// runs checks that the device has one container and no other, that it runs, and
// that it answers the version. It returns the container's id.
func (s *story) runs(ctx context.Context, d *device, version string) (string, error) {
	out, err := d.podman.Run(ctx, "ps", "--all", "--no-trunc", "--format", "{{.ID}}")
	if err != nil {
		return "", err
	}
	ids := strings.Fields(out)
	if len(ids) != 1 {
		return "", fmt.Errorf("%s has %d containers, want 1: %v", d.id, len(ids), ids)
	}
	address, err := d.podman.Run(ctx, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", ids[0])
	if err != nil {
		return "", err
	}
	return ids[0], answers(ctx, fmt.Sprintf("%s:%d", strings.TrimSpace(address), images.Port), version)
}

// answers checks that a GET of the address is answered with status 200 and the
// version.
func answers(ctx context.Context, address, version string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return err
	}
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(body)); response.StatusCode != http.StatusOK || got != version {
		return errors.New("http://" + address + " answers " + response.Status + " with " + got + ", want " + version)
	}
	return nil
}
