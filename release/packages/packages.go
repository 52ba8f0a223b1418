package packages

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed" // of the changelog
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // a format
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm" // a format

	"github.com/nationtech/harmony-fleet/release/compile"
	"github.com/nationtech/harmony-fleet/release/source"
	"github.com/nationtech/harmony-fleet/release/version"
)

//go:embed changelog.yaml
var changelog []byte

// Build says what to make.
type Build struct {
	Source        source.Source
	Architectures []string // such as those of the same name
	// Version is one of Semantic Versioning 2.0; "" means the tree's. What comes
	// before a release sorts before it: 1.0.0-rc.1 is 1.0.0~rc.1 in both families.
	Version string
	// Sign signs an RPM, which carries its signature; nil leaves that away. A DEB has
	// none: it is the repository that is signed.
	Sign     func(io.Reader) ([]byte, error)
	Progress io.Writer // hears what is done, a line at a time
}

// Package is a package file.
type Package struct {
	Path         string
	Format       string // one of Formats
	Architecture string // one of Architectures, or "all"
	Bytes        int64
}

// Agent makes the packages of the agent in the folder dir.
func (b Build) Agent(ctx context.Context, dir string) (made []Package, err error) {
	if b.Version == "" {
		b.Version = version.Number
	}
	work, err := newDesk(b.Source.Time)
	if err != nil {
		return nil, err
	}
	defer work.clear()
	for _, arch := range b.Architectures {
		compiled := compile.Build{
			Root: b.Source.Root, Programs: []compile.Program{program}, Architecture: arch, Version: "v" + b.Version,
			Dir: filepath.Join(work.dir, arch), Progress: b.Progress,
		}
		if err := compiled.Run(ctx); err != nil {
			return nil, err
		}
		for _, format := range Formats {
			info, err := b.agent(work, format, arch)
			if err != nil {
				return nil, err
			}
			p, err := b.write(info, format, dir)
			if err != nil {
				return nil, err
			}
			made = append(made, p)
		}
	}
	return made, nil
}

// agent describes one package of the agent.
func (b Build) agent(d desk, format, arch string) (*nfpm.Info, error) {
	info := b.info(agent, description, arch)
	info.Depends = []string{"podman (>= " + podmanFloor + ")"}
	if format == "rpm" {
		info.Depends = []string{"podman >= " + podmanFloor, "/bin/sh"}
		info.License = license // Debian has it in copyright alone
	}
	info.Recommends = []string{"ca-certificates"}
	var err error
	if info.Changelog, err = d.put("changelog.yaml", changelog); err != nil {
		return nil, err
	}
	content := files.Contents{
		{Source: filepath.Join(d.dir, arch, agent), Destination: "/usr/bin/" + agent, FileInfo: &files.ContentFileInfo{Mode: 0o755, MTime: d.date}},
		{Source: filepath.Join(b.Source.Root, "agent/config/default.toml"), Destination: "/etc/fleet-agent/config.toml", Type: files.TypeConfigNoReplace},
		{Source: filepath.Join(b.Source.Root, "LICENSE"), Destination: "/usr/share/licenses/fleet-agent/LICENSE", Type: files.TypeRPMLicense, Packager: "rpm"},
	}
	for _, e := range layout {
		c, err := d.content(e)
		if err != nil {
			return nil, err
		}
		content = append(content, c)
	}
	for _, c := range content {
		if c.FileInfo == nil {
			c.FileInfo = &files.ContentFileInfo{Mode: 0o644, MTime: d.date}
		}
	}
	info.Contents = content
	for name, script := range map[string]*string{
		"deb-postinst": &info.Scripts.PostInstall, "deb-prerm": &info.Scripts.PreRemove, "deb-postrm": &info.Scripts.PostRemove,
		"rpm-post": &info.Scripts.PostInstall, "rpm-preun": &info.Scripts.PreRemove, "rpm-postun": &info.Scripts.PostRemove,
	} {
		if strings.HasPrefix(name, format) {
			if *script, err = d.text(name); err != nil {
				return nil, err
			}
		}
	}
	return info, nil
}

// info is what all packages have in common.
func (b Build) info(name, description, arch string) *nfpm.Info {
	short, _, _ := strings.Cut(description, "\n")
	info := &nfpm.Info{
		Name: name, Description: description, Arch: arch, Platform: "linux", Version: b.Version, VersionSchema: "semver",
		Section: "admin", Priority: "optional", Maintainer: maintainer, Vendor: vendor, Homepage: homepage,
		DisableGlobbing: true, MTime: b.Source.Time,
	}
	info.Release = "1"
	info.Deb.Compression, info.RPM.Compression = "xz", "xz"
	info.RPM.Summary, info.RPM.Group, info.RPM.Packager = short, "System Environment/Daemons", maintainer
	info.RPM.BuildHost = "localhost" // no machine's name gets into it
	info.RPM.Signature.SignFn = b.Sign
	return info
}

// write makes a package file and says so.
func (b Build) write(info *nfpm.Info, format, dir string) (p Package, err error) {
	packager, err := nfpm.Get(format)
	if err != nil {
		return p, fmt.Errorf("making %s of the format %s: %w", info.Name, format, err)
	}
	info = nfpm.WithDefaults(info)
	p = Package{Format: format, Architecture: info.Arch}
	p.Path = filepath.Join(dir, packager.ConventionalFileName(info))
	var content bytes.Buffer
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return p, fmt.Errorf("preparing %s: %w", p.Path, err)
	}
	if err := packager.Package(info, &content); err != nil {
		return p, fmt.Errorf("making %s: %w", p.Path, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return p, fmt.Errorf("making %s: %w", p.Path, err)
	}
	if err := os.WriteFile(p.Path, content.Bytes(), 0o644); err != nil { //nolint:gosec // for everybody
		return p, fmt.Errorf("making %s: %w", p.Path, err)
	}
	p.Bytes = int64(content.Len())
	fmt.Fprintf(b.Progress, "%s, %.1f MB\n", p.Path, float64(p.Bytes)/1e6)
	return p, nil
}

// desk is where texts are filled in for a release of this date.
type desk struct {
	dir  string
	date time.Time
}

func newDesk(date time.Time) (desk, error) {
	dir, err := os.MkdirTemp("", "fleet-packages-")
	if err != nil {
		return desk{}, fmt.Errorf("making a folder for packages: %w", err)
	}
	return desk{dir, date}, nil
}

// clear removes it; nothing depends on that.
func (d desk) clear() { _ = os.RemoveAll(d.dir) }

// put writes a file there and returns its path.
func (d desk) put(name string, content []byte) (string, error) {
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return "", fmt.Errorf("writing a file for a package: %w", err)
	}
	return path, nil
}

// text fills in a text and returns its path.
func (d desk) text(name string) (string, error) {
	content, err := texts.ReadFile("files/" + name)
	if err != nil {
		return "", err
	}
	return d.put(name, []byte(blanks(d.date.Format("January 2, 2006")).Replace(string(content))))
}

// content is an entry as the library wants it.
func (d desk) content(e entry) (*files.Content, error) {
	if e.from == "" {
		return &files.Content{Destination: e.to, Type: files.TypeDir, Packager: e.format, FileInfo: &files.ContentFileInfo{Mode: 0o755, MTime: d.date}}, nil
	}
	path, err := d.text(e.from)
	if err == nil && strings.HasSuffix(e.to, ".gz") {
		path, err = d.compress(path)
	}
	return &files.Content{Source: path, Destination: e.to, Packager: e.format, Type: e.kind}, err
}

// compress packs a file as Debian wants manuals: as small as can be, and without a
// date.
func (d desk) compress(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return "", err
	}
	if _, err := w.Write(content); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return d.put(filepath.Base(path)+".gz", packed.Bytes())
}

// In are the package files of a folder; "" has none.
func In(dir string) (found []Package, err error) {
	if dir == "" {
		return nil, nil
	}
	for _, format := range Formats {
		paths, err := filepath.Glob(filepath.Join(dir, "*."+format))
		if err != nil {
			return nil, fmt.Errorf("looking for packages in %s: %w", dir, err)
		}
		for _, path := range paths {
			arch, known := architecture(path)
			if !known {
				return nil, fmt.Errorf("%s is for no architecture that we release for", path)
			}
			found = append(found, Package{Path: path, Format: format, Architecture: arch})
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("there is no package in %s", dir)
	}
	return found, nil
}

// architecture is told by the end of a package's name.
func architecture(path string) (arch string, known bool) {
	name := strings.TrimSuffix(path, filepath.Ext(path))
	for end, arch := range map[string]string{
		"_amd64": "amd64", ".x86_64": "amd64", "_arm64": "arm64", ".aarch64": "arm64", "_all": "all", ".noarch": "all",
	} {
		if strings.HasSuffix(name, end) {
			return arch, true
		}
	}
	return "", false
}
