package push

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/nationtech/harmony-fleet/release/attest"
	"github.com/nationtech/harmony-fleet/release/chart"
	"github.com/nationtech/harmony-fleet/release/images"
	"github.com/nationtech/harmony-fleet/release/version"
)

// Pushed is an image or the chart, and in the registry.
type Pushed struct {
	Image  string // its name in the table of images, or the chart's
	Ref    name.Digest
	Digest v1.Hash // of its index, which is what a chart pins
}

// Images pushes them and returns where they are, in the same order. What is there
// already is not sent again: after a failure the same call completes the work.
func (t Target) Images(ctx context.Context, made []images.Made) ([]Pushed, error) {
	if err := CheckRegistry(t.Registry); err != nil {
		return nil, err
	}
	works := make([]*work, len(made))
	for i, m := range made {
		w, err := t.work(m.Name, m.Name+":"+version.Number, m.Index)
		if err != nil {
			return nil, err
		}
		for _, p := range m.Platforms {
			platform := m.Name + " linux/" + p.Architecture
			w.parts = append(w.parts, attest.Named{Name: platform, Describable: p.Image})
			if err := w.bill(platform, p.SBOM, p.Image); err != nil {
				return nil, err
			}
		}
		works[i] = w
	}
	return t.push(ctx, works...)
}

// Chart pushes the tree's chart, which runs the images that were pushed by their
// digests. Repeated, it sends nothing again.
func (t Target) Chart(ctx context.Context, runs []Pushed) (Pushed, error) {
	if err := CheckRegistry(t.Registry); err != nil {
		return Pushed{}, err
	}
	pinned := chart.Images{Registry: t.Registry, Digests: map[string]v1.Hash{}}
	for _, image := range runs {
		pinned.Digests[image.Image] = image.Digest
	}
	made, err := chart.Make(t.Source, pinned)
	if err != nil {
		return Pushed{}, err
	}
	w, err := t.work(chart.Name, chart.Folder+"/"+chart.Name+":"+chart.Tag(), made.Image)
	if err != nil {
		return Pushed{}, err
	}
	if err := w.bill(chart.Name, made.SBOM, made.Image); err != nil {
		return Pushed{}, err
	}
	pushed, err := t.push(ctx, w)
	if err != nil {
		return Pushed{}, err
	}
	return pushed[0], nil
}

// push does works, all of which may be done or none.
func (t Target) push(ctx context.Context, works ...*work) ([]Pushed, error) {
	for _, w := range works {
		if err := w.refuseReplacing(ctx); err != nil {
			return nil, err
		}
	}
	for _, w := range works {
		if err := w.content(ctx); err != nil {
			return nil, err
		}
	}
	var pushed []Pushed
	for _, w := range works { // last: a tag is the promise that the rest is there
		if err := w.put(ctx, w.tag, w.what); err != nil {
			return pushed, err
		}
		fmt.Fprintf(t.Progress, "tagged %s\n", w.tag)
		pushed = append(pushed, Pushed{Image: w.name, Ref: w.tag.Digest(w.digest.String()), Digest: w.digest})
	}
	return pushed, nil
}

// work is an image or the chart on its way.
type work struct {
	Target
	name   string
	what   tagged
	parts  []attest.Named // an image's platforms
	bills  []attest.Named // artifacts about what or its parts
	tag    name.Tag
	digest v1.Hash // of what
}

// tagged is an index of images, or a manifest.
type tagged interface {
	remote.Taggable
	partial.Describable
}

// work is on what is to be found by the reference below the registry.
func (t Target) work(called, ref string, what tagged) (*work, error) {
	tag, err := name.NewTag(t.Registry+"/"+ref, name.StrictValidation)
	if err != nil {
		return nil, fmt.Errorf("naming %s: %w", called, err)
	}
	digest, err := what.Digest()
	if err != nil {
		return nil, fmt.Errorf("reading the digest of %s: %w", called, err)
	}
	return &work{Target: t, name: called, what: what, tag: tag, digest: digest}, nil
}

// bill adds the bill of materials of one part, or of what has none.
func (w *work) bill(part string, document []byte, of partial.Describable) error {
	made, err := images.Bill(document, of)
	if err != nil {
		return err
	}
	w.bills = append(w.bills, attest.Named{Name: "SBOM of " + part, Describable: made})
	return nil
}

// refuseReplacing fails when other bytes were released under the version.
func (w *work) refuseReplacing(ctx context.Context) error {
	there, err := w.digestOf(ctx, w.tag)
	if err != nil {
		return err
	}
	if there != (v1.Hash{}) && there != w.digest {
		return fmt.Errorf("%s is released as %s, and this tree with this Go makes %s: what is released is not replaced; raise Number in release/version", w.tag, there, w.digest)
	}
	return nil
}

// content sends it by its digest, and everything that is about it.
func (w *work) content(ctx context.Context) error {
	begin := time.Now()
	fmt.Fprintf(w.Progress, "pushing %s\n", w.tag)
	if err := w.put(ctx, w.tag.Digest(w.digest.String()), w.what); err != nil {
		return err
	}
	origin := attest.Origin{
		Commit: w.Source.Commit, Version: version.Number, GoVersion: runtime.Version(), Builder: w.Builder,
		Subjects:   append([]attest.Named{{Name: w.tag.Repository.Name(), Describable: w.what}}, w.parts...),
		Byproducts: w.bills,
	}
	for _, bill := range w.bills {
		if err := w.about(ctx, bill.Describable.(v1.Image)); err != nil {
			return err
		}
	}
	if err := w.sign(ctx); err != nil {
		return err
	}
	provenance, err := w.Key.Provenance(ctx, w.what, origin)
	if err != nil {
		return err
	}
	if err := w.under(ctx, attest.AttestationTag(w.digest), provenance); err != nil {
		return err
	}
	fmt.Fprintf(w.Progress, "  content, bills of materials, signatures and provenance are there (%s)\n", time.Since(begin).Round(time.Second))
	return nil
}

// sign signs what has the tag and each part's manifest: cosign checks the
// former, podman and CRI-O the one that they run.
func (w *work) sign(ctx context.Context) error {
	subjects := []partial.Describable{w.what}
	for _, part := range w.parts {
		subjects = append(subjects, part.Describable)
	}
	for _, subject := range subjects {
		digest, err := subject.Digest()
		if err != nil {
			return fmt.Errorf("signing %s: %w", w.tag, err)
		}
		signature, err := w.Key.Signature(ctx, subject, w.tag)
		if err != nil {
			return err
		}
		if err := w.under(ctx, attest.SignatureTag(digest), signature); err != nil {
			return err
		}
	}
	return nil
}

// about sends an artifact, which is found through what it refers to.
func (w *work) about(ctx context.Context, artifact v1.Image) error {
	digest, err := artifact.Digest()
	if err != nil {
		return fmt.Errorf("reading the digest of what is about %s: %w", w.tag, err)
	}
	return w.put(ctx, w.tag.Digest(digest.String()), artifact)
}

// under sends an artifact that is found by a tag as well. When others have added
// signatures to ours under that tag, theirs stay.
func (w *work) under(ctx context.Context, tag string, artifact v1.Image) error {
	ref := w.tag.Repository.Tag(tag)
	if there, err := remote.Image(ref, w.options(ctx)...); err == nil {
		has, err := contains(there, artifact)
		if err != nil {
			return fmt.Errorf("reading %s: %w", ref, err)
		}
		if has {
			return nil
		}
	} else if !missing(err) {
		return fmt.Errorf("asking the registry for %s: %w", ref, err)
	}
	return w.put(ctx, ref, artifact)
}

// contains reports whether the manifest has all documents of the other.
func contains(manifest, other v1.Image) (bool, error) {
	has, err := manifest.Manifest()
	if err != nil {
		return false, err
	}
	wanted, err := other.Manifest()
	if err != nil {
		return false, err
	}
	for _, document := range wanted.Layers {
		same := func(d v1.Descriptor) bool { return reflect.DeepEqual(d, document) }
		if !slices.ContainsFunc(has.Layers, same) {
			return false, nil
		}
	}
	return true, nil
}

func (w *work) put(ctx context.Context, ref name.Reference, what remote.Taggable) error {
	if err := remote.Push(ref, what, w.options(ctx)...); err != nil {
		return fmt.Errorf("pushing %s (the same command completes what is missing): %w", ref, err)
	}
	return nil
}
