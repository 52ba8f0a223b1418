package podman

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
)

// pullTimeout allows for a large image over a slow link.
const pullTimeout = 6 * time.Hour

// pull fetches the image unless it is here, there is no room, or it has to wait, and
// checks that it fits.
func (c *Client) pull(ctx context.Context, step reconcile.Step, outcome *reconcile.Outcome) error {
	image := step.Service.Spec.Image
	here, err := c.exists(ctx, "/images/%s/exists", image)
	if err != nil {
		return err
	}
	if outcome.Absent = !here && step.Delay > 0; outcome.Absent {
		return nil
	}
	if !here {
		if err := c.hasRoom(ctx, step.MinFree); err != nil {
			return err
		}
		if err := c.fetch(ctx, image); err != nil {
			return err
		}
		endure()
	}
	var found struct{ ID, Architecture, Os string }
	if _, err := c.do(ctx, call{doing: "looking at image " + image, method: http.MethodGet, path: "/images/%s/json", names: []string{image}}, &found); err != nil {
		return err
	}
	if !here {
		outcome.Fetched = found.ID
	}
	host, err := c.version(ctx)
	if err != nil {
		return err
	}
	if found.Os != "linux" || !runs(host.Arch, found.Architecture) {
		return &reconcile.Failure{
			Reason:  reconcile.ReasonWrongArchitecture,
			Message: fmt.Sprintf("image %s is for %s/%s, this device is linux/%s", image, found.Os, found.Architecture, host.Arch),
		}
	}
	return nil
}

// runs reports whether a processor runs programs for another: the 64-bit ones
// run those of their 32-bit ancestors, if perhaps not every model.
func runs(host, image string) bool {
	ancestors := map[string]string{"amd64": "386", "arm64": "arm"}
	return host == image || ancestors[host] == image
}

// fetch pulls; podman reports progress and errors in one stream of objects.
func (c *Client) fetch(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	r := call{doing: "pulling " + image, method: http.MethodPost, path: "/images/pull", query: url.Values{"reference": {image}}, timeout: pullTimeout}
	response, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if !response.IsSuccess() {
		return pullFailed(response.Process(nil).Error())
	}
	complete := false
	for stream := json.NewDecoder(response.Body); stream.More(); {
		var report struct {
			Error string `json:"error"`
			ID    string `json:"id"`
		}
		if err := stream.Decode(&report); err != nil {
			return failure(r, err)
		}
		if report.Error != "" {
			return pullFailed(report.Error)
		}
		complete = complete || report.ID != ""
	}
	if !complete {
		return failure(r, errors.Join(ctx.Err(), errors.New("the answer ended early")))
	}
	return nil
}

// pullFailed keeps the reasons that a pull shares with other steps.
func pullFailed(text string) *reconcile.Failure {
	f := &reconcile.Failure{Reason: Reason(text), Message: text}
	if f.Reason != reconcile.ReasonDiskFull && f.Reason != reconcile.ReasonDiskReadOnly {
		f.Reason = reconcile.ReasonImagePullFailed
	}
	return f
}

// hasRoom fails when less than so many bytes are free.
func (c *Client) hasRoom(ctx context.Context, minFree int64) error {
	if minFree == 0 {
		return nil
	}
	room, err := c.room(ctx)
	if err != nil {
		return err
	}
	if low := room.Low(minFree); low != nil {
		return low
	}
	return nil
}

// room is the space where podman keeps images. Podman is asked once where that is: see
// DiskBytes. Where the agent sees no such folder, as in a home that its unit hides,
// podman's own figures count, which include what is reserved for root.
func (c *Client) room(ctx context.Context) (reconcile.Room, error) {
	c.mu.Lock()
	root := c.graphRoot
	c.mu.Unlock()
	if room, seen := roomAt(root); seen {
		return room, nil
	}
	s, err := c.storage(ctx)
	if err != nil {
		return reconcile.Room{}, err
	}
	if room, seen := roomAt(s.GraphRoot); seen {
		return room, nil
	}
	return reconcile.Room{Path: s.GraphRoot, Free: int64(s.Allocated - s.Used), Total: int64(s.Allocated)}, nil
}

// roomAt is what whoever is not root has there.
func roomAt(path string) (_ reconcile.Room, seen bool) {
	var system unix.Statfs_t
	if err := unix.Statfs(path, &system); err != nil {
		return reconcile.Room{}, false
	}
	return reconcile.Room{Path: path, Free: int64(system.Bavail) * system.Bsize, Total: int64(system.Blocks) * system.Bsize}, true
}

// RemoveImage takes the name from the image with that id, and removes the image when it
// has no other. It does nothing when the name is gone or another image's, and fails
// when a container uses it, whoever made that.
func (c *Client) RemoveImage(ctx context.Context, name, id string) error {
	var found struct{ ID string }
	status, err := c.do(ctx, call{doing: "looking at image " + name, method: http.MethodGet, path: "/images/%s/json", names: []string{name}}, &found)
	if status == http.StatusNotFound || err == nil && found.ID != id {
		return nil
	}
	if err != nil {
		return err
	}
	status, err = c.do(ctx, call{doing: "removing image " + name, method: http.MethodDelete, path: "/images/%s", names: []string{name}, timeout: changeTimeout}, nil)
	if status == http.StatusNotFound {
		return nil
	}
	return err
}
