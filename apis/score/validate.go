package score

import (
	"errors"
	"fmt"
	"math"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxBytes is the largest canonical encoding of a score, in bytes. A desired
// state must fit into one NATS message (1 MiB by default) with its headers, and
// a device reads one per Deployment.
const MaxBytes = 256 << 10

// Limits of a score, the same numbers as in the resource's schema: an agent
// must not rely on the API server having checked them.
const (
	maxServices   = 16
	maxListItems  = 128
	maxNameLength = 63
	maxKeyLength  = 128
)

var (
	nameShape   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	imageShape  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$`)
	keyShape    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	envShape    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	volumeShape = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
	cpuShape    = regexp.MustCompile(`^([0-9]{1,6}m|[0-9]{1,4}(\.[0-9]{1,3})?)$`)
	memoryShape = regexp.MustCompile(`^([0-9]{1,15}|[0-9]{1,9}(Ki|Mi|Gi))$`)
)

// Validate reports everything that is wrong with the score, each error naming
// the field by its path.
func (s Score) Validate() error {
	if s.PodmanV0 == nil {
		return errors.New("score: exactly one member must be set, and podmanV0 is the only one this version knows")
	}
	services := s.PodmanV0.Services
	if len(services) == 0 || len(services) > maxServices {
		return fmt.Errorf("podmanV0.services: must have 1 to %d entries, has %d", maxServices, len(services))
	}
	var errs []error
	names, ports := map[string]bool{}, map[string]string{}
	for i, svc := range services {
		at := fmt.Sprintf("podmanV0.services[%d]", i)
		if names[svc.Name] {
			errs = append(errs, fmt.Errorf("%s.name: %q is used twice", at, svc.Name))
		}
		names[svc.Name] = true
		for _, p := range svc.Ports {
			key := fmt.Sprintf("%d/%s", p.HostPort, p.Protocol.OrDefault())
			if first, taken := ports[key]; taken {
				errs = append(errs, fmt.Errorf("%s.ports: host port %s is published by service %q already", at, key, first))
			}
			ports[key] = svc.Name
		}
		errs = append(errs, svc.validate(at)...)
	}
	return errors.Join(errs...)
}

func (svc Service) validate(at string) []error {
	var errs []error
	check := func(ok bool, field, want string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s.%s: %s", at, field, want))
		}
	}
	check(len(svc.Name) <= maxNameLength && nameShape.MatchString(svc.Name), "name", "must be a DNS label of at most 63 characters")
	check(len(svc.Image) <= 512 && imageShape.MatchString(svc.Image), "image", "must be an image reference of at most 512 characters")
	for field, list := range map[string]int{"command": len(svc.Command), "args": len(svc.Args), "env": len(svc.Env), "secrets": len(svc.Secrets), "ports": len(svc.Ports), "volumes": len(svc.Volumes)} {
		check(list <= maxListItems, field, fmt.Sprintf("must have at most %d entries", maxListItems))
	}
	for _, word := range append(append([]string{}, svc.Command...), svc.Args...) {
		check(printableText(word), "command", "arguments must be valid UTF-8 without NUL")
	}
	seen, mounted := map[string]bool{}, map[string]bool{}
	for _, v := range svc.Volumes {
		mounted[v.ContainerPath] = true
	}
	for _, e := range svc.Env {
		check(envShape.MatchString(e.Name) && !seen[e.Name], "env", fmt.Sprintf("%q is not a variable name or is set twice", e.Name))
		check(printableText(e.Value), "env", fmt.Sprintf("the value of %q must be valid UTF-8 without NUL", e.Name))
		seen[e.Name] = true
	}
	for i, secret := range svc.Secrets {
		variable := secret.Env != ""
		check(secret.valid(), fmt.Sprintf("secrets[%d]", i), "needs a name (a DNS label), a key, and exactly one of env and file (absolute, clean)")
		check(!variable || !seen[secret.Env], "secrets", fmt.Sprintf("%q is set twice", secret.Env))
		check(variable || !mounted[secret.File], "secrets", fmt.Sprintf("%q is mounted twice", secret.File))
		seen[secret.Env], mounted[secret.File] = true, true
	}
	for _, p := range svc.Ports {
		check(validPort(p.ContainerPort) && validPort(p.HostPort), "ports", "containerPort and hostPort must be 1 to 65535")
		check(p.Protocol.OrDefault() == TCP || p.Protocol == UDP, "ports", "protocol must be TCP or UDP")
	}
	for _, v := range svc.Volumes {
		check(v.valid(), "volumes", fmt.Sprintf("%q needs an absolute containerPath and exactly one of hostPath (absolute, clean) and volume", v.ContainerPath))
	}
	check(svc.RestartPolicy.known(), "restartPolicy", "must be Always, OnFailure or Never")
	if r := svc.Resources; r != nil {
		check(r.CPU == "" || cpuShape.MatchString(r.CPU), "resources.cpu", `must look like "0.5" or "500m"`)
		check(r.Memory == "" || memoryShape.MatchString(r.Memory), "resources.memory", `must look like "64Mi"`)
		check(r.Pids == nil || *r.Pids > 0, "resources.pids", "must be positive")
	}
	check(svc.HealthCheck == nil || len(svc.HealthCheck.Command) > 0, "healthCheck.command", "must not be empty")
	check(svc.StopGracePeriodSeconds == nil || *svc.StopGracePeriodSeconds >= 0, "stopGracePeriodSeconds", "must not be negative")
	return errs
}

func (s Secret) valid() bool {
	if len(s.Name) > maxNameLength || !nameShape.MatchString(s.Name) || len(s.Key) > maxKeyLength || !keyShape.MatchString(s.Key) {
		return false
	}
	if s.File != "" {
		return s.Env == "" && cleanPath(s.File) && s.File != "/"
	}
	return envShape.MatchString(s.Env)
}

func validPort(p int32) bool { return p >= 1 && p <= math.MaxUint16 }

func printableText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

func (v Volume) valid() bool {
	if !cleanPath(v.ContainerPath) || (v.HostPath == "") == (v.Volume == "") {
		return false
	}
	if v.HostPath != "" {
		return cleanPath(v.HostPath)
	}
	return volumeShape.MatchString(v.Volume)
}

// cleanPath refuses "..", doubled and trailing slashes, so that a path says
// what it means, and ':' and ',', which podman's mount options would split at.
func cleanPath(p string) bool {
	return printableText(p) && path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsAny(p, ":,")
}

func (p RestartPolicy) known() bool {
	switch p.OrDefault() {
	case RestartAlways, RestartOnFailure, RestartNever:
		return true
	}
	return false
}

// OrDefault is p, or RestartAlways where p is empty.
func (p RestartPolicy) OrDefault() RestartPolicy {
	if p == "" {
		return RestartAlways
	}
	return p
}

// OrDefault is p, or TCP where p is empty.
func (p Protocol) OrDefault() Protocol {
	if p == "" {
		return TCP
	}
	return p
}

// MilliCPU is the CPU limit in thousandths of a core; 0 means no limit.
func (r Resources) MilliCPU() int64 {
	if whole, isMilli := strings.CutSuffix(r.CPU, "m"); isMilli {
		n, _ := strconv.ParseInt(whole, 10, 64)
		return n
	}
	cores, _ := strconv.ParseFloat(r.CPU, 64)
	return int64(math.Round(cores * 1000))
}

// MemoryBytes is the memory limit in bytes; 0 means no limit.
func (r Resources) MemoryBytes() int64 {
	digits, unit := r.Memory, int64(1)
	for suffix, size := range map[string]int64{"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30} {
		if cut, found := strings.CutSuffix(r.Memory, suffix); found {
			digits, unit = cut, size
		}
	}
	n, _ := strconv.ParseInt(digits, 10, 64)
	return n * unit
}
