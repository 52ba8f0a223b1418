package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nationtech/harmony-fleet/release/packages"
	"github.com/nationtech/harmony-fleet/release/pgp"
	"github.com/nationtech/harmony-fleet/release/repository"
	"github.com/nationtech/harmony-fleet/release/source"
	"github.com/nationtech/harmony-fleet/release/version"
)

const packagesHelp = `Writes the agent's packages for Debian's and Fedora's families of distributions, for
each architecture, to --out. They are not signed: release repo makes those that are.

  apt install ./dist/packages/fleet-agent_` + version.Number + `-1_amd64.deb`

func newPackages() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "packages",
		Short: "Write the agent's packages, DEB and RPM",
		Long:  packagesHelp,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tree, err := source.Read(cmd.Context(), ".")
			if err != nil {
				return err
			}
			b := packages.Build{Source: tree, Architectures: packages.Architectures, Progress: cmd.ErrOrStderr()}
			_, err = b.Agent(cmd.Context(), out)
			return err
		},
	}
	cmd.Flags().StringVar(&out, "out", "dist/packages", "`folder` of the packages")
	return cmd
}

const repoHelp = `Writes a folder for a web server at --url: a repository for apt in deb, one for dnf
in rpm, and what a device needs to trust them. It has the packages of this tree, and
those of earlier versions that are in --with. What was at --out before is replaced
when everything is there.

The key signs indexes and RPMs; the password of one that has any is in $` + pgp.PasswordVariable + `.

  gpg --quick-generate-key 'Harmony Fleet packages' rsa4096 sign never
  gpg --armor --export-secret-keys 'Harmony Fleet packages' > repo.key
  release repo --url https://packages.example.com/fleet --key repo.key`

func newRepo() *cobra.Command {
	var address, key, with, out string
	cmd := &cobra.Command{
		Use:   "repo",
		Short: "Write a signed repository of the agent's packages, for apt and dnf",
		Long:  repoHelp,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := repository.CheckURL(address); err != nil {
				return err
			}
			if key == "" {
				return errors.New("no signing key: KEY is the file of an OpenPGP key; `release repo --help` says how to make one")
			}
			signer, err := pgp.ReadKey(key)
			if err != nil {
				return err
			}
			tree, err := source.Read(cmd.Context(), ".")
			if err != nil {
				return err
			}
			work := filepath.Join(filepath.Dir(out), "signed")
			b := packages.Build{Source: tree, Architectures: packages.Architectures, Sign: signer.Detached, Progress: cmd.ErrOrStderr()}
			made, err := b.Agent(cmd.Context(), work)
			if err != nil {
				return err
			}
			trust := packages.Trust{URL: address}
			if trust.Binary, trust.Armored, err = signer.Public(); err != nil {
				return err
			}
			keyring, err := b.Keyring(trust, work)
			if err != nil {
				return err
			}
			earlier, err := packages.In(with)
			if err != nil {
				return err
			}
			r := repository.Repository{Packages: append(append(earlier, made...), keyring...), Key: signer, Progress: cmd.ErrOrStderr()}
			if err := r.Make(cmd.Context(), trust, out); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), out)
			return nil
		},
	}
	cmd.Flags().StringVar(&address, "url", "", "`address` at which devices will find the folder")
	cmd.Flags().StringVar(&key, "key", "", "`file` of the private key, as gpg exports it")
	cmd.Flags().StringVar(&with, "with", "", "`folder` with packages of earlier versions, signed")
	cmd.Flags().StringVar(&out, "out", "dist/repo", "`folder` of the repository")
	return cmd
}
