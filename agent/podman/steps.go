package podman

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// changeTimeout bounds a call that makes or starts something on a slow disk.
	changeTimeout = 5 * time.Minute
	// checkSlack is how long podman may take beyond a health check's own timeout.
	checkSlack = 2 * time.Second
	// maxTail bounds the log lines that a state quotes, in lines and bytes.
	tailLines, tailBytes = 5, 600
	maxOutput            = 600
)

// Do carries out one step for the device. A step that finds its work done, such
// as the removal of a container that is gone, succeeds.
func (c *Client) Do(ctx context.Context, device wire.DeviceID, step reconcile.Step) reconcile.Outcome {
	var outcome reconcile.Outcome
	var err error
	id := step.Container.ID
	switch step.Action {
	case reconcile.Pull:
		err = c.pull(ctx, step, &outcome)
	case reconcile.Create:
		err = c.create(ctx, device, step)
	case reconcile.Start:
		_, err = c.do(ctx, call{doing: "starting " + id, method: http.MethodPost, path: "/containers/%s/start", names: []string{id}, timeout: changeTimeout}, nil)
	case reconcile.Stop:
		err = c.stop(ctx, id)
	case reconcile.Remove:
		err = c.remove(ctx, step.Container)
	case reconcile.Check:
		outcome.Health, err = c.check(ctx, step)
	case reconcile.Examine:
		outcome.Exit, err = c.examine(ctx, id)
	case reconcile.Conceal:
		err = c.conceal(ctx, step)
	}
	if err != nil && !errors.As(err, &outcome.Err) {
		outcome.Err = &reconcile.Failure{Reason: reconcile.ReasonPodmanError, Message: err.Error()}
	}
	return outcome
}

func (c *Client) exists(ctx context.Context, path, name string) (bool, error) {
	status, err := c.do(ctx, call{doing: "looking for " + name, method: http.MethodGet, path: path, names: []string{name}}, nil)
	if status == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// create makes the container, and before it the named volumes that are missing.
func (c *Client) create(ctx context.Context, device wire.DeviceID, step reconcile.Step) error {
	for _, v := range step.Service.Spec.Volumes {
		if v.Volume == "" {
			continue
		}
		there, err := c.exists(ctx, "/volumes/%s/exists", v.Volume)
		if err != nil {
			return err
		}
		if there {
			continue
		}
		r := call{doing: "creating volume " + v.Volume, method: http.MethodPost, path: "/volumes/create", body: map[string]string{"Name": v.Volume}, timeout: changeTimeout}
		if _, err := c.do(ctx, r, nil); err != nil {
			return err
		}
	}
	spec := specification(device, step)
	r := call{doing: "creating " + spec.Name, method: http.MethodPost, path: "/containers/create", body: spec, timeout: changeTimeout}
	_, err := c.do(ctx, r, nil)
	var f *reconcile.Failure
	if errors.As(err, &f) && f.Reason == reconcile.ReasonNameInUse && c.clear(ctx, spec.Name) {
		_, err = c.do(ctx, r, nil)
	}
	if err != nil {
		return err
	}
	endure()
	return nil
}

// clear removes what a power cut left of a container that podman was making, and reports
// whether there was such a thing: podman's storage has the name, and podman itself does
// not know it. A container that podman knows stays, whoever made it.
func (c *Client) clear(ctx context.Context, name string) bool {
	known, err := c.exists(ctx, "/containers/%s/exists", name)
	if err != nil || known {
		return false
	}
	_, err = c.do(ctx, call{
		doing: "removing what is left of " + name, method: http.MethodDelete, path: "/containers/%s", names: []string{name},
		query: url.Values{"force": {"true"}}, timeout: changeTimeout,
	}, nil)
	return err == nil
}

// endure has the disk hold what podman wrote, which does not wait for that: after a
// power cut it would know an image or a container of which files are empty, and the
// container that runs is stopped next.
func endure() { syscall.Sync() }

// inspection is the part of podman's answer that the list does not have.
type inspection struct {
	State struct {
		Status    string // of podman's words
		OOMKilled bool
		Health    struct{ Log []struct{ Output string } }
	}
	Config struct {
		StopTimeout uint
		Env         []string
		Labels      map[string]string
	}
	OCIConfigPath string
}

func (c *Client) inspect(ctx context.Context, id string) (inspection, error) {
	var i inspection
	_, err := c.do(ctx, call{doing: "looking at " + id, method: http.MethodGet, path: "/containers/%s/json", names: []string{id}}, &i)
	return i, err
}

// stop waits as long as the container was promised when it was made: what is
// wanted now may not know its service any more.
func (c *Client) stop(ctx context.Context, id string) error {
	i, err := c.inspect(ctx, id)
	if err != nil {
		return err
	}
	grace := time.Duration(i.Config.StopTimeout) * time.Second
	_, err = c.do(ctx, call{doing: "stopping " + id, method: http.MethodPost, path: "/containers/%s/stop", names: []string{id}, timeout: grace + changeTimeout}, nil)
	if err != nil {
		return err
	}
	return c.awaitRelease(ctx, id)
}

// awaitRelease waits until podman has released what a container had that has
// ended, or reconcile.ReleaseTime. A stop does that by itself, unless it finds the
// container ended already, by a stop whose caller is gone.
func (c *Client) awaitRelease(ctx context.Context, id string) error {
	for begin := time.Now(); time.Since(begin) < reconcile.ReleaseTime; {
		i, err := c.inspect(ctx, id)
		if state := states[i.State.Status]; err != nil || state != reconcile.Releasing && state != reconcile.Stopping {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

func (c *Client) remove(ctx context.Context, container reconcile.Container) error {
	query := url.Values{"v": {"true"}} // with its anonymous volumes; named ones stay
	if container.State == reconcile.Paused || container.State == reconcile.Broken {
		query.Set("force", "true")
	}
	r := call{doing: "removing " + container.ID, method: http.MethodDelete, path: "/containers/%s", names: []string{container.ID}, query: query, timeout: changeTimeout}
	status, err := c.do(ctx, r, nil)
	if status == http.StatusNotFound {
		return nil
	}
	return err
}

// check has podman run the health check. Its answer has the result alone; the
// output of a check that failed is read where `podman inspect` shows it.
func (c *Client) check(ctx context.Context, step reconcile.Step) (reconcile.Health, error) {
	id, timeout := step.Container.ID, checkTimeout(step.Service.Spec.HealthCheck)
	r := call{doing: "checking the health of " + id, method: http.MethodGet, path: "/containers/%s/healthcheck", names: []string{id}, timeout: timeout + checkSlack}
	var result struct{ Status string }
	_, err := c.do(ctx, r, &result)
	var f *reconcile.Failure
	if errors.As(err, &f) && f.Reason == reconcile.ReasonPodmanTimeout {
		return reconcile.Health{TimedOut: true, Output: fmt.Sprintf("no result within %s", timeout)}, nil
	}
	if err != nil || result.Status == "healthy" {
		return reconcile.Health{OK: err == nil}, err
	}
	i, err := c.inspect(ctx, id)
	if err != nil {
		return reconcile.Health{}, err
	}
	output := ""
	if n := len(i.State.Health.Log); n > 0 {
		output = strings.TrimSpace(i.State.Health.Log[n-1].Output)
	}
	if output == "" {
		output = fmt.Sprintf("%q printed nothing", step.Service.Spec.HealthCheck.Command)
	}
	return reconcile.Health{Output: wire.CleanText(output, maxOutput)}, nil
}

func checkTimeout(check *score.HealthCheck) time.Duration {
	if check.TimeoutSeconds == 0 {
		return 5 * time.Second
	}
	return time.Duration(check.TimeoutSeconds) * time.Second
}

// examine asks why the container ended, and what it said last.
func (c *Client) examine(ctx context.Context, id string) (reconcile.Exit, error) {
	i, err := c.inspect(ctx, id)
	if err != nil {
		return reconcile.Exit{}, err
	}
	exit := reconcile.Exit{OOMKilled: i.State.OOMKilled}
	lines, _, err := c.tail(ctx, id, limits{lines: tailLines, bytes: tailBytes})
	exit.Tail = strings.Join(slices.DeleteFunc(lines, func(l string) bool { return l == "" }), "; ")
	return exit, err
}
