// Package sbom writes down what an image is made of and what a chart runs, as SPDX
// 2.3 in JSON. What a program links it reads from the program itself, so that the
// document cannot differ from what was built. It never looks at go.mod, at licences
// of modules or at the clock.
package sbom

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/package-url/packageurl-go"
	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// MediaType is that of a document.
const MediaType = "application/spdx+json"

// Image is what a document is about, or a chart, which has no architecture and no
// programs.
type Image struct {
	Name, Version, Description, Architecture string
	// Digest is the SHA-256 of the image's manifest, in hexadecimal.
	Digest string
	// Module is the Go module of the programs, and Commit its revision.
	Module, Commit string
	Created        time.Time
	Programs       []Program
	// Data are Go modules whose content is in the image beside the programs.
	Data []debug.Module
}

// Program is an executable in the image.
type Program struct {
	Package string // its folder in the module
	Path    string // its file in the image
	Content []byte
}

// Of is the document. It is the same bytes for the same image.
func Of(image Image) ([]byte, error) {
	d := begin(image, fmt.Sprintf("%s %s linux/%s", image.Name, image.Version, image.Architecture))
	itself := d.add(imagePackage(image))
	d.relate("DOCUMENT", common.TypeRelationshipDescribe, itself)
	for _, p := range image.Programs {
		if err := d.program(image, itself, p); err != nil {
			return nil, fmt.Errorf("reading what %s is made of: %w", p.Path, err)
		}
	}
	for _, m := range image.Data {
		d.relate(itself, common.TypeRelationshipContains, d.add(module(m)))
	}
	return d.encode(image.Name)
}

// OfChart is the document of a chart that runs the images with these references, as
// pods have them.
func OfChart(chart Image, runs []string) ([]byte, error) {
	d := begin(chart, chart.Name+" "+chart.Version)
	itself := d.add(chartPackage(chart))
	d.relate("DOCUMENT", common.TypeRelationshipDescribe, itself)
	for _, reference := range runs {
		d.relate(itself, common.TypeRelationshipDependsOn, d.add(&spdx.Package{
			PackageName: reference, PackageSPDXIdentifier: identifier("Image", reference), PrimaryPackagePurpose: "CONTAINER",
			PackageDownloadLocation: unknown, PackageLicenseConcluded: unknown, PackageLicenseDeclared: unknown, PackageCopyrightText: unknown,
		}))
	}
	return d.encode(chart.Name)
}

// begin is a document that has no packages yet.
func begin(image Image, name string) *document {
	return &document{
		Document: spdx.Document{
			SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
			DocumentName:      name,
			DocumentNamespace: fmt.Sprintf("https://%s/spdx/%s/%s", image.Module, image.Name, image.Digest),
			CreationInfo: &spdx.CreationInfo{
				Created:  image.Created.UTC().Format(time.RFC3339),
				Creators: []common.Creator{{CreatorType: "Organization", Creator: supplier}, {CreatorType: "Tool", Creator: "harmony-fleet-release-" + image.Version}},
			},
		},
		known: map[common.ElementID]bool{},
	}
}

func (d *document) encode(name string) ([]byte, error) {
	var out bytes.Buffer
	if err := json.Write(&d.Document, &out, json.Indent(" ")); err != nil {
		return nil, fmt.Errorf("encoding the bill of materials of %s: %w", name, err)
	}
	return out.Bytes(), nil
}

const (
	supplier = "NationTech"
	// unknown is SPDX's word for what nobody looked into.
	unknown    = "NOASSERTION"
	ourLicence = "Apache-2.0"
)

// document is one that grows: a package that was added is not added again.
type document struct {
	spdx.Document
	known map[common.ElementID]bool
}

func (d *document) add(p *spdx.Package) common.ElementID {
	id := p.PackageSPDXIdentifier
	if !d.known[id] {
		d.known[id] = true
		d.Packages = append(d.Packages, p)
	}
	return id
}

func (d *document) relate(a common.ElementID, how string, b common.ElementID) {
	d.Relationships = append(d.Relationships, &spdx.Relationship{
		RefA: common.DocElementID{ElementRefID: a}, Relationship: how, RefB: common.DocElementID{ElementRefID: b},
	})
}

// program adds an executable and every module that is linked into it.
func (d *document) program(image Image, itself common.ElementID, p Program) error {
	info, err := buildinfo.Read(bytes.NewReader(p.Content))
	if err != nil {
		return err
	}
	digest := sha256.Sum256(p.Content)
	entry := ours("Program", path.Base(p.Path), image)
	entry.PackageFileName, entry.PrimaryPackagePurpose = p.Path, "APPLICATION"
	entry.PackageSourceInfo = fmt.Sprintf("built from %s of commit %s", p.Package, image.Commit)
	entry.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: hex.EncodeToString(digest[:])}}
	locate(entry, packageurl.NewPackageURL(packageurl.TypeGolang, path.Dir(image.Module), path.Base(image.Module), "v"+image.Version, nil, p.Package))
	program := d.add(entry)
	d.relate(itself, common.TypeRelationshipContains, program)
	d.relate(program, common.TypeRelationshipDependsOn, d.add(module(debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")})))
	for _, linked := range info.Deps {
		if linked.Replace != nil {
			linked = linked.Replace
		}
		d.relate(program, common.TypeRelationshipDependsOn, d.add(module(*linked)))
	}
	return nil
}

func imagePackage(image Image) *spdx.Package {
	p := ours("Image", image.Name, image)
	p.PackageDescription, p.PrimaryPackagePurpose = image.Description, "CONTAINER"
	p.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: image.Digest}}
	locate(p, packageurl.NewPackageURL(packageurl.TypeOCI, "", image.Name, "sha256:"+image.Digest,
		packageurl.QualifiersFromMap(map[string]string{"arch": image.Architecture, "tag": image.Version}), ""))
	return p
}

func chartPackage(chart Image) *spdx.Package {
	p := ours("Chart", chart.Name, chart)
	p.PackageDescription, p.PrimaryPackagePurpose = chart.Description, "INSTALL"
	p.PackageSourceInfo = "packed from commit " + chart.Commit
	p.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: chart.Digest}}
	locate(p, packageurl.NewPackageURL(packageurl.TypeOCI, "", chart.Name, "sha256:"+chart.Digest,
		packageurl.QualifiersFromMap(map[string]string{"tag": chart.Version}), ""))
	return p
}

// ours is an entry for something of this project.
func ours(kind, name string, image Image) *spdx.Package {
	return &spdx.Package{
		PackageName: name, PackageSPDXIdentifier: identifier(kind, name), PackageVersion: image.Version,
		PackageSupplier:         &common.Supplier{SupplierType: "Organization", Supplier: supplier},
		PackageDownloadLocation: unknown, PackageLicenseConcluded: ourLicence, PackageLicenseDeclared: ourLicence, PackageCopyrightText: unknown,
	}
}

// module is an entry for a Go module, or for the standard library.
func module(m debug.Module) *spdx.Package {
	p := &spdx.Package{
		PackageName: m.Path, PackageSPDXIdentifier: identifier("Module", m.Path+"-"+m.Version), PackageVersion: m.Version,
		PackageDownloadLocation: unknown, PackageLicenseConcluded: unknown, PackageLicenseDeclared: unknown, PackageCopyrightText: unknown,
		PrimaryPackagePurpose: "LIBRARY",
	}
	if m.Sum != "" {
		p.PackageComment = "go.sum: " + m.Sum
	}
	namespace, name := path.Split(m.Path)
	locate(p, packageurl.NewPackageURL(packageurl.TypeGolang, strings.TrimSuffix(namespace, "/"), name, m.Version, nil, ""))
	return p
}

// locate names a package as scanners for vulnerabilities do.
func locate(p *spdx.Package, url *packageurl.PackageURL) {
	p.PackageExternalReferences = append(p.PackageExternalReferences, &spdx.PackageExternalReference{
		Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: url.ToString(),
	})
}

// identifier is made of the characters that SPDX allows, and of different ones for
// different names: an escape is a dot, which names of its own kind do not have in
// front of two digits that stand for a forbidden character.
func identifier(kind, name string) common.ElementID {
	var id strings.Builder
	for _, c := range []byte(name) {
		if c == '-' || c == '.' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			id.WriteByte(c)
		} else {
			fmt.Fprintf(&id, ".%02X", c)
		}
	}
	return common.ElementID(kind + "-" + id.String())
}
