package stories

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nationtech/harmony-fleet/smoke/podman"
)

// twin is a device whose disk is a copy of this one's but for its containers: podman
// makes them anew. Whatever happens, stop it.
func (m *machine) twin(ctx context.Context, service *podman.Service) (t *machine, err error) {
	t = &machine{person: &person{env: m.env}, podman: service}
	if t.dir, err = os.MkdirTemp("", "fleet-story-"); err != nil {
		return t, fmt.Errorf("making a folder for a device: %w", err)
	}
	if out, err := exec.CommandContext(ctx, "cp", "--archive", m.dir+"/.", t.dir).CombinedOutput(); err != nil {
		return t, fmt.Errorf("copying a disk: %w: %s", err, out)
	}
	files, err := filepath.Glob(t.path("conf.d/*.toml"))
	if err != nil {
		return t, err
	}
	for _, file := range files {
		settings, err := os.ReadFile(file)
		if err != nil {
			return t, err
		}
		moved := strings.NewReplacer(m.dir, t.dir, m.podman.Socket(), t.podman.Socket()).Replace(string(settings))
		if err := os.WriteFile(file, []byte(moved), 0o600); err != nil {
			return t, err
		}
	}
	return t, nil
}

// clone starts a second device with the same disk, and ends it when people have been told.
func (r *remote) clone(ctx context.Context) (err error) {
	service, err := podman.Start(ctx, podman.Options{Name: "twin", Progress: r.Progress()})
	if err != nil {
		return err
	}
	twin, err := r.machine.twin(ctx, service)
	defer func() { err = errors.Join(err, twin.stop()) }()
	if err != nil {
		return err
	}
	return r.tell(ctx, step{"a second device with a copy of its disk starts: everybody is told, and nothing flaps", func() error {
		before, err := r.moved(ctx)
		if err != nil {
			return err
		}
		if err := twin.run(); err != nil {
			return err
		}
		if err := r.until(ctx, "TwoAgents", "get", "fdev", "pi-1", `--output=jsonpath={.status.conditions[?(@.type=="IdentityConflict")].reason}`); err != nil {
			return errors.Join(err, errors.New(twin.agent.LogTail(30)))
		}
		for who, words := range map[*machine]string{twin: "this one stands by", r.machine: "this one reports on the device"} {
			if err := eventually(ctx, func() error { return who.says(ctx, "CONFLICT", words, "kubectl fleet enroll") }); err != nil {
				return err
			}
		}
		// Both run all of it, and the first alone tells.
		after, err := r.moved(ctx)
		if err == nil && after != before {
			err = fmt.Errorf("what people see was\n%s\nand is\n%s", before, after)
		}
		return err
	}})
}

// moved is when the device and its Deployments last became what they are.
func (r *remote) moved(ctx context.Context) (string, error) {
	return r.Kubectl(ctx, "", "get", "fdev/pi-1", "fdep/steady", "fdep/moving",
		`--output=jsonpath={range .items[*]}{.metadata.name}{range .status.conditions[?(@.type!="IdentityConflict")]} {.type} {.status} {.lastTransitionTime}{end}{"\n"}{end}`)
}

// says is an error unless the page of `fleet-agent status` has all these words.
func (m *machine) says(ctx context.Context, words ...string) error {
	page, err := m.Agent(ctx, "status")
	if err != nil {
		return err
	}
	for _, word := range words {
		if !strings.Contains(page, word) {
			return fmt.Errorf("fleet-agent status does not say %q:\n%s", word, page)
		}
	}
	return nil
}
