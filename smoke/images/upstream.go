package images

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	release "github.com/nationtech/harmony-fleet/release/images"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// Upstream stands in for an image that others publish, where their registry cannot
// be reached: the same program and version, for this machine, built from source.
// Beside the program there is nothing in it.
type Upstream struct {
	// Name is the published image's, with the tag and without a registry.
	Name  string
	Image v1.Image
}

// NATS is the broker as the chart runs it. Progress hears of a long build.
func NATS(ctx context.Context, progress io.Writer) (Upstream, error) {
	return upstream(ctx, "nats", tools.NATSServer, progress)
}

// NACK is the controller of JetStream's resources as the chart runs it.
func NACK(ctx context.Context, progress io.Writer) (Upstream, error) {
	return upstream(ctx, "natsio/jetstream-controller", tools.NACK, progress)
}

func upstream(ctx context.Context, repository string, tool tools.Tool, progress io.Writer) (Upstream, error) {
	version, err := tool.Version()
	if err != nil {
		return Upstream{}, err
	}
	u := Upstream{Name: repository + ":" + strings.TrimPrefix(version, "v")}
	binary, err := tools.Build(ctx, tool, progress)
	if err != nil {
		return Upstream{}, err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return Upstream{}, fmt.Errorf("making the image %s: %w", u.Name, err)
	}
	const folder = "usr/local/bin"
	layer, err := release.Layer(release.File{Path: folder + "/" + tool.String(), Executable: true, Content: content})
	if err != nil {
		return Upstream{}, fmt.Errorf("making the image %s: %w", u.Name, err)
	}
	u.Image, err = release.Assemble(v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH,
		Config: v1.Config{Entrypoint: []string{"/" + folder + "/" + tool.String()}, Env: []string{"PATH=/" + folder}},
	}, layer)
	if err != nil {
		return Upstream{}, fmt.Errorf("making the image %s: %w", u.Name, err)
	}
	return u, nil
}
