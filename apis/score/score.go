package score

import "slices"

// Score is a union of workload descriptions: exactly one member is set. Adding
// a member is an additive change; an agent that does not know the member that is
// set reports the Deployment as failed and touches nothing.
//
// +kubebuilder:validation:XValidation:rule="has(self.podmanV0)",message="score must have exactly one member, and podmanV0 is the only one this version knows"
type Score struct {
	// podmanV0 describes containers that podman runs on each matching device.
	// +optional
	PodmanV0 *PodmanV0 `json:"podmanV0,omitempty"`
}

// PodmanV0 is a set of containers that belong together on one device.
type PodmanV0 struct {
	// services are the containers to run, each under a name that is unique
	// within the Deployment. They are started in this order.
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Services []Service `json:"services"`
}

// SecretNames are the secrets that any of the services names, sorted, each once.
func (p PodmanV0) SecretNames() []string {
	var names []string
	for _, svc := range p.Services {
		for _, secret := range svc.Secrets {
			names = append(names, secret.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// RestartPolicy says what happens when a service's process ends by itself.
//
// +kubebuilder:validation:Enum=Always;OnFailure;Never
type RestartPolicy string

const (
	// RestartAlways starts the service again whatever its exit code was.
	RestartAlways RestartPolicy = "Always"
	// RestartOnFailure starts the service again when its exit code was not 0.
	RestartOnFailure RestartPolicy = "OnFailure"
	// RestartNever leaves the service as it ended: exit code 0 is success.
	RestartNever RestartPolicy = "Never"
)

// Service is one container.
//
// +kubebuilder:validation:XValidation:rule="!has(self.ports) || self.ports.all(p, self.ports.exists_one(q, q.hostPort == p.hostPort && (has(q.protocol) ? q.protocol : 'TCP') == (has(p.protocol) ? p.protocol : 'TCP')))",message="two ports of one service may not share hostPort and protocol"
type Service struct {
	// name of the service, a DNS label.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`

	// image to run, as podman spells it: registry/repository:tag or
	// registry/repository@sha256:digest. A short name without a registry is
	// resolved by the device's own registries.conf.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$`
	Image string `json:"image"`

	// command replaces the image's entrypoint.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=4096
	Command []string `json:"command,omitempty"`

	// args replaces the image's command.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=4096
	Args []string `json:"args,omitempty"`

	// env sets environment variables.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=128
	Env []EnvVar `json:"env,omitempty"`

	// secrets gives the container values that OpenBao holds; only their names
	// stand here.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Secrets []Secret `json:"secrets,omitempty"`

	// ports publishes ports of the container on the device.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Ports []Port `json:"ports,omitempty"`

	// volumes mounts paths of the device or named podman volumes.
	// +optional
	// +listType=map
	// +listMapKey=containerPath
	// +kubebuilder:validation:MaxItems=32
	Volumes []Volume `json:"volumes,omitempty"`

	// restartPolicy says what happens when the process ends by itself; default
	// Always. Restarts back off from 1 second to 5 minutes.
	// +optional
	RestartPolicy RestartPolicy `json:"restartPolicy,omitempty"`

	// resources bounds what the container may use.
	// +optional
	Resources *Resources `json:"resources,omitempty"`

	// healthCheck decides whether a running container counts as succeeded.
	// +optional
	HealthCheck *HealthCheck `json:"healthCheck,omitempty"`

	// stopGracePeriodSeconds is the time between SIGTERM and SIGKILL when the
	// container is replaced or removed; default 30.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=3600
	StopGracePeriodSeconds *int32 `json:"stopGracePeriodSeconds,omitempty"`
}

// EnvVar is one environment variable.
type EnvVar struct {
	// name of the variable.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z_][A-Za-z0-9_.-]*$`
	Name string `json:"name"`
	// value of the variable, taken as it is: nothing is expanded.
	// +optional
	// +kubebuilder:validation:MaxLength=32768
	Value string `json:"value,omitempty"`
}

// Secret is one value that OpenBao holds, as the container gets it. When it
// changes there the container is replaced.
//
// +kubebuilder:validation:XValidation:rule="has(self.env) != has(self.file)",message="a secret takes exactly one of env and file"
type Secret struct {
	// name of the secret, a DNS label. OpenBao holds it at
	// secrets/<namespace>/<deployment>/<name>, so a Deployment can name its own
	// secrets alone.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// key of the value in the secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9][A-Za-z0-9._-]*$`
	Key string `json:"key"`
	// env is the environment variable that holds the value. Commands of health
	// checks see it from podman 5 on.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z_][A-Za-z0-9_.-]*$`
	Env string `json:"env,omitempty"`
	// file is the absolute path inside the container of a file that holds the
	// value, which every process there may read. In a volume an empty file of that
	// name is left behind.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^/`
	File string `json:"file,omitempty"`
}

// Protocol of a published port.
//
// +kubebuilder:validation:Enum=TCP;UDP
type Protocol string

const (
	// TCP publishes a TCP port; it is the default.
	TCP Protocol = "TCP"
	// UDP publishes a UDP port.
	UDP Protocol = "UDP"
)

// Port publishes one port of the container on the device.
type Port struct {
	// containerPort is the port the process listens on.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	ContainerPort int32 `json:"containerPort"`
	// hostPort is the port on the device.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	HostPort int32 `json:"hostPort"`
	// hostIP is the address of the device to listen on; default all.
	// +optional
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:Pattern=`^[0-9a-fA-F.:]*$`
	HostIP string `json:"hostIP,omitempty"`
	// protocol is TCP or UDP; default TCP.
	// +optional
	Protocol Protocol `json:"protocol,omitempty"`
}

// Volume mounts one source into the container.
//
// +kubebuilder:validation:XValidation:rule="has(self.hostPath) != has(self.volume)",message="a volume takes exactly one of hostPath and volume"
type Volume struct {
	// containerPath is the absolute path inside the container.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^/`
	ContainerPath string `json:"containerPath"`
	// hostPath is an absolute path of the device that exists already: it is
	// never created.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^/`
	HostPath string `json:"hostPath,omitempty"`
	// volume is the name of a podman volume; it is created when missing and
	// never removed.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`
	Volume string `json:"volume,omitempty"`
	// readOnly mounts the source without write access.
	// +optional
	ReadOnly bool `json:"readOnly,omitempty"`
}

// Resources bounds what one container may use.
type Resources struct {
	// cpu is the CPU limit in cores ("0.5") or thousandths of a core ("500m").
	// +optional
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^([0-9]{1,6}m|[0-9]{1,4}(\.[0-9]{1,3})?)$`
	CPU string `json:"cpu,omitempty"`
	// memory is the memory limit in bytes, or with a suffix Ki, Mi or Gi.
	// +optional
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^[0-9]{1,15}$|^[0-9]{1,9}(Ki|Mi|Gi)$`
	Memory string `json:"memory,omitempty"`
	// pids is the largest number of processes; default is podman's own.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4194304
	Pids *int64 `json:"pids,omitempty"`
}

// HealthCheck runs a command inside the container; exit code 0 means healthy.
type HealthCheck struct {
	// command to run, without a shell.
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=4096
	Command []string `json:"command"`
	// intervalSeconds is the time between two checks; default 10.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600
	IntervalSeconds int32 `json:"intervalSeconds,omitempty"`
	// timeoutSeconds bounds one check; default 5.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=300
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`
	// startPeriodSeconds is the time after a start in which a failed check does
	// not count; default 0.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=3600
	StartPeriodSeconds int32 `json:"startPeriodSeconds,omitempty"`
	// retries is how many checks in a row must fail before the container counts
	// as unhealthy; default 3.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Retries int32 `json:"retries,omitempty"`
}
