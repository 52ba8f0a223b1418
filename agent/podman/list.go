package podman

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Labels of every container that an agent owns.
const (
	LabelManaged    = "io.nationtech.fleet.managed"
	LabelDevice     = "io.nationtech.fleet.device"
	LabelDeployment = "io.nationtech.fleet.deployment"
	LabelService    = "io.nationtech.fleet.service"
	LabelDigest     = "io.nationtech.fleet.digest"
	// LabelSecrets has the names of the container's secrets in podman, for one that
	// has any.
	LabelSecrets = "io.nationtech.fleet.secrets"
	// LabelVariables has the names of the variables of its environment that hold one.
	LabelVariables = "io.nationtech.fleet.secret-variables"
)

// listed is a container in podman's list.
type listed struct {
	ID        string `json:"Id"`
	ImageID   string
	Labels    map[string]string
	State     string
	Created   time.Time
	StartedAt int64
	ExitedAt  int64
	ExitCode  int
}

// states are podman's words; those that are missing mean reconcile.Broken.
var states = map[string]reconcile.ContainerState{
	"created": reconcile.Created, "configured": reconcile.Created, "initialized": reconcile.Created,
	"running": reconcile.Running, "paused": reconcile.Paused, "stopping": reconcile.Stopping,
	"stopped": reconcile.Releasing, "exited": reconcile.Exited,
}

// List is every container of the device, whatever state it is in. What has the
// device's label and not the others in order belongs to somebody else.
func (c *Client) List(ctx context.Context, device wire.DeviceID) ([]reconcile.Container, error) {
	filter, err := json.Marshal(map[string][]string{"label": {LabelManaged + "=true", LabelDevice + "=" + string(device)}})
	if err != nil {
		return nil, err
	}
	var list []listed
	query := url.Values{"all": {"true"}, "filters": {string(filter)}}
	if _, err := c.do(ctx, call{doing: "listing containers", method: http.MethodGet, path: "/containers/json", query: query}, &list); err != nil {
		return nil, err
	}
	containers := make([]reconcile.Container, 0, len(list))
	for _, l := range list {
		if own, ok := l.container(); ok {
			containers = append(containers, own)
		}
	}
	return containers, nil
}

func (l listed) container() (reconcile.Container, bool) {
	namespace, name, _ := strings.Cut(l.Labels[LabelDeployment], "/")
	id, err := wire.ParseDeploymentID(namespace, name)
	if err != nil || l.Labels[LabelService] == "" {
		return reconcile.Container{}, false
	}
	state, known := states[l.State]
	if !known {
		state = reconcile.Broken
	}
	var secrets []string
	if names := l.Labels[LabelSecrets]; names != "" {
		secrets = strings.Split(names, ",")
	}
	return reconcile.Container{
		ID: l.ID, Key: reconcile.Key{Deployment: id, Service: l.Labels[LabelService]}, Digest: score.Digest(l.Labels[LabelDigest]),
		Image: l.ImageID, State: state, ExitCode: l.ExitCode,
		Created: l.Created.Truncate(time.Second), Started: time.Unix(l.StartedAt, 0), Exited: time.Unix(l.ExitedAt, 0),
		Secrets: secrets, Exposed: l.Labels[LabelVariables] != "",
	}, true
}
