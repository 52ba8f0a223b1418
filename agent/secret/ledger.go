package secret

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/agent/backoff"
	"github.com/nationtech/harmony-fleet/agent/podman"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// retryFirst and retryMost bound the wait after a failure, which doubles from
	// one to the other.
	retryFirst, retryMost = time.Second, time.Minute
	// firstLook is within which time a secret that is in use is looked at after a
	// start, so that a site with power again does not ask for all of them at once.
	firstLook = 30 * time.Second
	// patience is how many refusals in a row are none yet: the operator lets a
	// device read what a Deployment names about when the device hears of it.
	patience = 5
)

// ledger is what is known of each secret that is wanted: when to read it, which
// version podman holds, and what is wrong with it. It is a plain value with no
// clock and no I/O, and it never has the value of a secret longer than a call.
type ledger struct {
	// barred is why this device can read none; nil when it can.
	barred *reconcile.Failure
	// refresh is the time between two looks at a secret that is well.
	refresh time.Duration
	secrets map[secret.Ref]*entry
	// misses is how many times in a row OpenBao could not be asked, outage why, and
	// spared until when it is left alone.
	misses int
	outage string
	spared time.Time
}

// entry is one secret.
type entry struct {
	wanted []string // keys, in order
	// version whose values of the keys held podman has.
	version reconcile.SecretVersion
	held    []string
	// trouble with the secret, and with keys of it alone.
	trouble    *reconcile.Failure
	keyTrouble map[string]*reconcile.Failure
	refusals   int
	tries      int // failed ones in a row
	next       time.Time
}

// answer is what OpenBao says of a secret.
type answer struct {
	// refused is why it does not let this device read it; "" when it does.
	refused string
	// missing says that there is no secret, or none any more.
	missing bool
	version reconcile.SecretVersion
	values  map[string]any
}

// moment is a time, and how much of a wait is left to chance, from 0 to 1.
type moment struct {
	now    time.Time
	chance float64
}

// adoption is a version to take over, once podman holds the values.
type adoption struct {
	ref     secret.Ref
	version reconcile.SecretVersion
	values  map[string]string // by key
}

// restored is a ledger of the secrets that were in use. They are of no account
// until they are wanted.
func restored(refresh time.Duration, inUse []store.SecretInUse) *ledger {
	l := &ledger{refresh: refresh, secrets: map[secret.Ref]*entry{}}
	for _, one := range inUse {
		l.secrets[one.Ref] = &entry{version: one.Version, held: slices.Sorted(slices.Values(one.Keys))}
	}
	return l
}

// want makes these all that is wanted, and forgets the rest.
func (l *ledger) want(keys []reconcile.SecretKey, at moment) {
	wanted := map[secret.Ref][]string{}
	for _, key := range keys {
		wanted[key.Ref] = append(wanted[key.Ref], key.Key)
	}
	maps.DeleteFunc(l.secrets, func(ref secret.Ref, _ *entry) bool { return wanted[ref] == nil })
	for ref, names := range wanted {
		slices.Sort(names)
		names = slices.Compact(names)
		e := l.secrets[ref]
		if e == nil {
			e = &entry{}
			l.secrets[ref] = e
		}
		complete := !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(e.held, name) })
		switch {
		case slices.Equal(e.wanted, names):
		case complete && e.wanted == nil: // of an agent that ran before
			e.next = at.now.Add(time.Duration(at.chance * float64(min(firstLook, l.refresh))))
		default:
			e.next = at.now
		}
		e.wanted = names
		e.held = slices.DeleteFunc(slices.Clone(e.held), func(name string) bool { return !slices.Contains(names, name) })
	}
}

// due are the secrets to read now, and when to look again; zero means that only a
// change matters.
func (l *ledger) due(now time.Time) (refs []secret.Ref, wake time.Time) {
	if l.barred != nil {
		return nil, time.Time{}
	}
	for ref, e := range l.secrets {
		at := e.next
		if l.spared.After(at) {
			at = l.spared
		}
		switch {
		case !at.After(now):
			refs = append(refs, ref)
		case wake.IsZero() || at.Before(wake):
			wake = at
		}
	}
	slices.SortFunc(refs, func(a, b secret.Ref) int { return strings.Compare(a.String(), b.String()) })
	return refs, wake
}

// take takes in what OpenBao says, and returns what is to be taken over, if
// anything.
func (l *ledger) take(ref secret.Ref, a answer, at moment) (adoption, bool) {
	l.misses, l.outage, l.spared = 0, "", time.Time{}
	e, wanted := l.secrets[ref]
	if !wanted {
		return adoption{}, false
	}
	e.trouble, e.keyTrouble = nil, map[string]*reconcile.Failure{}
	switch {
	case a.refused != "":
		e.refusals++
		e.trouble = &reconcile.Failure{Reason: reconcile.ReasonSecretRefused, Message: a.refused}
		if e.refusals < patience {
			e.trouble.Reason = reconcile.ReasonSecretUnavailable
		}
	case a.missing:
		e.trouble = &reconcile.Failure{Reason: reconcile.ReasonSecretMissing, Message: "OpenBao has no such secret; write it to " + ref.Path()}
	}
	if e.trouble != nil {
		l.again(e, at)
		return adoption{}, false
	}
	e.refusals = 0
	take := adoption{ref: ref, version: a.version, values: map[string]string{}}
	broken := false // what is in use would lose a key
	for _, key := range e.wanted {
		value, trouble := usable(a.values, key)
		if trouble == nil {
			take.values[key] = value
			continue
		}
		e.keyTrouble[key] = trouble
		broken = broken || slices.Contains(e.held, key)
	}
	if len(e.keyTrouble) > 0 {
		l.again(e, at)
	} else {
		e.next = at.now.Add(time.Duration((0.9 + 0.2*at.chance) * float64(l.refresh)))
	}
	return take, !broken && len(take.values) > 0
}

// usable is the value of the key, or why it cannot be given to a container. It
// never says what the value is.
func usable(values map[string]any, key string) (string, *reconcile.Failure) {
	value, there := values[key]
	text, isText := value.(string)
	invalid := func(why string) (string, *reconcile.Failure) {
		return "", &reconcile.Failure{Reason: reconcile.ReasonSecretInvalid, Message: why}
	}
	switch {
	case !there:
		return "", &reconcile.Failure{Reason: reconcile.ReasonSecretMissing, Message: "the secret in OpenBao has no such key"}
	case !isText:
		return invalid("the value in OpenBao is no text; write it in quotes")
	case text == "" || len(text) > podman.MaxSecret:
		return invalid(fmt.Sprintf("the value has %d bytes, and podman holds 1 to %d", len(text), podman.MaxSecret))
	case strings.ContainsRune(text, 0):
		return invalid("the value has a NUL byte, which no variable can have; write it in base64")
	}
	return text, nil
}

// adopt takes a version over whose values podman holds now.
func (l *ledger) adopt(a adoption) {
	if e, wanted := l.secrets[a.ref]; wanted {
		e.version = a.version
		if len(e.keyTrouble) == 0 {
			e.tries = 0
		}
		e.held = slices.DeleteFunc(slices.Sorted(maps.Keys(a.values)), func(key string) bool { return !slices.Contains(e.wanted, key) })
	}
}

// notHeld takes in that the values did not get to where they belong.
func (l *ledger) notHeld(ref secret.Ref, why string, at moment) {
	if e, wanted := l.secrets[ref]; wanted {
		e.trouble = &reconcile.Failure{Reason: reconcile.ReasonSecretUnavailable, Message: why}
		l.again(e, at)
	}
}

// lost takes in that OpenBao could not be asked.
func (l *ledger) lost(why string, at moment) {
	l.misses++
	l.outage, l.spared = why, at.now.Add(wait(l.misses, at.chance))
}

// again sets when a secret that failed is read again.
func (l *ledger) again(e *entry, at moment) {
	e.tries++
	e.next = at.now.Add(min(wait(e.tries, at.chance), l.refresh))
}

// wait is the one before the next try after so many failures, half of it left to
// chance.
func wait(failures int, chance float64) time.Duration {
	most := backoff.Doubled(failures-1, retryFirst, retryMost)
	return most/2 + time.Duration(chance*float64(most/2))
}

// standing is how each value that is wanted stands.
func (l *ledger) standing() map[reconcile.SecretKey]reconcile.Secret {
	all := map[reconcile.SecretKey]reconcile.Secret{}
	for ref, e := range l.secrets {
		for _, key := range e.wanted {
			var s reconcile.Secret
			if slices.Contains(e.held, key) {
				s.Version = e.version
			}
			if trouble := l.troubleOf(e, key); trouble != nil {
				text := fmt.Sprintf("secret %q, key %q: %s", ref.Name, key, trouble.Message)
				if s.Version != "" {
					text += "; what runs goes on with the value that it has"
				}
				s.Err = &reconcile.Failure{Reason: trouble.Reason, Message: text}
			}
			all[reconcile.SecretKey{Ref: ref, Key: key}] = s
		}
	}
	return all
}

// troubleOf is what is wrong with a key. That OpenBao cannot be asked is told of
// what it has not answered for.
func (l *ledger) troubleOf(e *entry, key string) *reconcile.Failure {
	switch {
	case l.barred != nil:
		return l.barred
	case e.keyTrouble[key] != nil:
		return e.keyTrouble[key]
	case e.trouble != nil && (l.outage == "" || e.trouble.Reason != reconcile.ReasonSecretUnavailable):
		return e.trouble
	case l.outage != "":
		return &reconcile.Failure{Reason: reconcile.ReasonSecretUnavailable, Message: l.outage}
	}
	return nil
}

// inUse is what the disk shall keep, in order.
func (l *ledger) inUse() []store.SecretInUse {
	var all []store.SecretInUse
	for ref, e := range l.secrets {
		if e.version != "" && len(e.held) > 0 {
			all = append(all, store.SecretInUse{Ref: ref, Version: e.version, Keys: e.held})
		}
	}
	slices.SortFunc(all, func(a, b store.SecretInUse) int { return strings.Compare(a.Ref.String(), b.Ref.String()) })
	return all
}

// with is inUse after an adoption.
func (l *ledger) with(a adoption) []store.SecretInUse {
	after := *l
	after.secrets = maps.Clone(l.secrets)
	if e, wanted := l.secrets[a.ref]; wanted {
		changed := *e
		after.secrets[a.ref] = &changed
		after.adopt(a)
	}
	return after.inUse()
}

// names are those of the values that podman holds for what is wanted.
func (l *ledger) names(device wire.DeviceID) []string {
	var names []string
	for ref, e := range l.secrets {
		for _, key := range e.held {
			names = append(names, reconcile.SecretName(device, reconcile.SecretKey{Ref: ref, Key: key}, e.version))
		}
	}
	return names
}
