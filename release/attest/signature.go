package attest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/nationtech/harmony-fleet/release/artifact"
)

// The media types and annotations of cosign.
const (
	SignatureType = "application/vnd.dev.cosign.artifact.sig.v1+json"
	payloadType   = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureKey  = "dev.cosignproject.cosign/signature"
)

// SignatureTag is where cosign and podman look for the signatures of the image
// with this digest.
func SignatureTag(digest v1.Hash) string { return digest.Algorithm + "-" + digest.Hex + ".sig" }

// Signature is the signed claim that the subject is what the reference names. The
// tag is part of the claim: whoever pulls by tag gets what was released under it.
func (k *Key) Signature(ctx context.Context, subject partial.Describable, ref name.Tag) (v1.Image, error) {
	digest, err := subject.Digest()
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", ref, err)
	}
	claim, err := json.Marshal(payload.Cosign{Image: ref.Context().Digest(digest.String()), ClaimedIdentity: ref.Name()})
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", ref, err)
	}
	signature, err := k.Sign(ctx, claim)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", ref, err)
	}
	return artifact.Artifact{Type: SignatureType, Blobs: []artifact.Blob{{
		MediaType: payloadType, Content: claim,
		Annotations: map[string]string{signatureKey: base64.StdEncoding.EncodeToString(signature)},
	}}}.About(subject)
}
