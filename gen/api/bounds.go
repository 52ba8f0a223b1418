package api

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// Bounds of metav1.LabelSelector, which carries none of its own. Without them
// the API server cannot estimate what the CEL rules on it cost.
const (
	maxSelectorTerms  = 32
	maxSelectorValues = 64
	maxLabelKey       = 317 // prefix of 253, '/', name of 63
	maxLabelValue     = 63
)

// bound adds bounds to the types in the schema that are not ours.
func bound(schema *apiextensionsv1.JSONSchemaProps) {
	spec, isSpec := schema.Properties["spec"]
	if !isSpec {
		return
	}
	selector, found := spec.Properties["targetSelector"]
	if !found {
		return
	}
	labels := selector.Properties["matchLabels"]
	labels.MaxProperties = new(int64(maxSelectorTerms))
	labels.AdditionalProperties.Schema.MaxLength = new(int64(maxLabelValue))
	selector.Properties["matchLabels"] = labels

	expressions := selector.Properties["matchExpressions"]
	expressions.MaxItems = new(int64(maxSelectorTerms))
	requirement := expressions.Items.Schema
	requirement.Properties["key"] = limited(requirement.Properties["key"], maxLabelKey)
	requirement.Properties["operator"] = limited(requirement.Properties["operator"], len("DoesNotExist"))
	values := requirement.Properties["values"]
	values.MaxItems = new(int64(maxSelectorValues))
	values.Items.Schema.MaxLength = new(int64(maxLabelValue))
	requirement.Properties["values"] = values
	selector.Properties["matchExpressions"] = expressions
	spec.Properties["targetSelector"] = selector
}

func limited(schema apiextensionsv1.JSONSchemaProps, maxLength int) apiextensionsv1.JSONSchemaProps {
	schema.MaxLength = new(int64(maxLength))
	return schema
}
