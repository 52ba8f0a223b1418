// Package v1alpha1 holds the configuration files of the fleet's programs as
// types, with their defaults and their validation: AgentConfig, a TOML file on
// each device, and OperatorConfig, a YAML file that a chart mounts. Reading the
// files is the programs' own business: nothing here does I/O.
package v1alpha1
