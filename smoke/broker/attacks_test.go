package broker_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// verdict is what a broker has to do with an attack.
type verdict int

const (
	refused  verdict = iota // with an error on the wire and in the log
	harmless                // it may be taken, and does nothing to others
	hint                    // the victim hears of it, which is all: hints are forgeable by design, and nothing hangs on one
)

// attack is what a device sends.
type attack struct {
	reason  string
	send    string
	verdict verdict
	// bites says that it does harm where nothing defends: TestAttacksBite tries.
	bites bool
}

// Words of the attacks, for readability.
const (
	me, them  = string(attacker), string(victim)
	inbox     = "_INBOX_" + me + ".x"
	directGet = "$JS.API.DIRECT.GET.KV_desired-state"
	wanted    = "$KV.desired-state." + them + ".default.web"
	own       = "$KV.device-state." + me + ".default.web"
	// ears of the attacker: for answers, and for what a consumer of its own would
	// deliver, which it does to an exact subscription alone.
	ears = "SUB _INBOX_" + me + ".> 2\r\nSUB _INBOX_" + me + ".d 3\r\n"
)

// table of attacks by name. The numbers of the groups are those of the threat
// model.
type table map[string]attack

func (t table) add(group string, a attack) {
	line, _, _ := strings.Cut(a.send, "\r\n")
	name := group + " " + line
	for i := 2; t[name].send != ""; i++ {
		name = fmt.Sprintf("%s %s (%d)", group, line, i)
	}
	t[name] = a
}

// request publishes to subjects that are refused, with an inbox for the answer.
func (t table) request(group, reason string, bites bool, body string, subjects ...string) {
	for _, s := range subjects {
		t.add(group, attack{reason, pub(s, inbox, body), refused, bites})
	}
}

func (t table) subscribe(group, reason string, bites bool, subjects ...string) {
	for _, s := range subjects {
		t.add(group, attack{reason, sub(s), refused, bites})
	}
}

// attacks is the whole table.
func attacks() table {
	t := table{}
	t.keys()
	t.reading()
	t.requests()
	t.deputies()
	t.headers()
	t.core()
	return t
}

const (
	bites = true
	blunt = false // does no harm to others even where nothing defends
)

func (t table) keys() {
	t.request("A1", "only the operator writes desired state", bites, "evil", wanted, "$KV.desired-state."+them, "$KV.desired-state."+me, "$KV.desired-state."+me+".default.web")
	t.request("A1", "another's keys are another's", bites, "evil", "$KV.device-state."+them+".default.web", "$KV.device-info."+them, "$KV.device-heartbeat."+them, "$KV.device-info.new-one")
	t.request("A1", "keys have one shape", blunt, "evil", "$KV.device-state."+me, "$KV.device-state."+me+".default", own+".more", "$KV.device-info."+me+".more", "$KV.other."+me)
	t.request("A1", "a key is no pattern and is never unescaped", bites, "evil", "$KV.device-state.*.default.web", "$KV.device-info.*", "$KV.device-info.>", "$KV.device-info.pi%2D4", "$KV.device-info."+me+"%00", "$KV.device-info.PI-4")
	t.request("A1", "a deletion is a write", bites, "", "$KV.desired-state."+them, "$KV.device-state."+them+".default.web")
	t.request("A19", "a key that no library would send is another's too", bites, "evil", "$KV.device-info."+me+"\x00", "$KV.device-info.\xff\xfe", "$KV.device-info.p\u0456-4", "$KV.device-state."+me+"\x00.default.web")
	// A device may litter its own keys, and only these: the server takes any bytes,
	// and who reads them has to bear it.
	for _, key := range []string{"*.*", "*.web", "default.>", ">.>", "\x00.web", "\xff\xfe.web", "DEFAULT.\xc3\xbc", "default.<b>\x1b[31m"} {
		t.add("A19", attack{"what it litters is its own", pub("$KV.device-state."+me+"."+key, inbox, "evil"), harmless, blunt})
	}
	t.request("A19", "a key without a name is none", blunt, "evil", "$KV.device-state."+me+"..web", "$KV.device-state."+me+".default.", "$KV.device-state."+me+".../..", "$KV.device-info.")
}

func (t table) reading() {
	t.subscribe("A2", "a device hears itself alone", bites, ">", "$KV.>", "fleet.>", "fleet.desired.>", "fleet.desired.*", "fleet.desired.*.*.*",
		"fleet.desired."+them, "fleet.desired."+them+".*.*", "device-commands.>", "device-commands.*.ping", "device-commands."+them+".>",
		"> group", "fleet.desired.> group", "fleet.desired."+them+" group", "fleet.heartbeat.>", "fleet.heartbeat.*", "fleet.heartbeat."+them, "$KV.device-heartbeat.>", "$KV.device-state.>", "$KV.desired-state."+them)
	t.subscribe("A2", "what would hear nothing now may do so later", blunt, "*", "$JS.API.>", "fleet.desired."+me+".>")
	const reason = "another's desired state is another's"
	t.request("A3", reason, bites, "", directGet+"."+wanted, directGet+".$KV.desired-state."+them)
	t.request("A3", reason, blunt, "", directGet+".$KV.desired-state.*", directGet+".$KV.desired-state."+me+".>", directGet+".$KV.desired-state.>", directGet+"."+own)
	t.request("A3", "states are written and not read", bites, "", "$JS.API.DIRECT.GET.KV_device-state.$KV.device-state."+them+".default.web", "$JS.API.DIRECT.GET.KV_device-info.$KV.device-info."+them)
	t.request("A3", "states are written and not read", blunt, "", "$JS.API.DIRECT.GET.KV_device-state."+own, "$JS.API.DIRECT.GET.KV_device-info.$KV.device-info."+me)
	for _, body := range []string{`{"last_by_subj":"` + wanted + `"}`, `{"seq":1}`, `{"seq":1,"next_by_subj":">"}`, `{"multi_last":[">"],"batch":100}`} {
		t.request("A3 bare "+body, "a key in the body cannot be granted", bites, body, directGet)
	}
}

func (t table) requests() {
	const names = "names of others are others'"
	t.request("A4", names, bites, `{"subjects_filter":">"}`, "$JS.API.STREAM.INFO.KV_desired-state", "$JS.API.STREAM.INFO.KV_device-state", "$JS.API.STREAM.INFO.KV_device-info")
	t.request("A4", names, bites, `{"last_by_subj":"`+wanted+`"}`, "$JS.API.STREAM.MSG.GET.KV_desired-state")
	t.request("A4", names, blunt, "", "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST")
	const none, spy = "no device has a consumer", `{"stream_name":"KV_desired-state","config":{"name":"x","deliver_subject":"_INBOX_` + me + `.d","ack_policy":"none"}}`
	create := "$JS.API.CONSUMER.CREATE.KV_desired-state"
	t.request("A5", none, bites, spy, create, create+".x")
	t.request("A5", none, bites, `{"stream_name":"KV_desired-state","config":{"durable_name":"x","deliver_subject":"_INBOX_`+me+`.d","ack_policy":"none"}}`, "$JS.API.CONSUMER.DURABLE.CREATE.KV_desired-state.x")
	t.request("A5 other filter", "the filter of the body counts", blunt, `{"stream_name":"KV_desired-state","config":{"name":"x","deliver_subject":"_INBOX_`+me+`.d","filter_subject":"`+wanted+`","ack_policy":"none"}}`, create+".x.$KV.desired-state."+me+".>")
	t.request("A5 more filters", "the filters of the body count", blunt, `{"stream_name":"KV_desired-state","config":{"name":"x","deliver_subject":"_INBOX_`+me+`.d","filter_subjects":["`+wanted+`"],"ack_policy":"none"}}`, create+".x.$KV.desired-state."+me+".>")
	t.request("A5", "the operator's consumer is the operator's", bites, `{"batch":10,"no_wait":true}`, "$JS.API.CONSUMER.MSG.NEXT.KV_desired-state."+consumer)
	t.request("A5", "the operator's consumer is the operator's", bites, `{"pause_until":"2100-01-01T00:00:00Z"}`, "$JS.API.CONSUMER.PAUSE.KV_desired-state."+consumer)
	t.request("A5", "the operator's consumer is the operator's", bites, "", "$JS.API.CONSUMER.DELETE.KV_desired-state."+consumer)
	t.request("A5", none, blunt, "{}", "$JS.API.CONSUMER.UNPIN.KV_desired-state."+consumer, "$JS.API.CONSUMER.RESET.KV_desired-state."+consumer, "$JS.API.CONSUMER.INFO.KV_desired-state."+consumer,
		"$JS.API.CONSUMER.NAMES.KV_desired-state", "$JS.API.CONSUMER.LIST.KV_desired-state", "$JS.API.CONSUMER.LEADER.STEPDOWN.KV_desired-state."+consumer)
	t.request("A7", "a consumer must not deliver in the device's stead", bites,
		`{"stream_name":"KV_device-state","config":{"name":"x","deliver_subject":"fleet.desired.`+them+`","filter_subject":"`+own+`","deliver_policy":"all","ack_policy":"none"}}`,
		"$JS.API.CONSUMER.CREATE.KV_device-state.x."+own)
	const streams = "streams are the installation's"
	t.request("A11", streams, bites, "", "$JS.API.STREAM.PURGE.KV_desired-state", "$JS.API.STREAM.DELETE.KV_device-state")
	t.request("A11", streams, bites, `{"seq":1}`, "$JS.API.STREAM.MSG.DELETE.KV_device-state")
	t.request("A11", streams, bites, `{"name":"KV_device-state","subjects":["$KV.device-state.>"],"storage":"file","max_msgs_per_subject":1,"max_bytes":1,"duplicate_window":1000000000}`, "$JS.API.STREAM.UPDATE.KV_device-state")
	t.request("A11", streams, bites, `{"deliver_subject":"fleet.desired.`+them+`","chunk_size":1024}`, "$JS.API.STREAM.SNAPSHOT.KV_desired-state")
	t.request("A11", streams, blunt, "{}", "$JS.API.STREAM.CREATE.x", "$JS.API.STREAM.RESTORE.KV_desired-state", "$JS.API.STREAM.LEADER.STEPDOWN.KV_desired-state", "$JS.API.STREAM.PEER.REMOVE.KV_desired-state",
		"$JS.API.META.LEADER.STEPDOWN", "$JS.API.META.RESCUE", "$JS.API.ACCOUNT.PURGE.FLEET", "$JS.API.SERVER.REMOVE", "$JS.API.SERVER.EVACUATE")
}

// deputies have the server write or send in the device's stead.
func (t table) deputies() {
	const reason = "the server must not write in the device's stead"
	read := directGet + ".$KV.desired-state." + me + ".default."
	for _, target := range []string{wanted, "$KV.desired-state." + them, "$KV.device-state." + them + ".default.web", "$KV.device-info." + them} {
		t.add("A6 acknowledgement", attack{reason, pub(own, target, "evil"), harmless, bites})
		t.add("A6 found", attack{reason, pub(read+"web", target, ""), harmless, bites})
		t.add("A6 missing", attack{reason, pub(read+"none", target, ""), harmless, bites})
	}
	for _, target := range []string{"$JS.API.STREAM.PURGE.KV_desired-state", "$JS.API.STREAM.DELETE.KV_desired-state", "_INBOX.staff.x", "$SYS.REQ.USER.AUTH"} {
		t.add("A6 acknowledgement", attack{reason, pub(own, target, "evil"), harmless, blunt})
		t.add("A6 found", attack{reason, pub(read+"web", target, ""), harmless, blunt})
	}
	for _, reply := range []string{"_R_.x", "_R_.x.y.z", "$JS.ACK.KV_desired-state." + consumer + ".1.1.1.1.1", "_GR_.x.y.z"} {
		t.add("A6 reserved", attack{"such replies are the server's", pub(own, reply, "evil"), refused, blunt})
	}
	for _, target := range []string{"fleet.desired." + them, "fleet.desired." + them + ".default.web", "fleet.heartbeat." + them, "device-commands." + them + ".ping", "device-commands." + them + ".logs", "_INBOX_" + them + ".guessed"} {
		const reason = "it carries no reply subject and nothing that the attacker chose, and an agent re-reads what is signed"
		t.add("A14 acknowledgement", attack{reason, pub(own, target, "evil"), hint, bites})
		t.add("A14 found", attack{reason, pub(read+"web", target, ""), hint, bites})
	}
}

func (t table) headers() {
	add := func(group, reason string, v verdict, bites bool, headers ...string) {
		t.add(group+" "+headers[0], attack{reason, pub(own, inbox, "evil", headers...), v, bites})
	}
	add("A8", "a roll-up would wipe the bucket", harmless, bites, "Nats-Rollup: all")
	add("A8", "a roll-up would wipe the bucket", harmless, blunt, "Nats-Rollup: sub")
	add("A9", "nothing uses message ids", harmless, blunt, "Nats-Msg-Id: guessed")
	for _, headers := range [][]string{{"Nats-Batch-Id: x", "Nats-Batch-Sequence: 1"}, {"Nats-TTL: 1s"}, {"Nats-Schedule: @at 2030-01-01T00:00:00Z", "Nats-Schedule-Target: " + wanted},
		{"Nats-Expected-Stream: KV_desired-state"}, {"Nats-Incr: +1"}, {"Nats-Stream-Source: x"}, {"Nats-Subject: " + wanted}, {"Nats-Request-Info: {}"}, {"KV-Operation: PURGE"}, {"Nats-Marker-Reason: Purge"}} {
		add("A10", "headers must not reach beyond the key", harmless, blunt, headers...)
	}
	add("A10", "a trace must not be written in the device's stead", refused, bites, "Nats-Trace-Dest: "+wanted)
	add("A10", "a trace must not be sent in the device's stead", refused, bites, "Nats-Trace-Dest: fleet.desired."+them)
	// A line feed in a header or a body is data; in a subject it ends the line,
	// and what follows is judged as what it is.
	add("A17", "a header has no way out of its message", harmless, blunt, "X: y\r\nPUB "+wanted+" 4\r\nevil")
	t.add("A17 body", attack{"a body has no way out of its message", pub(own, inbox, "evil\r\nPUB "+wanted+" 4\r\nevil\r\n"), harmless, blunt})
	t.add("A17 next line", attack{"a second line has no more rights than the first", pub(own, inbox, "evil") + pub(wanted, "", "evil"), refused, bites})
	t.add("A17 bare line feed", attack{"a line that ends in a bare line feed is none the less judged", "PUB " + wanted + " 4\nevil\r\n", refused, bites})
}

// core is what goes past the streams.
func (t table) core() {
	const server = "the server's own subjects are the server's"
	t.request("A12", server, blunt, "", "$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT.FLEET.CONNZ", "$SRV.PING", "$SRV.INFO.fleet-callout", "$SYS.REQ.SERVER.PING.VARZ", "$SYS.REQ.CLAIMS.UPDATE")
	t.request("A12", server, bites, `{"auth":true,"subscriptions":true,"limit":10}`, "$SYS.REQ.ACCOUNT.PING.CONNZ")
	t.subscribe("A12", server, blunt, "$SYS.>", "$SRV.>", "$JS.EVENT.>")
	t.subscribe("A13", "answers to others are others'", bites, "_INBOX.>", "_INBOX_"+them+".>")
	t.subscribe("A13", "answers to others are others'", blunt, "_INBOX_*.>", "_R_.>")
	t.request("A13", "nobody writes into an inbox", bites, "evil", "_INBOX_"+them+".x", "_INBOX.staff.x")
	t.request("A13", "nobody writes into an inbox", blunt, "evil", "_R_.x")
	t.request("A14", "only the server sends hints", bites, "evil", "fleet.desired."+them, "fleet.desired."+them+".default.web")
	t.request("A14", "only the server sends hints, also to oneself", blunt, "evil", "fleet.desired."+me)
	t.request("A14", "only the server repeats heartbeats", bites, "evil", "fleet.heartbeat."+them)
	t.request("A14", "only the server repeats heartbeats, also to oneself", blunt, "evil", "fleet.heartbeat."+me)
	// What a device hears of its own heartbeat must not let it answer to a subject of
	// its choice, as a command does.
	t.add("A6 own heartbeat", attack{"a heartbeat comes back without a reply subject", pub(own, "", "mine") + sub("fleet.heartbeat."+me) + pub("$KV.device-heartbeat."+me, "$KV.device-state."+them+".default.web", "beat") + pub("$KV.device-state."+them+".default.web", "", "evil"), refused, bites})
	t.request("A15", "acknowledgements and flow control are the operator's", blunt, "", "$JS.ACK.KV_desired-state."+consumer+".1.1.1.1.1", "$JS.ACK._.x.KV_desired-state."+consumer+".1.1.1.1.1.x", "$JS.FC.KV_desired-state.x")
	t.request("A15", "devices send no commands", bites, "evil", "device-commands."+them+".ping")
	t.request("A15", "devices send no commands, also to themselves", blunt, "evil", "device-commands."+me+".ping")
	t.request("A25", "the broker alone asks the callout", blunt, "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.e30.x", "$SYS.REQ.USER.AUTH")
	t.subscribe("A25", "the callout alone hears the broker's questions", blunt, "$SYS.REQ.USER.AUTH", "$SYS.REQ.USER.AUTH callout", "$SYS.REQ.USER.*", "$SYS.REQ.>")
}

// TestDeviceAttacks has one device attack another. What is refused must be told;
// what the victim owns must stay as it is and must not come back; and the victim
// must hear nothing that is no hint.
func TestDeviceAttacks(t *testing.T) {
	eachLogin(t, broker.Options{}, func(a *arena) {
		before := a.dump()
		all := attacks()
		for _, name := range slices.Sorted(maps.Keys(all)) {
			a.Run(name, func(t *testing.T) {
				defer func(outer *testing.T) { a.T = outer }(a.T)
				a.T = t
				a.try(all[name], before)
			})
		}
		a.write(wire.DeviceStates.Subject(them+".default.web"), secret) // the victim still can
	})
}

func (a *arena) try(tc attack, before map[string]string) {
	logged := len(a.log())
	c := a.raw(attacker)
	c.send(ears)
	c.send(tc.send)
	frames := c.roundTrip()
	a.settle()
	if diff := cmp.Diff(before, a.dump()); diff != "" {
		a.Errorf("%s: what others own has changed (-before +after):\n%s", tc.reason, diff)
	}
	if heard := a.heard(); len(heard) > 0 != (tc.verdict == hint) {
		a.Errorf("%s: the victim heard %q", tc.reason, heard)
	}
	if strings.HasPrefix(tc.send, "SUB") {
		a.live()
	}
	frames = append(frames, c.roundTrip()...)
	told := false
	for _, f := range frames {
		told = told || f.refuses("Permissions Violation")
		if strings.Contains(f.content, secret) || strings.Contains(f.content, them) {
			a.Errorf("%s: got %q", tc.reason, f.content)
		}
	}
	if told != (tc.verdict == refused) {
		a.Errorf("%s: refused = %t, got %+v", tc.reason, told, frames)
	}
	if told && tc.verdict == refused {
		a.eventually("the refusal is logged", func() bool { return strings.Contains(a.log()[logged:], "Violation") })
	}
}

// TestAttacksBite is the control of the table: where nothing defends, what is
// said to bite does harm, and is seen to. Else the other test would prove nothing.
func TestAttacksBite(t *testing.T) {
	a := control(t)
	all := attacks()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		tc := all[name]
		if !tc.bites {
			continue
		}
		a.Run(name, func(t *testing.T) {
			defer func(outer *testing.T) { a.T = outer }(a.T)
			a.T = t
			a.restore()
			before := a.dump()
			c := a.raw(attacker)
			c.send(ears)
			c.send(tc.send)
			frames := c.roundTrip()
			if strings.HasPrefix(tc.send, "SUB") {
				a.live()
			}
			defer func() {
				if t.Failed() {
					t.Logf("got %+v", frames)
				}
			}()
			a.eventually("it does harm", func() bool {
				frames = append(frames, c.roundTrip()...)
				got := slices.ContainsFunc(frames, func(f frame) bool {
					return strings.Contains(f.content, secret) || strings.Contains(f.content, them)
				})
				return got || len(a.heard()) > 0 || !cmp.Equal(before, a.dump())
			})
		})
	}
}
