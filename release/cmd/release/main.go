// Command release makes what a release consists of and puts it where people get
// it. It reads its flags, and packages images and push do the rest.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nationtech/harmony-fleet/release/attest"
	"github.com/nationtech/harmony-fleet/release/chart"
	"github.com/nationtech/harmony-fleet/release/images"
	"github.com/nationtech/harmony-fleet/release/push"
	"github.com/nationtech/harmony-fleet/release/source"
	"github.com/nationtech/harmony-fleet/release/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

const help = `release makes the container images and the chart of Harmony Fleet ` + version.Number + ` and
publishes them.

It compiles the programs of this tree for every architecture and puts them on an
empty base. It needs Go and git and no container runtime. The same commit and the
same Go give the same digests, on every machine.

Run it in the tree, or as ` + "`make images` and `make release`" + `. docs/release.md has
the steps around it.`

func command() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "release",
		Short:         "Make and publish a release",
		Long:          help,
		Version:       version.Tag,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(newImages(), newPush(), newPackages(), newRepo())
	return cmd
}

const imagesHelp = `Writes each image as an OCI image layout, a folder of its own below --out. A
layout holds all architectures under the name ` + version.Number + `, and the bills of materials
(SPDX 2.3) that refer to them. The tree may have changes that are in no commit: the
images' revision then ends in -dirty.

  podman pull oci:dist/images/fleet-operator:` + version.Number

func newImages() *cobra.Command {
	var out string
	var arch []string
	cmd := &cobra.Command{
		Use:   "images",
		Short: "Write the images as OCI layouts",
		Long:  imagesHelp,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkArchitectures(arch); err != nil {
				return err
			}
			tree, err := source.Read(cmd.Context(), ".")
			if err != nil {
				return err
			}
			made, err := build(cmd, tree, arch)
			if err != nil {
				return err
			}
			for _, m := range made {
				dir := filepath.Join(out, m.Name)
				if err := m.WriteLayout(dir); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), dir)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "dist/images", "`folder` of the layouts")
	cmd.Flags().StringSliceVar(&arch, "arch", images.Architectures, "`architectures` to build for")
	return cmd
}

func checkArchitectures(arch []string) error {
	for _, a := range arch {
		if !slices.Contains(images.Architectures, a) {
			return fmt.Errorf("--arch: %q is not one of %s", a, strings.Join(images.Architectures, ", "))
		}
	}
	if len(arch) == 0 {
		return fmt.Errorf("--arch: name at least one of %s", strings.Join(images.Architectures, ", "))
	}
	return nil
}

const pushHelp = `Builds the images and pushes them, tagged ` + version.Number + `, with a bill of materials for
each architecture, signatures of everything that can be pulled, and provenance; then
the chart, as charts/` + chart.Name + `, which runs these images by their digests.

Nothing is pushed from a tree that differs from its commit, and a version that was
released with other content is not replaced. Tags come last: until then nobody can
pull what is not signed yet. After a failure, run it again: what is there is kept.

The registry's login is that of podman login or docker login. A registry on this
machine (localhost, 127.0.0.1) is spoken to without TLS.

  release push --registry registry.example/team/fleet --key cosign.key`

// byHand is the builder when no workflow is named.
const byHand = source.Repository + "/blob/main/docs/release.md#by-hand"

func newPush() *cobra.Command {
	var registry, key, builder, tag string
	cmd := &cobra.Command{
		Use:   "push",
		Short: "Build the images, push them and the chart, and sign all of it",
		Long:  pushHelp,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := push.CheckRegistry(registry); err != nil {
				return err
			}
			if tag != "" && tag != version.Tag {
				return fmt.Errorf("--tag: %q is not the tag of this version, %s; tag the commit that raises Number in release/version", tag, version.Tag)
			}
			if key == "" {
				return errors.New("no signing key: KEY is the file of a private key in PEM; docs/release.md says how to make one")
			}
			signer, err := attest.ReadKey(key)
			if err != nil {
				return err
			}
			tree, err := source.Read(cmd.Context(), ".")
			if err != nil {
				return err
			}
			if err := tree.Clean(); err != nil {
				return err
			}
			made, err := build(cmd, tree, images.Architectures)
			if err != nil {
				return err
			}
			target := push.Target{Registry: registry, Key: signer, Builder: builder, Source: tree, Progress: cmd.ErrOrStderr()}
			pushed, err := target.Images(cmd.Context(), made)
			if err != nil {
				return err
			}
			packed, err := target.Chart(cmd.Context(), pushed)
			if err != nil {
				return err
			}
			for _, p := range append(pushed, packed) {
				fmt.Fprintln(cmd.OutOrStdout(), p.Ref)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&registry, "registry", "", "`host and path` that the images' names are appended to")
	cmd.Flags().StringVar(&key, "key", "", "`file` of the private key, ECDSA or Ed25519 in PEM; the password of an encrypted one is in $"+attest.PasswordVariable)
	cmd.Flags().StringVar(&tag, "tag", "", "`tag` for which the release is made: any but that of this version is refused")
	cmd.Flags().StringVar(&builder, "builder", byHand, "`URI` of whom the provenance names as the builder, such as a workflow")
	return cmd
}

func build(cmd *cobra.Command, tree source.Source, arch []string) ([]images.Made, error) {
	b := images.Build{Images: images.Released, Architectures: arch, Source: tree, Progress: cmd.ErrOrStderr()}
	return b.Make(cmd.Context())
}
