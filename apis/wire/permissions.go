package wire

import "time"

// Permissions is what one connection may do. They are allow lists: what is not
// named is refused, and there are no deny rules.
type Permissions struct {
	Publish   []string
	Subscribe []string
	// Responses is how many messages it may publish to the reply subject of a
	// message it received, within ResponseTTL; 0 for none.
	Responses   int
	ResponseTTL time.Duration
	// MaxSubscriptions bounds the open subscriptions; 0 means unbounded.
	MaxSubscriptions int
	// MaxPayload bounds one published message, in bytes; 0 means the server's.
	MaxPayload int
}

// InboxPrefix is the prefix of a device's reply subjects, its own so that no
// other device can listen.
func InboxPrefix(id DeviceID) string { return "_INBOX_" + string(id) }

// DevicePermissions is what the agent of one device may do: write its own keys,
// read its own desired state, hear its own hints, and answer commands to itself.
// It must not be called with an unchecked id.
func DevicePermissions(id DeviceID) Permissions {
	key := DeviceKey(id)
	return Permissions{
		Publish: []string{
			DeviceInfos.Subject(key),
			DeviceHeartbeats.Subject(key),
			DeviceStates.Subject(key) + ".*.*",
			DesiredState.DirectGet(key),
			DesiredState.DirectGet(key) + ".*.*",
		},
		Subscribe: []string{
			InboxPrefix(id) + ".>",
			DesiredHint(key),
			DesiredHint(key) + ".*.*",
			CommandSubjects(id),
		},
		Responses:        1,
		ResponseTTL:      CommandTimeout,
		MaxSubscriptions: 16,
		MaxPayload:       maxCommand,
	}
}

// OperatorPermissions is what the operator may do: read every bucket through a
// consumer, write and purge desired state, and purge what devices deleted.
func OperatorPermissions() Permissions {
	p := readPermissions()
	p.Publish = append(p.Publish,
		DesiredState.Subjects(),
		"$JS.API.STREAM.PURGE."+DesiredState.Stream(),
		"$JS.API.STREAM.PURGE."+DeviceInfos.Stream(),
		"$JS.API.STREAM.PURGE."+DeviceStates.Stream(),
		"$JS.API.STREAM.PURGE."+DeviceHeartbeats.Stream(),
	)
	return p
}

// AdminPermissions is what a person who looks at the fleet may do: read every
// bucket, and send the commands that change nothing.
func AdminPermissions() Permissions {
	p := readPermissions()
	for _, verb := range Verbs() {
		p.Publish = append(p.Publish, "device-commands.*."+string(verb))
	}
	return p
}

// readPermissions is enough for `nats kv ls`, `get` and `watch`.
func readPermissions() Permissions {
	p := Permissions{
		Publish:   []string{"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST"},
		Subscribe: []string{"_INBOX.>"},
	}
	for _, b := range Buckets() {
		s := b.Stream()
		p.Publish = append(p.Publish,
			"$JS.API.STREAM.INFO."+s,
			"$JS.API.STREAM.MSG.GET."+s,
			"$JS.API.DIRECT.GET."+s,
			"$JS.API.DIRECT.GET."+s+".>",
			"$JS.API.CONSUMER.CREATE."+s+".>",
			"$JS.API.CONSUMER.INFO."+s+".*",
			"$JS.API.CONSUMER.DELETE."+s+".*",
			"$JS.API.CONSUMER.MSG.NEXT."+s+".*",
			"$JS.FC."+s+".>",
		)
	}
	return p
}
