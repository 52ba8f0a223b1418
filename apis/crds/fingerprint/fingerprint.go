// Package fingerprint says by a short hash which schema a CustomResourceDefinition
// has, so that the generator can write it down and the operator can find out whether
// it still is so. It reads no annotation and no cluster.
package fingerprint

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// Of is the first 16 hex digits of the SHA-256 of the spec's JSON, without what the
// API server fills in. It fails for a spec with raw JSON that is none.
func Of(spec apiextensionsv1.CustomResourceDefinitionSpec) (string, error) {
	if spec.Conversion != nil && spec.Conversion.Strategy == apiextensionsv1.NoneConverter {
		spec.Conversion = nil
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return "", fmt.Errorf("encoding the spec: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8]), nil
}
