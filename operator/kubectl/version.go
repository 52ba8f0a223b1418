package kubectl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// part is one part of the fleet, as far as its version goes.
type part struct {
	Component string `json:"component"`
	Version   string `json:"version"`
	// Devices that have it; of agents alone.
	Devices int `json:"devices,omitempty"`
	// Note is what a person has to look into; "" for nothing.
	Note string `json:"note,omitempty"`
}

// parts is what the cluster tells of its versions.
type parts struct {
	// operator is "" when it does not tell.
	operator string
	// definitions that are installed.
	definitions []*apiextensionsv1.CustomResourceDefinition
	// agents are the devices by the version of their agent, "" for those that have
	// not told it.
	agents map[string]int
}

func newVersion(s *session) *cobra.Command {
	var namespace string
	var clientOnly bool
	output := &format{allowed: []string{formatJSON, formatYAML}}
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of this program, the operator, the definitions and the agents",
		Long: `Show the versions of this program, the operator, the custom resource definitions
and the agents side by side, and which are out of step with the operator.

The operator tells its version in the ConfigMap fleet-public of its namespace.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if clientOnly {
				fmt.Fprintln(s.Out, "kubectl-fleet", s.version)
				return nil
			}
			found, err := s.parts(cmd.Context(), namespace)
			if err != nil {
				return err
			}
			rows := compare(s.version, found)
			if !output.isTable() {
				return output.printValue(s.Out, rows)
			}
			table := &metav1.Table{ColumnDefinitions: columns(4, "Component", "Version", "Devices", "Note")}
			for _, p := range rows {
				table.Rows = append(table.Rows, metav1.TableRow{Cells: []any{p.Component, p.Version, count(p.Devices), p.Note}})
			}
			return output.printTable(s.Out, table)
		},
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "this program's version alone; asks no cluster")
	cmd.Flags().StringVar(&namespace, "fleet-namespace", fleetNamespace(), "namespace of the operator")
	output.addTo(cmd)
	return cmd
}

// parts asks the cluster.
func (s *session) parts(ctx context.Context, namespace string) (parts, error) {
	told, err := s.readPublished(ctx, namespace)
	if err != nil {
		return parts{}, err
	}
	p := parts{operator: told.version, agents: map[string]int{}}
	cluster, err := s.cluster()
	if err != nil {
		return p, err
	}
	if p.definitions, err = cluster.definitions(ctx); err != nil {
		return p, err
	}
	devices, err := cluster.devices(ctx, "")
	if err != nil && !apierrors.IsNotFound(err) {
		return p, fmt.Errorf("listing devices: %w", err)
	}
	if err == nil {
		for _, d := range devices.Items {
			version := ""
			if d.Spec.Inventory != nil {
				version = d.Spec.Inventory.AgentVersion
			}
			p.agents[version]++
		}
	}
	return p, nil
}

// definitions are those of the fleet that the cluster has.
func (c *cluster) definitions(ctx context.Context) (all []*apiextensionsv1.CustomResourceDefinition, err error) {
	for _, known := range crds.All() {
		data, err := c.rest.Get().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/" + known.Name).Do(ctx).Raw()
		if apierrors.IsNotFound(err) {
			continue
		}
		definition := &apiextensionsv1.CustomResourceDefinition{}
		if err := errors.Join(explain(err), json.Unmarshal(data, definition)); err != nil {
			return nil, fmt.Errorf("reading the definition %s: %w", known.Name, err)
		}
		all = append(all, definition)
	}
	return all, nil
}

// compare puts the versions side by side. What the others are held against is the
// operator's version, and this program's where that is not known.
func compare(client string, p parts) []part {
	reference := p.operator
	if reference == "" {
		reference = client
	}
	note := func(version string) string {
		if version != reference {
			return "out of step with " + reference
		}
		return ""
	}
	rows := []part{
		{Component: "kubectl-fleet", Version: client, Note: note(client)},
		{Component: "fleet-operator", Version: p.operator},
	}
	if p.operator == "" {
		rows[1].Version, rows[1].Note = unknown, "it publishes nothing there: publish.configMap of its configuration, or --fleet-namespace"
	}
	for _, known := range crds.All() {
		row := part{Component: "definition " + known.Spec.Names.Plural, Version: none, Note: "not installed"}
		for _, found := range p.definitions {
			if found.Name == known.Name {
				row.Version = found.Annotations[v1alpha1.AnnotationVersion]
				row.Note = note(row.Version)
				if !crds.Intact(found) {
					row.Note = "its schema is not the one of that version: somebody has changed it"
				}
				if row.Version == "" {
					row.Version = unknown
				}
			}
		}
		rows = append(rows, row)
	}
	for _, version := range slices.Sorted(maps.Keys(p.agents)) {
		row := part{Component: "fleet-agent", Version: version, Devices: p.agents[version], Note: note(version)}
		if version == "" {
			row.Version, row.Note = unknown, "not told yet"
		}
		rows = append(rows, row)
	}
	return rows
}

// count is "" where there is nothing to count.
func count(devices int) string {
	if devices == 0 {
		return ""
	}
	return strconv.Itoa(devices)
}
