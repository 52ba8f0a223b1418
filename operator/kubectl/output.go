package kubectl

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/yaml"
)

// format is the value of --output; "" is a table.
type format struct {
	value   string
	allowed []string
}

// String, Set and Type make format a flag that refuses what it does not know.
func (f *format) String() string { return f.value }

func (f *format) Set(value string) error {
	if !slices.Contains(f.allowed, value) {
		return fmt.Errorf("want %s", strings.Join(f.allowed, ", "))
	}
	f.value = value
	return nil
}

func (f *format) Type() string { return "format" }

func (f *format) addTo(cmd *cobra.Command) {
	cmd.Flags().VarP(f, "output", "o", "output format: "+strings.Join(f.allowed, ", "))
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(f.allowed, cobra.ShellCompDirectiveNoFileComp)))
}

func (f *format) isTable() bool { return f.value == "" || f.value == formatWide }

const (
	formatJSON = "json"
	formatYAML = "yaml"
	formatWide = "wide"
	formatName = "name"
)

// printValue writes the value as JSON or YAML.
func (f *format) printValue(w io.Writer, value any) error {
	if f.value == formatYAML {
		return printYAML(w, value)
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "    ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("printing JSON: %w", err)
	}
	return nil
}

func printYAML(w io.Writer, value any) error {
	text, err := yaml.Marshal(value)
	if err != nil {
		return fmt.Errorf("printing YAML: %w", err)
	}
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("printing YAML: %w", err)
	}
	return nil
}

func (f *format) printTable(w io.Writer, table *metav1.Table) error {
	options := printers.PrintOptions{Wide: f.value == formatWide}
	if err := printers.NewTablePrinter(options).PrintObj(table, w); err != nil {
		return fmt.Errorf("printing a table: %w", err)
	}
	return nil
}

// columns makes column headings; those from wide on are for -o wide.
func columns(wide int, names ...string) []metav1.TableColumnDefinition {
	definitions := make([]metav1.TableColumnDefinition, len(names))
	for i, name := range names {
		definitions[i] = metav1.TableColumnDefinition{Name: name, Type: "string"}
		if i >= wide {
			definitions[i].Priority = 1
		}
	}
	return definitions
}

// unknown is what a cell says of what nobody reported.
const unknown, none = "<unknown>", "<none>"

// age is the time since t as kubectl prints ages.
func age(t, now time.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(max(0, now.Sub(t)))
}

// must is for what cannot fail unless a command is put together wrongly, which
// every test of it would see.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
