// Package secret gets the secrets that this device's Deployments name: it reads
// them in OpenBao with the device's own login, hands the values to podman, and
// looks again and again for newer versions. Which versions are in use it keeps on
// the disk, so that containers with secrets need no network to start.
//
// It never keeps a value: one is in memory from OpenBao's answer until podman has
// it, and in no log, error or file. Which containers are replaced for a newer
// version agent/reconcile decides.
package secret

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/nationtech/harmony-fleet/agent/podman"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// troubleInterval is the time before podman or the disk, which failed, is tried
// again.
const troubleInterval = 10 * time.Second

// Options of a Keeper; all are needed but Tokens, without which there are no
// secrets.
type Options struct {
	Device wire.DeviceID
	Config v1alpha1.SecretsSection
	// Tokens to log in with; nil when the device's credentials have none.
	Tokens Tokens
	Podman *podman.Client
	Store  *store.Store
	Log    logr.Logger
}

// Keeper has podman hold the secrets that are wanted. Its methods are safe for
// concurrent use, and Run runs once.
type Keeper struct {
	options Options
	reader  reader
	wake    chan struct{}
	changed chan struct{}

	mu     sync.Mutex
	ledger *ledger // with mu
	// used are the names of podman's secrets that containers have; nil until that
	// is known. With mu.
	used map[string]bool

	// The rest is Run's alone.
	saved   []store.SecretInUse
	kept    map[string]bool // what the last sweep left; nil when one is due
	told    map[string]string
	trouble map[reconcile.SecretKey]string
}

// New makes a keeper that knows which secrets were in use. A damaged file is
// logged: OpenBao tells it all again, and what runs goes on meanwhile.
func New(o Options) (*Keeper, error) {
	inUse, err := o.Store.LoadSecrets()
	if errors.Is(err, store.ErrDamaged) {
		o.Log.Error(err, "starting without knowing which secrets are in use; what runs goes on")
	} else if err != nil {
		return nil, err
	}
	k := &Keeper{
		options: o, reader: reader{config: o.Config, tokens: o.Tokens},
		wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		ledger: restored(time.Duration(o.Config.RefreshInterval), inUse), saved: inUse, told: map[string]string{},
	}
	if why := barred(o); why != "" {
		k.ledger.barred = &reconcile.Failure{Reason: reconcile.ReasonSecretsNotConfigured, Message: why}
	}
	return k, nil
}

// barred is why the device can read no secret, whatever OpenBao says; "" when it
// can.
func barred(o Options) string {
	switch {
	case o.Config.Address == "":
		return "this device does not know where secrets are kept; write [openbao] address into the agent's configuration"
	case o.Tokens == nil:
		return fmt.Sprintf("secrets need credentials with a provider's tokens; write [credentials] type %q or %q into the agent's configuration",
			v1alpha1.CredentialZitadelJWT, v1alpha1.CredentialClientCredentials)
	}
	return ""
}

// Want makes these all the values that are wanted; the others are forgotten.
func (k *Keeper) Want(keys []reconcile.SecretKey) {
	k.mu.Lock()
	k.ledger.want(keys, at())
	k.mu.Unlock()
	poke(k.wake)
}

// Used tells the names of all of podman's secrets that containers of this device
// have. Those that are neither used nor wanted are removed.
func (k *Keeper) Used(names []string) {
	used := setOf(names)
	k.mu.Lock()
	news := k.used == nil || !maps.Equal(k.used, used)
	k.used = used
	k.mu.Unlock()
	if news {
		poke(k.wake)
	}
}

// Secrets are all values that are wanted, as they stand.
func (k *Keeper) Secrets() map[reconcile.SecretKey]reconcile.Secret {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ledger.standing()
}

// Changed is sent to when Secrets may have changed.
func (k *Keeper) Changed() <-chan struct{} { return k.changed }

// Problem is why OpenBao cannot be asked now; "" when it can, or need not.
func (k *Keeper) Problem() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ledger.outage
}

// Run works until ctx ends. What podman holds stays.
func (k *Keeper) Run(ctx context.Context) {
	defer k.reader.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		case <-timer.C:
		}
		timer.Reset(k.turn(ctx))
	}
}

// turn reads what is due and cleans up, and returns how long nothing needs to be
// done.
func (k *Keeper) turn(ctx context.Context) time.Duration {
	k.mu.Lock()
	refs, _ := k.ledger.due(time.Now())
	k.mu.Unlock()
	if len(refs) > 0 {
		k.refresh(ctx, refs)
		poke(k.changed)
	}
	k.mu.Lock()
	_, wake := k.ledger.due(time.Now())
	inUse := k.ledger.inUse()
	k.mu.Unlock()
	rest := time.Hour
	if !wake.IsZero() {
		rest = max(0, time.Until(wake))
	}
	// What is in use no more is forgotten on the disk before podman forgets it.
	if err := k.save(inUse); err != nil || !k.sweep(ctx) {
		rest = min(rest, troubleInterval)
	}
	return rest
}

// refresh reads secrets and takes over what is new.
func (k *Keeper) refresh(ctx context.Context, refs []secret.Ref) {
	held, err := k.options.Podman.Secrets(ctx, k.options.Device)
	if k.tell("podman", err, "podman's secrets cannot be listed") != nil {
		for _, ref := range refs {
			k.note(func() { k.ledger.notHeld(ref, "podman cannot be asked which secrets it holds: "+err.Error(), at()) })
		}
		return
	}
	for _, ref := range refs {
		a, err := k.reader.read(ctx, ref)
		if ctx.Err() != nil {
			return // it tells nothing of OpenBao
		}
		if k.tell("openbao", err, "OpenBao cannot be asked, going on with the secrets at hand") != nil {
			k.note(func() { k.ledger.lost(err.Error(), at()) })
			return
		}
		var take adoption
		var news bool
		k.note(func() { take, news = k.ledger.take(ref, a, at()) })
		if !news {
			continue
		}
		if err := k.adopt(ctx, take, held); err != nil && ctx.Err() == nil {
			k.note(func() { k.ledger.notHeld(ref, err.Error(), at()) })
		}
	}
}

// note changes the ledger, and logs what is wrong with a secret when that is news.
func (k *Keeper) note(change func()) {
	k.mu.Lock()
	change()
	standing := k.ledger.standing()
	k.mu.Unlock()
	trouble := map[reconcile.SecretKey]string{}
	for key, s := range standing {
		log := k.options.Log.WithValues("deployment", key.Deployment.String(), "secret", key.Name, "key", key.Key)
		before, was := k.trouble[key]
		switch {
		case s.Err != nil && s.Err.Reason != reconcile.ReasonSecretUnavailable:
			if trouble[key] = s.Err.Message; before != s.Err.Message {
				log.Info("a secret cannot be given to containers", "reason", s.Err.Reason, "error", s.Err.Message)
			}
		case was:
			log.Info("the secret is well again")
		}
	}
	k.trouble = trouble
}

// adopt has podman hold the values that it does not hold yet, and the disk which
// version that is, before containers are made with it.
func (k *Keeper) adopt(ctx context.Context, take adoption, held []string) error {
	for key, value := range take.values {
		name := reconcile.SecretName(k.options.Device, reconcile.SecretKey{Ref: take.ref, Key: key}, take.version)
		if slices.Contains(held, name) {
			continue
		}
		k.kept = nil // it is swept away again unless it is taken over
		if err := k.options.Podman.PutSecret(ctx, name, []byte(value)); err != nil {
			return fmt.Errorf("podman does not take the value: %w", err)
		}
	}
	k.mu.Lock()
	after := k.ledger.with(take)
	k.mu.Unlock()
	if err := k.save(after); err != nil {
		return errors.New("which version is in use cannot be kept on the disk; see the agent's log")
	}
	k.note(func() { k.ledger.adopt(take) })
	k.options.Log.V(1).Info("secret is in use", "secret", take.ref.String(), "version", string(take.version))
	return nil
}

// save keeps on the disk what is in use, unless it does already.
func (k *Keeper) save(inUse []store.SecretInUse) error {
	if slices.EqualFunc(inUse, k.saved, func(a, b store.SecretInUse) bool {
		return a.Ref == b.Ref && a.Version == b.Version && slices.Equal(a.Keys, b.Keys)
	}) {
		return nil
	}
	err := k.options.Store.SaveSecrets(inUse)
	if err == nil {
		k.saved = inUse
	}
	return k.tell("disk", err, "which secrets are in use cannot be kept")
}

// sweep has podman forget what no container has and nobody wants, as soon as it is
// known what containers have. It is false when it is to be tried again.
func (k *Keeper) sweep(ctx context.Context) bool {
	k.mu.Lock()
	known, keep := k.used != nil, setOf(k.ledger.names(k.options.Device))
	maps.Copy(keep, k.used)
	k.mu.Unlock()
	if !known || k.kept != nil && maps.Equal(keep, k.kept) {
		return true
	}
	held, err := k.options.Podman.Secrets(ctx, k.options.Device)
	for _, name := range held {
		if !keep[name] && err == nil {
			err = k.options.Podman.RemoveSecret(ctx, name)
		}
	}
	if err == nil {
		k.kept = keep
	} else if ctx.Err() != nil {
		return true
	}
	return k.tell("sweep", err, "secrets that nobody needs cannot be removed from podman") == nil
}

// tell logs a problem with something once, and its end, and returns it.
func (k *Keeper) tell(what string, problem error, message string) error {
	text := ""
	if problem != nil {
		text = problem.Error()
	}
	switch before := k.told[what]; text {
	case before:
	case "":
		delete(k.told, what)
		k.options.Log.Info("well again: "+what, "before", before)
	default:
		k.told[what] = text
		k.options.Log.Error(problem, message)
	}
	return problem
}

// at is now.
func at() moment { return moment{now: time.Now(), chance: rand.Float64()} }

func setOf(names []string) map[string]bool {
	set := map[string]bool{}
	for _, name := range names {
		set[name] = true
	}
	return set
}

// poke wakes who waits, and never blocks.
func poke(channel chan<- struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}
