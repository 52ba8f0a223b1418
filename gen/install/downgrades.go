package install

import (
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// downgradePolicy is the name of the policy and its binding, which are the whole
// cluster's, as the definitions are.
const downgradePolicy = "fleet-downgrades"

// downgrades has the API server refuse a definition that lacks fields of the one in
// its place: it would drop what resources hold there at their next write. It stays
// when the installation is removed, as long as the definitions do.
func (b builder) downgrades() []any {
	if !b.v.CRDs.Enabled {
		return nil
	}
	meta := b.shared("definitions")
	meta.Name, meta.Annotations = downgradePolicy, Keep()
	fail, equivalent, anywhere := admissionv1.Fail, admissionv1.Equivalent, admissionv1.AllScopes
	var names []string
	for _, definition := range definitions() {
		names = append(names, definition.(*apiextensionsv1.CustomResourceDefinition).Name)
	}
	// What the API server would fill in is written out: Argo CD compares lists as a whole.
	return []any{
		&admissionv1.ValidatingAdmissionPolicy{
			TypeMeta: admissionType("ValidatingAdmissionPolicy"), ObjectMeta: meta,
			Spec: admissionv1.ValidatingAdmissionPolicySpec{
				FailurePolicy: &fail,
				MatchConstraints: &admissionv1.MatchResources{
					MatchPolicy: &equivalent, NamespaceSelector: &metav1.LabelSelector{}, ObjectSelector: &metav1.LabelSelector{},
					ResourceRules: []admissionv1.NamedRuleWithOperations{{
						ResourceNames: names,
						RuleWithOperations: admissionv1.RuleWithOperations{
							Operations: []admissionv1.OperationType{admissionv1.Update},
							Rule: admissionv1.Rule{
								APIGroups: []string{apiextensionsv1.GroupName}, APIVersions: []string{"v1"},
								Resources: []string{"customresourcedefinitions"}, Scope: &anywhere,
							},
						},
					}},
				},
				Variables: []admissionv1.Variable{
					{Name: "lost", Expression: lostFields(definitionsDepth())},
					{Name: "allowed", Expression: fmt.Sprintf(`has(object.metadata.annotations) && %[1]q in object.metadata.annotations && object.metadata.annotations[%[1]q] == "true"`, v1alpha1.AnnotationAllowDowngrade)},
				},
				Validations: []admissionv1.Validation{{
					Expression: `variables.lost == "" || variables.allowed`,
					Message:    "this definition lacks fields that resources may hold",
					MessageExpression: fmt.Sprintf(`"this definition lacks fields of the installed one, and what resources hold there would be lost: " + variables.lost`+
						` + ". Keep the newer definitions (crds.enabled=false), or lose it: kubectl annotate crd " + object.metadata.name + " %s=true"`, v1alpha1.AnnotationAllowDowngrade),
				}},
			},
		},
		&admissionv1.ValidatingAdmissionPolicyBinding{
			TypeMeta: admissionType("ValidatingAdmissionPolicyBinding"), ObjectMeta: meta,
			Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
				PolicyName: downgradePolicy, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
			},
		},
	}
}

func admissionType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: kind}
}

// lostFields is an expression for the paths of the fields, in each version of a
// definition, that the new one lacks: "" for none. A version that the new one lacks
// is the API server's to refuse. CEL has no recursion, so it goes this deep.
func lostFields(depth int) string {
	const schema = ".schema.openAPIV3Schema"
	return `oldObject.spec.versions.map(old, object.spec.versions.filter(new, new.name == old.name).map(new, ` +
		lost(depth, "old"+schema, "new"+schema, "") + `).join(", ")).filter(text, text != "").join(", ")`
}

// lost is an expression for the fields that schema b lacks and schema a has; path is
// an expression for what is before their names.
func lost(depth int, a, b, path string) string {
	name := fmt.Sprintf("f%d", depth)
	whole := path + name
	below := `""`
	if depth > 1 {
		inA, inB := fmt.Sprintf("a%d", depth), fmt.Sprintf("b%d", depth)
		below = bind(inA, element(a+".properties["+name+"]"), bind(inB, element(b+".properties["+name+"]"), lost(depth-1, inA, inB, whole+` + "." + `)))
	}
	return fmt.Sprintf(`(has(%[1]s.properties) ? %[1]s.properties : {}).map(%[3]s, has(%[2]s.properties) && %[3]s in %[2]s.properties ? %[4]s : %[5]s).filter(text, text != "").join(", ")`,
		a, b, name, below, whole)
}

// element is an expression for what an array or a map has, or the schema itself.
func element(schema string) string {
	return bind("s", schema, "has(s.items) ? s.items : has(s.additionalProperties) ? s.additionalProperties : s")
}

// bind names a value for an expression, as CEL has no let.
func bind(name, value, expression string) string {
	return fmt.Sprintf("[%s].map(%s, %s)[0]", value, name, expression)
}

// definitionsDepth is how many fields are below each other in the definitions.
func definitionsDepth() (depth int) {
	for _, definition := range crds.All() {
		for _, version := range definition.Spec.Versions {
			depth = max(depth, fieldsDepth(*version.Schema.OpenAPIV3Schema))
		}
	}
	return depth
}

func fieldsDepth(schema apiextensionsv1.JSONSchemaProps) (depth int) {
	if schema.Items != nil {
		return fieldsDepth(*schema.Items.Schema)
	}
	if schema.AdditionalProperties != nil {
		return fieldsDepth(*schema.AdditionalProperties.Schema)
	}
	for _, field := range schema.Properties {
		depth = max(depth, 1+fieldsDepth(field))
	}
	return depth
}
