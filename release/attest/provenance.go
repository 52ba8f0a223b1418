package attest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	provenance "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/nationtech/harmony-fleet/release/artifact"
	"github.com/nationtech/harmony-fleet/release/source"
)

// The media types of in-toto, and SLSA's name for provenance.
const (
	ProvenanceType = "application/vnd.in-toto.provenance+dsse"
	statementType  = "application/vnd.in-toto+json"
	envelopeType   = "application/vnd.dsse.envelope.v1+json"
	predicateType  = "https://slsa.dev/provenance/v1"
)

// buildType names the procedure of this folder's command; docs/release.md describes
// it.
const buildType = source.Repository + "/release/v1"

// AttestationTag is where cosign looks for what is attested of the image with this
// digest.
func AttestationTag(digest v1.Hash) string { return digest.Algorithm + "-" + digest.Hex + ".att" }

// Origin is what an image was built from, and by whom.
type Origin struct {
	Commit, Version, GoVersion string
	// Builder is the URI of whom one has to trust to believe it: a workflow, or a
	// person with their machine.
	Builder string
	// Subjects are what was built, and Byproducts the documents about it.
	Subjects, Byproducts []Named
}

// Named is a manifest with a name for people.
type Named struct {
	Name string
	partial.Describable
}

// Provenance is the signed statement of SLSA 1.0 about an image. It has no times:
// the same build gets the same statement.
func (k *Key) Provenance(ctx context.Context, subject partial.Describable, o Origin) (v1.Image, error) {
	statement, err := o.statement()
	if err != nil {
		return nil, fmt.Errorf("writing the provenance: %w", err)
	}
	signer, err := dsse.NewEnvelopeSigner(k)
	if err != nil {
		return nil, fmt.Errorf("signing the provenance: %w", err)
	}
	envelope, err := signer.SignPayload(ctx, statementType, statement)
	if err != nil {
		return nil, fmt.Errorf("signing the provenance: %w", err)
	}
	content, err := json.Marshal(envelope)
	if err != nil {
		return nil, fmt.Errorf("encoding the provenance: %w", err)
	}
	return artifact.Artifact{
		Type:        ProvenanceType,
		Annotations: map[string]string{"in-toto.io/predicate-type": predicateType},
		Blobs: []artifact.Blob{{
			MediaType: envelopeType, Content: content,
			// What cosign wants to see; the signature itself is in the envelope.
			Annotations: map[string]string{signatureKey: "", "predicateType": predicateType},
		}},
	}.About(subject)
}

func (o Origin) statement() ([]byte, error) {
	subjects, err := resources(o.Subjects)
	if err != nil {
		return nil, err
	}
	byproducts, err := resources(o.Byproducts)
	if err != nil {
		return nil, err
	}
	external, err := structpb.NewStruct(map[string]any{"repository": source.Repository, "version": o.Version})
	if err != nil {
		return nil, err
	}
	internal, err := structpb.NewStruct(map[string]any{"goVersion": o.GoVersion})
	if err != nil {
		return nil, err
	}
	predicate := &provenance.Provenance{
		BuildDefinition: &provenance.BuildDefinition{
			BuildType: buildType, ExternalParameters: external, InternalParameters: internal,
			ResolvedDependencies: []*intoto.ResourceDescriptor{{
				Uri: "git+" + source.Repository + "@" + o.Commit, Digest: map[string]string{string(intoto.AlgorithmGitCommit): o.Commit},
			}},
		},
		RunDetails: &provenance.RunDetails{Builder: &provenance.Builder{Id: o.Builder}, Byproducts: byproducts},
	}
	if err := predicate.Validate(); err != nil {
		return nil, err
	}
	s := &intoto.Statement{Type: intoto.StatementTypeUri, Subject: subjects, PredicateType: predicateType, Predicate: &structpb.Struct{}}
	encoded, err := encode(predicate)
	if err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(encoded, s.Predicate); err != nil {
		return nil, err
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return encode(s)
}

// encode is protojson without the spaces that it adds by chance.
func encode(m proto.Message) ([]byte, error) {
	data, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	var compact bytes.Buffer
	err = json.Compact(&compact, data)
	return compact.Bytes(), err
}

func resources(all []Named) ([]*intoto.ResourceDescriptor, error) {
	list := make([]*intoto.ResourceDescriptor, 0, len(all))
	for _, named := range all {
		digest, err := named.Digest()
		if err != nil {
			return nil, err
		}
		mediaType, err := named.MediaType()
		if err != nil {
			return nil, err
		}
		list = append(list, &intoto.ResourceDescriptor{
			Name: named.Name, MediaType: string(mediaType), Digest: map[string]string{digest.Algorithm: digest.Hex},
		})
	}
	return list, nil
}
