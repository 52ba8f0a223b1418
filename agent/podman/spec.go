package podman

import (
	"strings"

	"github.com/containers/podman/v5/pkg/specgen"
	spec "github.com/opencontainers/runtime-spec/specs-go"
	nettypes "go.podman.io/common/libnetwork/types"
	"go.podman.io/image/v5/manifest"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// defaultGrace is the time between SIGTERM and SIGKILL, in seconds.
	defaultGrace = 30
	// maxLogSize bounds the log file of a container, in bytes, where podman keeps
	// one: a service that talks must not fill the device's disk.
	maxLogSize = 10 << 20
	// cpuPeriod of the CPU limit, in microseconds.
	cpuPeriod = 100_000
)

// specification says how podman shall make the container of the step's service.
func specification(device wire.DeviceID, step reconcile.Step) *specgen.SpecGenerator {
	svc := step.Service.Spec
	s := specgen.NewSpecGenerator(svc.Image, false)
	s.Name = reconcile.ContainerName(device, step.Key, step.Service.Digest)
	s.Labels = map[string]string{
		LabelManaged: "true", LabelDevice: string(device), LabelDeployment: step.Deployment.String(),
		LabelService: svc.Name, LabelDigest: string(step.Service.Digest),
	}
	s.Entrypoint, s.Command = svc.Command, svc.Args
	s.Env = map[string]string{}
	for _, e := range svc.Env {
		s.Env[e.Name] = e.Value
	}
	s.RestartPolicy = "no" // the agent restarts, so that it holds after a reboot too
	grace := uint(defaultGrace)
	if svc.StopGracePeriodSeconds != nil {
		grace = uint(*svc.StopGracePeriodSeconds)
	}
	s.StopTimeout = &grace
	s.LogConfiguration = &specgen.LogConfig{Size: maxLogSize}
	for _, p := range svc.Ports {
		s.PortMappings = append(s.PortMappings, portMapping(p))
	}
	for _, v := range svc.Volumes {
		mount(s, v)
	}
	s.ResourceLimits = resourceLimits(svc.Resources)
	s.HealthConfig = healthConfig(svc.HealthCheck)
	give(s, step.Secrets(device))
	return s
}

func portMapping(p score.Port) nettypes.PortMapping {
	return nettypes.PortMapping{
		HostIP: p.HostIP, HostPort: uint16(p.HostPort), ContainerPort: uint16(p.ContainerPort),
		Protocol: strings.ToLower(string(p.Protocol.OrDefault())),
	}
}

func mount(s *specgen.SpecGenerator, v score.Volume) {
	access := "rw"
	if v.ReadOnly {
		access = "ro"
	}
	if v.Volume != "" {
		s.Volumes = append(s.Volumes, &specgen.NamedVolume{Name: v.Volume, Dest: v.ContainerPath, Options: []string{access}})
		return
	}
	s.Mounts = append(s.Mounts, spec.Mount{Type: "bind", Source: v.HostPath, Destination: v.ContainerPath, Options: []string{"rbind", access}})
}

func resourceLimits(r *score.Resources) *spec.LinuxResources {
	if r == nil {
		return nil
	}
	var limits spec.LinuxResources
	if milli := r.MilliCPU(); milli > 0 {
		period, quota := uint64(cpuPeriod), milli*cpuPeriod/1000
		limits.CPU = &spec.LinuxCPU{Period: &period, Quota: &quota}
	}
	if memory := r.MemoryBytes(); memory > 0 {
		limits.Memory = &spec.LinuxMemory{Limit: &memory}
	}
	if r.Pids != nil {
		limits.Pids = &spec.LinuxPids{Limit: *r.Pids}
	}
	return &limits
}

// healthConfig has no interval, which leaves the schedule to the agent: podman's
// own needs the timers of systemd. Without a check that of the image is off too.
func healthConfig(check *score.HealthCheck) *manifest.Schema2HealthConfig {
	if check == nil {
		return &manifest.Schema2HealthConfig{Test: []string{"NONE"}}
	}
	return &manifest.Schema2HealthConfig{
		Test: append([]string{"CMD"}, check.Command...), Timeout: checkTimeout(check), Retries: 1,
	}
}
