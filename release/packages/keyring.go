package packages

import (
	"bytes"
	"path/filepath"
	"text/template"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/files"

	"github.com/nationtech/harmony-fleet/release/version"
)

// Trust is how devices find our repository and know it.
type Trust struct {
	// URL of the folder that has both repositories, deb and rpm.
	URL string
	// Binary and Armored are the public key in the two forms that they want.
	Binary, Armored []byte
}

// debTrust is the package's name for Debian.
const debTrust = "harmony-fleet-archive-keyring"

// Files of trust: where they are on a device, for both ways to get them there.
const (
	debKeyring = "/usr/share/keyrings/harmony-fleet.gpg"
	debSources = "/etc/apt/sources.list.d/harmony-fleet.sources"
	rpmKey     = "/etc/pki/rpm-gpg/RPM-GPG-KEY-harmony-fleet"
	rpmRepo    = "/etc/yum.repos.d/harmony-fleet.repo"
)

var aptSource = template.Must(template.New("").Parse(`Types: deb
URIs: {{.URL}}/deb
Suites: stable
Components: main
Signed-By: ` + debKeyring + `
`))

var dnfSource = template.Must(template.New("").Parse(`[harmony-fleet]
name=Harmony Fleet
baseurl={{.URL}}/rpm/$basearch
enabled=1
gpgcheck=1
repo_gpgcheck=1
gpgkey=file://` + rpmKey + `
`))

// Sources are what apt and dnf read to find the repository.
func (t Trust) Sources() (apt, dnf []byte, err error) {
	var a, d bytes.Buffer
	if err := aptSource.Execute(&a, t); err != nil {
		return nil, nil, err
	}
	if err := dnfSource.Execute(&d, t); err != nil {
		return nil, nil, err
	}
	return a.Bytes(), d.Bytes(), nil
}

const trustDescription = `Where the packages of Harmony Fleet are, and the key that signs them
With it apt and dnf find our repository and trust what is signed by its key,
for our packages alone. A new key comes as a new version of this package.`

// Keyring makes the packages that have a device trust the repository, in the folder
// dir.
func (b Build) Keyring(t Trust, dir string) (made []Package, err error) {
	if b.Version == "" {
		b.Version = version.Number
	}
	apt, dnf, err := t.Sources()
	if err != nil {
		return nil, err
	}
	work, err := newDesk(b.Source.Time)
	if err != nil {
		return nil, err
	}
	defer work.clear()
	for _, p := range []struct {
		format, name    string
		content, config map[string][]byte
		texts           []entry
	}{
		{"deb", debTrust, map[string][]byte{debKeyring: t.Binary}, map[string][]byte{debSources: apt}, []entry{
			{to: "/usr/share/doc/" + debTrust + "/copyright", from: "copyright"},
			{to: "/usr/share/lintian/overrides/" + debTrust, from: "keyring-lintian-overrides"},
		}},
		{"rpm", "harmony-fleet-release", map[string][]byte{rpmKey: t.Armored}, map[string][]byte{rpmRepo: dnf}, nil},
	} {
		info := b.info(p.name, trustDescription, "all")
		if err := work.add(info, p.content, files.TypeFile); err != nil {
			return nil, err
		}
		if err := work.add(info, p.config, files.TypeConfigNoReplace); err != nil {
			return nil, err
		}
		if p.format == "rpm" {
			info.License = license
		}
		for _, e := range p.texts {
			c, err := work.content(e)
			if err != nil {
				return nil, err
			}
			c.FileInfo = &files.ContentFileInfo{Mode: 0o644, MTime: work.date}
			info.Contents = append(info.Contents, c)
		}
		if info.Changelog, err = work.put("changelog.yaml", changelog); err != nil {
			return nil, err
		}
		pkg, err := b.write(info, p.format, dir)
		if err != nil {
			return nil, err
		}
		made = append(made, pkg)
	}
	return made, nil
}

// add puts files, by their path on the device, into a package.
func (d desk) add(info *nfpm.Info, content map[string][]byte, kind string) error {
	for path, data := range content {
		from, err := d.put(filepath.Base(path), data)
		if err != nil {
			return err
		}
		info.Contents = append(info.Contents, &files.Content{
			Source: from, Destination: path, Type: kind, FileInfo: &files.ContentFileInfo{Mode: 0o644, MTime: d.date},
		})
	}
	return nil
}
