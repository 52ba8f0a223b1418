package guide_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/openbao/openbao/api/v2"
)

// bao plays OpenBao's command: as much of it as the guide uses, with the meaning
// that its documentation gives it, and an error for anything else. A test's
// binary that is called "bao" runs it.
func bao(args []string) error {
	config := api.DefaultConfig()
	if config.Error != nil {
		return config.Error
	}
	client, err := api.NewClient(config) // address and token are in the environment
	if err != nil {
		return err
	}
	c := &command{client: client, flags: map[string]string{}}
	for _, arg := range args {
		if flag, isFlag := strings.CutPrefix(arg, "-"); isFlag && flag != "" {
			name, value, _ := strings.Cut(flag, "=")
			c.flags[name] = value
		} else {
			c.words = append(c.words, arg)
		}
	}
	for verb, run := range map[string]func(*command) error{
		"secrets enable": (*command).enableEngine, "auth enable": (*command).enableMethod, "policy write": (*command).writePolicy,
		"write": (*command).write, "read": (*command).read, "token create": (*command).createToken,
		"kv put": (*command).put, "kv get": (*command).get, "kv metadata delete": (*command).forget,
	} {
		if rest, found := strings.CutPrefix(strings.Join(c.words, " ")+" ", verb+" "); found {
			c.words = strings.Fields(rest)
			if err := run(c); err != nil {
				return err
			}
			if len(c.flags) > 0 {
				return fmt.Errorf("%s: flags %v are unknown here", verb, c.flags)
			}
			return nil
		}
	}
	return fmt.Errorf("unknown command %q", args)
}

// command is one call. Flags are taken out as they are used.
type command struct {
	client *api.Client
	words  []string
	flags  map[string]string
}

func (c *command) flag(name string) string {
	value := c.flags[name]
	delete(c.flags, name)
	return value
}

// last is the word after the first n, and must be the last one.
func (c *command) last(n int) (string, error) {
	if len(c.words) != n+1 {
		return "", fmt.Errorf("want %d words, have %q", n+1, c.words)
	}
	return c.words[n], nil
}

func (c *command) enableEngine() error {
	kind, err := c.last(0)
	if err != nil {
		return err
	}
	return c.client.Sys().Mount(c.flag("path"), &api.MountInput{Type: kind, Options: map[string]string{"version": c.flag("version")}})
}

func (c *command) enableMethod() error {
	kind, err := c.last(0)
	if err != nil {
		return err
	}
	return c.client.Sys().EnableAuthWithOptions(c.flag("path"), &api.EnableAuthOptions{Type: kind})
}

func (c *command) writePolicy() error {
	if from, err := c.last(1); err != nil || from != "-" {
		return fmt.Errorf("want a name and -, have %q", c.words)
	}
	rules, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	return c.client.Sys().PutPolicy(c.words[0], string(rules))
}

// data are pairs of KEY=VALUE, where @FILE is what a file holds, or - for an
// object on standard input.
func (c *command) data() (map[string]any, error) {
	data := map[string]any{}
	for _, word := range c.words[1:] {
		if word == "-" {
			return data, json.NewDecoder(os.Stdin).Decode(&data)
		}
		key, value, isPair := strings.Cut(word, "=")
		if !isPair {
			return nil, fmt.Errorf("%q is no pair", word)
		}
		if file, named := strings.CutPrefix(value, "@"); named {
			content, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			value = string(content)
		}
		data[key] = value
	}
	return data, nil
}

func (c *command) write() error {
	data, err := c.data()
	if err != nil {
		return err
	}
	answer, err := c.client.Logical().Write(c.words[0], data)
	if err != nil {
		return err
	}
	return c.show(answer)
}

func (c *command) read() error {
	path, err := c.last(0)
	if err != nil {
		return err
	}
	answer, err := c.client.Logical().Read(path)
	if err != nil {
		return err
	}
	return c.show(answer)
}

// show prints the field that is asked for; the rest is for people.
func (c *command) show(answer *api.Secret) error {
	field := c.flag("field")
	if field == "" {
		return nil
	}
	if answer == nil {
		return errors.New("the answer is empty")
	}
	fields := answer.Data
	if answer.Auth != nil {
		fields = map[string]any{"token": answer.Auth.ClientToken, "token_policies": answer.Auth.TokenPolicies}
	}
	value, there := fields[field]
	if !there {
		return fmt.Errorf("field %q not present", field)
	}
	fmt.Println(value)
	return nil
}

func (c *command) createToken() error {
	created, err := c.client.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{c.flag("policy")}, TTL: c.flag("ttl")})
	if err != nil {
		return err
	}
	return c.show(created)
}

func (c *command) put() error {
	data, err := c.data()
	if err != nil {
		return err
	}
	_, err = c.client.Logical().Write(c.flag("mount")+"/data/"+c.words[0], map[string]any{"data": data})
	return err
}

func (c *command) get() error {
	path, err := c.last(0)
	if err != nil {
		return err
	}
	answer, err := c.client.Logical().Read(c.flag("mount") + "/data/" + path)
	if err != nil {
		return err
	}
	if answer == nil {
		return fmt.Errorf("no value found at %s", path)
	}
	data, _ := answer.Data["data"].(map[string]any)
	return c.show(&api.Secret{Data: data})
}

func (c *command) forget() error {
	path, err := c.last(0)
	if err != nil {
		return err
	}
	_, err = c.client.Logical().Delete(c.flag("mount") + "/metadata/" + path)
	return err
}
