package kubectl

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// request is what a person says on the command line to describe a Deployment.
type request struct {
	Namespace, Name string
	// Devices by id, and Selector in the syntax of `kubectl get -l`; a device
	// must satisfy both where both are given.
	Devices  []string
	Selector string
	Image    string
	Ports    []string // host:container[/udp]
	Env      []string // NAME=value
}

// deployment is the Deployment that the request describes, with one service of
// the Deployment's name. The error names every flag that is wrong.
func (r request) deployment() (*v1alpha1.Deployment, error) {
	id, err := wire.ParseDeploymentID(r.Namespace, r.Name)
	if err != nil {
		return nil, err
	}
	selector, selectorErr := targetSelector(r.Devices, r.Selector)
	ports, portsErr := parseAll(r.Ports, parsePort)
	env, envErr := parseAll(r.Env, parseEnv)
	if r.Image == "" {
		err = errors.New("--image: missing; say which container image to run")
	}
	if err := errors.Join(selectorErr, err, portsErr, envErr); err != nil {
		return nil, err
	}
	workload := score.Score{PodmanV0: &score.PodmanV0{
		Services: []score.Service{{Name: id.Name, Image: r.Image, Ports: ports, Env: env}},
	}}
	if err := workload.Validate(); err != nil {
		return nil, err
	}
	if _, err := score.Encode(workload); err != nil {
		return nil, err
	}
	return &v1alpha1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: id.Namespace, Name: id.Name},
		Spec:       v1alpha1.DeploymentSpec{TargetSelector: selector, Score: workload},
	}, nil
}

// targetSelector combines a list of devices and a selector; nothing at all is
// refused, as an empty selector is.
func targetSelector(devices []string, text string) (metav1.LabelSelector, error) {
	selector, err := parseSelector(text)
	if err != nil {
		return selector, fmt.Errorf("--selector: %w", err)
	}
	for _, device := range devices {
		if _, err := wire.ParseDeviceID(device); err != nil {
			return selector, fmt.Errorf("--target-device: %w", err)
		}
	}
	if len(devices) > 0 {
		selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: v1alpha1.LabelDeviceID, Operator: metav1.LabelSelectorOpIn, Values: devices,
		})
	}
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		return selector, errors.New("--target-device or --selector: one is needed; every device is --selector " + v1alpha1.LabelDeviceID)
	}
	return selector, nil
}

// expressions are the operators of kubectl's selectors that matchExpressions
// spells otherwise or the same.
var expressions = map[selection.Operator]metav1.LabelSelectorOperator{
	selection.In:           metav1.LabelSelectorOpIn,
	selection.NotIn:        metav1.LabelSelectorOpNotIn,
	selection.NotEquals:    metav1.LabelSelectorOpNotIn,
	selection.Exists:       metav1.LabelSelectorOpExists,
	selection.DoesNotExist: metav1.LabelSelectorOpDoesNotExist,
}

// parseSelector reads what `kubectl get -l` takes.
func parseSelector(text string) (metav1.LabelSelector, error) {
	selector := metav1.LabelSelector{MatchLabels: map[string]string{}}
	requirements, err := labels.ParseToRequirements(text)
	if err != nil {
		return selector, fmt.Errorf("%q: %w", text, err)
	}
	for _, r := range requirements {
		if operator, known := expressions[r.Operator()]; known {
			selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{
				Key: r.Key(), Operator: operator, Values: r.ValuesUnsorted(),
			})
			continue
		}
		if r.Operator() != selection.Equals && r.Operator() != selection.DoubleEquals {
			return selector, fmt.Errorf("%q: a Deployment's selector cannot compare with %q", text, r.Operator())
		}
		if _, twice := selector.MatchLabels[r.Key()]; twice {
			// As matchLabels the last one would win, where the text says "none".
			return selector, fmt.Errorf("%q: %s cannot have two values at once; write '%s in (…)'", text, r.Key(), r.Key())
		}
		selector.MatchLabels[r.Key()] = r.ValuesUnsorted()[0]
	}
	return selector, nil
}

func parseAll[T any](texts []string, parse func(string) (T, error)) ([]T, error) {
	var all []T
	var errs []error
	for _, text := range texts {
		value, err := parse(text)
		all, errs = append(all, value), append(errs, err)
	}
	return all, errors.Join(errs...)
}

// parsePort reads host:container, with /udp or /tcp behind it.
func parsePort(text string) (score.Port, error) {
	wrong := fmt.Errorf("--port %q: want HOST:CONTAINER or HOST:CONTAINER/udp, such as 80:8080", text)
	numbers, protocol, _ := strings.Cut(text, "/")
	host, container, found := strings.Cut(numbers, ":")
	if !found {
		return score.Port{}, wrong
	}
	hostPort, hostErr := strconv.ParseUint(host, 10, 16)
	containerPort, containerErr := strconv.ParseUint(container, 10, 16)
	if hostErr != nil || containerErr != nil {
		return score.Port{}, wrong
	}
	port := score.Port{HostPort: int32(hostPort), ContainerPort: int32(containerPort)}
	switch strings.ToLower(protocol) {
	case "", "tcp": // the default needs no word
	case "udp":
		port.Protocol = score.UDP
	default:
		return score.Port{}, wrong
	}
	return port, nil
}

func parseEnv(text string) (score.EnvVar, error) {
	name, value, found := strings.Cut(text, "=")
	if !found {
		return score.EnvVar{}, fmt.Errorf("--env %q: want NAME=VALUE", text)
	}
	return score.EnvVar{Name: name, Value: value}, nil
}

// intent is the Deployment without what the cluster fills in: what a person
// applies, and what server-side apply may own.
func intent(d *v1alpha1.Deployment) (map[string]any, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(d)
	if err != nil {
		return nil, fmt.Errorf("converting deployment %q: %w", d.Name, err)
	}
	unstructured.RemoveNestedField(content, "status")
	unstructured.RemoveNestedField(content, "metadata", "creationTimestamp")
	return content, nil
}
