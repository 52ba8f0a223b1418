// Package shop is where devices of tests and stories get the agent's packages: a
// repository for apt and dnf, of packages that are made from this tree, signed by a key
// of its own and served on loopback. It installs nothing.
package shop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/nationtech/harmony-fleet/release/packages"
	"github.com/nationtech/harmony-fleet/release/pgp"
	"github.com/nationtech/harmony-fleet/release/repository"
	"github.com/nationtech/harmony-fleet/release/source"
	"github.com/nationtech/harmony-fleet/smoke/debian"
)

// Shop is a repository behind a web server.
type Shop struct {
	options  Options
	tree     source.Source
	server   *http.Server
	Packages []packages.Package // that it has
	Trust    packages.Trust     // by which devices know it
	Key      pgp.Key
}

// Options of a shop.
type Options struct {
	// Dir has packages and repository, and is the caller's to remove.
	Dir string
	// Reach is how devices get to an address of this host's loopback; nil when they
	// are on this host.
	Reach func(address string) string
	// Architectures of the packages.
	Architectures []string
	Progress      io.Writer // hears what is done
}

// Open opens a shop that has nothing yet but the packages by which devices trust it. Its
// web server runs until Close.
func Open(ctx context.Context, o Options) (_ *Shop, err error) {
	var needed []debian.Program
	for program, from := range repository.Tools {
		needed = append(needed, debian.Program{Package: from, Paths: []string{"/usr/bin/" + program}})
	}
	if err := debian.Install(ctx, "a repository of packages", needed, o.Progress); err != nil {
		return nil, err
	}
	s := &Shop{options: o}
	if s.tree, err = source.Read(ctx, "."); err != nil {
		return nil, err
	}
	if s.Key, err = NewKey(o.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.Repository(), 0o755); err != nil {
		return nil, fmt.Errorf("opening a shop: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("opening a shop: %w", err)
	}
	address := listener.Addr().String()
	if o.Reach != nil {
		address = o.Reach(address)
	}
	s.Trust.URL = "http://" + address
	s.server = &http.Server{Handler: http.FileServer(http.Dir(s.Repository())), ReadHeaderTimeout: 10 * time.Second}
	go s.server.Serve(listener) //nolint:errcheck // ends with ErrServerClosed
	if s.Trust.Binary, s.Trust.Armored, err = s.Key.Public(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.Packages, err = packages.Build{Source: s.tree, Sign: s.Key.Detached, Progress: o.Progress}.Keyring(s.Trust, s.packages())
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close ends the web server.
func (s *Shop) Close() error { return s.server.Close() }

func (s *Shop) packages() string { return filepath.Join(s.options.Dir, "packages") }

// Repository is the folder that is served.
func (s *Shop) Repository() string { return filepath.Join(s.options.Dir, "repo") }

// Stock makes packages of the agent that say they are of these versions, and publishes
// them beside what there is.
func (s *Shop) Stock(ctx context.Context, versions ...string) error {
	for _, version := range versions {
		b := packages.Build{Source: s.tree, Architectures: s.options.Architectures, Version: version, Sign: s.Key.Detached, Progress: s.options.Progress}
		made, err := b.Agent(ctx, s.packages())
		if err != nil {
			return err
		}
		s.Packages = append(s.Packages, made...)
	}
	return s.Publish(ctx, s.Key, s.Repository())
}

// Publish makes the repository anew in a folder, signed by a key.
func (s *Shop) Publish(ctx context.Context, key pgp.Key, dir string) error {
	return repository.Repository{Packages: s.Packages, Key: key, Progress: s.options.Progress}.Make(ctx, s.Trust, dir)
}

// Find is the path of a package whose name begins and ends so.
func (s *Shop) Find(begin, end string) (string, error) {
	i := slices.IndexFunc(s.Packages, func(p packages.Package) bool {
		name := filepath.Base(p.Path)
		return strings.HasPrefix(name, begin) && strings.HasSuffix(name, end)
	})
	if i < 0 {
		return "", fmt.Errorf("there is no package %s…%s", begin, end)
	}
	return s.Packages[i].Path, nil
}

// NewKey makes a key as gpg would, and reads it as a release does. dir has its file.
func NewKey(dir string) (pgp.Key, error) {
	entity, err := openpgp.NewEntity("Harmony Fleet test", "", "", &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 4096, Time: func() time.Time { return time.Now().Add(-time.Hour) }})
	if err != nil {
		return pgp.Key{}, fmt.Errorf("making a key: %w", err)
	}
	var text bytes.Buffer
	w, err := armor.Encode(&text, openpgp.PrivateKeyType, nil)
	if err == nil {
		err = errors.Join(entity.SerializePrivate(w, nil), w.Close())
	}
	if err != nil {
		return pgp.Key{}, fmt.Errorf("writing a key: %w", err)
	}
	file, err := os.CreateTemp(dir, "key-")
	if err != nil {
		return pgp.Key{}, fmt.Errorf("writing a key: %w", err)
	}
	_, err = file.Write(text.Bytes())
	if err := errors.Join(err, file.Close()); err != nil {
		return pgp.Key{}, fmt.Errorf("writing a key: %w", err)
	}
	return pgp.ReadKey(file.Name())
}
