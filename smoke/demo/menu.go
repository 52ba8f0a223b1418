package demo

import (
	"fmt"
	"strings"
	"text/template"
)

// menu is what a person is handed: every command works as it is once the first
// has been run.
var menu = template.Must(template.New("menu").Parse(`
The fleet is up, and nothing is applied. In another terminal:

  . {{.Env}}

Look at the resources (leave this running)
  kubectl get fdep -A -o wide --watch
  kubectl get fdev -o wide
  kubectl fleet devices -o wide

Apply with kubectl fleet, then change the version
  kubectl fleet apply --name hello --image {{.Image}}:v1 --target-device device-a --port {{.Port}}:8080
  curl http://127.0.0.1:{{.Port}}/
  kubectl fleet apply --name hello --image {{.Image}}:v2 --target-device device-a --port {{.Port}}:8080

Apply with kubectl (both devices are this machine, so that they cannot publish the same port)
  kubectl fleet apply --name both --image {{.Image}}:v1 --selector 'group in (a,b),site=x' --print
  kubectl fleet apply --name both --image {{.Image}}:v1 --selector 'group in (a,b),site=x' --print | kubectl apply -f -

See how it does
  kubectl fleet status both
  kubectl fleet logs device-b both
  kubectl fleet ping device-b
  kubectl get events

Break it: the reason is in the status, and the old container runs on
  kubectl fleet apply --name hello --image {{.Image}}:no-such-version --target-device device-a --port {{.Port}}:8080
  kubectl fleet status hello

Look into the broker
  nats kv ls
  nats kv ls desired-state
  nats kv get desired-state device-a --raw
  nats kv get desired-state device-a.default.hello --raw
  nats kv watch device-state

Look at the devices
{{- range .Devices}}
  podman-{{.ID}} ps
  fleet-agent status --config {{.Config}}
{{- end}}
  curl http://$(podman-device-b inspect --latest --format '{{"{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"}}'):8080/

{{- with .Auth}}

What may this device do, and what has it been refused?
{{- range $.Devices}}
  kubectl fleet whoami {{.ID}}
{{- end}}

Try to break out: nats-device-a is nats with the login of device-a, and each of these is refused
{{- range .Breakouts}}
  {{.Shell}}   # {{.What}}
{{- end}}
  {{.Own}}   # its own it may read

Devices that the broker refuses ("broker" fails; podman too where there is none); the reason stands in the logs of fleet-callout
{{- range .Refused}}
  fleet-agent check --config {{.Config}}   # {{.Why}}
{{- end}}

Revoke device-b: it is cut off within seconds and its containers run on; then let it in again
  curl -s -H @{{.Header}} -d '{"data": {"reason": "stolen"}}' $BAO_ADDR/v1/fleet/data/revoked/device-b
  kubectl fleet ping device-b
  kubectl fleet whoami device-b
  curl -s -H @{{.Header}} -X DELETE $BAO_ADDR/v1/fleet/metadata/revoked/device-b
{{- end}}

Take it away again
  kubectl fleet apply --name hello --delete
  kubectl delete fdep both

Logs
{{- range .Logs}}
  tail -f {{.}}
{{- end}}

Ctrl-C here takes everything down.
`))

// printMenu writes the file with the variables, and the menu.
func (e *environment) printMenu() error {
	env := e.path("env")
	var exports strings.Builder
	for _, variable := range e.variables() {
		name, value, _ := strings.Cut(variable, "=")
		fmt.Fprintf(&exports, "export %s='%s'\n", name, value)
	}
	if err := write(env, []byte(exports.String()), nil); err != nil {
		return err
	}
	type choice struct{ ID, Config string }
	var devices []choice
	logs := []string{e.logFile("fleet-operator")}
	if e.auth != nil {
		for _, name := range replicas {
			logs = append(logs, e.logFile(name))
		}
	}
	for _, d := range e.devices {
		devices = append(devices, choice{string(d.id), e.agentConfig(d)})
		logs = append(logs, e.logFile(string(d.id)))
	}
	return menu.Execute(e.out, map[string]any{
		"Auth": e.authMenu(),
		"Env":  env, "Image": e.registry.Ref("hello"), "Port": e.hostPort, "Devices": devices, "Logs": append(logs, e.path("broker", "broker.log")),
	})
}

// authMenu is what the menu shows of logins; nil without Options.Auth.
func (e *environment) authMenu() map[string]any {
	if e.auth == nil {
		return nil
	}
	return map[string]any{
		"Breakouts": breakouts(), "Own": ownManifest().Shell(), "Refused": e.auth.refused, "Header": e.path("auth", "header"),
	}
}
