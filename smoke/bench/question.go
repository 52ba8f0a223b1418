package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// The protocol of the broker's auth callout.
const (
	questionSubject  = "$SYS.REQ.USER.AUTH"
	questionAudience = "nats-authorization-request"
	questionXKey     = "Nats-Server-Xkey"
)

// loginTimeout is how long a login may take, as at the broker.
const loginTimeout = 10 * time.Second

// question is what the broker asks the callout about one login, encrypted.
type question struct {
	device wire.DeviceID
	user   string // the key that the answer is to be about
	data   []byte
}

// asker asks the callout in the broker's stead, over a broker that is muted:
// questions can be made before the clock runs, so that it counts what they cost
// the callout and the way there and back.
type asker struct {
	nc           *nats.Conn
	server, xkey nkeys.KeyPair
	id, xpublic  string
	callout      string // the callout's public xkey
}

func newAsker(p *broker.Process) (*asker, error) {
	a := &asker{}
	var err error
	if a.server, err = nkeys.CreateServer(); err != nil {
		return nil, err
	}
	if a.id, err = a.server.PublicKey(); err != nil {
		return nil, err
	}
	if a.xkey, err = nkeys.CreateCurveKeys(); err != nil {
		return nil, err
	}
	if a.xpublic, err = a.xkey.PublicKey(); err != nil {
		return nil, err
	}
	seed, err := os.ReadFile(p.Callout().XKeyFile)
	if err != nil {
		return nil, err
	}
	callout, err := nkeys.FromCurveSeed(seed)
	if err != nil {
		return nil, err
	}
	if a.callout, err = callout.PublicKey(); err != nil {
		return nil, err
	}
	login, err := nats.NkeyOptionFromSeed(p.Callout().Credentials.SeedFile)
	if err != nil {
		return nil, err
	}
	a.nc, err = nats.Connect(p.URL(), login, nats.NoReconnect())
	return a, err
}

// questions are n, each about another token: the first of device 0, and so on,
// anew after the last of so many devices.
func (a *asker) questions(s *site, n, devices int) ([]question, error) {
	all := make([]question, n)
	return all, parallel(n, func(i int) error {
		token, err := s.token(i%devices, i)
		if err != nil {
			return err
		}
		all[i], err = a.question(deviceID(i%devices), token)
		return err
	})
}

func (a *asker) question(device wire.DeviceID, token string) (question, error) {
	user, err := nkeys.CreateUser()
	if err != nil {
		return question{}, err
	}
	q := question{device: device}
	if q.user, err = user.PublicKey(); err != nil {
		return question{}, err
	}
	claims := jwt.NewAuthorizationRequestClaims("callout")
	claims.Audience, claims.UserNkey = questionAudience, q.user
	claims.Server = jwt.ServerID{Name: "bench", Host: "127.0.0.1", ID: a.id, XKey: a.xpublic}
	claims.ClientInformation = jwt.ClientInformation{Host: "127.0.0.1", ID: 1, Name: "fleet-agent " + string(device), Kind: "Client", Type: "nats"}
	claims.ConnectOptions = jwt.ConnectOptions{Token: token, Name: "fleet-agent " + string(device), Lang: "go", Version: nats.Version, Protocol: 1}
	clear, err := claims.Encode(a.server)
	if err != nil {
		return question{}, fmt.Errorf("encoding a question: %w", err)
	}
	q.data, err = a.xkey.Seal([]byte(clear), a.callout)
	return q, err
}

// ask returns the answer to one question.
func (a *asker) ask(ctx context.Context, q question) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	msg := nats.NewMsg(questionSubject)
	msg.Header.Set(questionXKey, a.xpublic)
	msg.Data = q.data
	answer, err := a.nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return nil, fmt.Errorf("asking about %s: %w", q.device, err)
	}
	return answer.Data, nil
}

// check reads an answer as the broker does: it must let the device in, as itself.
func (a *asker) check(q question, answer []byte) error {
	clear, err := a.xkey.Open(answer, a.callout)
	if err != nil {
		return fmt.Errorf("decrypting the answer about %s: %w", q.device, err)
	}
	response, err := jwt.DecodeAuthorizationResponseClaims(string(clear))
	if err != nil {
		return fmt.Errorf("reading the answer about %s: %w", q.device, err)
	}
	if response.Error != "" {
		return fmt.Errorf("%s is not let in: %s", q.device, response.Error)
	}
	user, err := jwt.DecodeUserClaims(response.Jwt)
	if err != nil {
		return fmt.Errorf("reading the user of %s: %w", q.device, err)
	}
	if user.Subject != q.user || !slices.Equal(user.Pub.Allow, jwt.StringList(wire.DevicePermissions(q.device).Publish)) {
		return fmt.Errorf("the answer about %s is about another device", q.device)
	}
	return nil
}

// rush asks all questions, so many at a time that nobody ever waits for work, and
// returns how long that took. Answers are checked after that.
func (a *asker) rush(ctx context.Context, questions []question) (time.Duration, error) {
	answers := make([][]byte, len(questions))
	begin := time.Now()
	err := inFlight(len(questions), 64, func(i int) (err error) {
		answers[i], err = a.ask(ctx, questions[i])
		return err
	})
	took := time.Since(begin)
	if err != nil {
		return 0, err
	}
	return took, parallel(len(questions), func(i int) error { return a.check(questions[i], answers[i]) })
}

// pace asks at a rate, whether answers come or not, with gaps as they are between
// clients that know nothing of each other. It returns the time of each decision,
// from when its question was due; one that is not answered took loginTimeout.
func (a *asker) pace(ctx context.Context, questions []question, perSecond float64) ([]time.Duration, error) {
	random := rand.New(rand.NewPCG(3, 3))
	took := make([]time.Duration, len(questions))
	answers := make([][]byte, len(questions))
	failures := make([]error, len(questions))
	var work sync.WaitGroup
	next := time.Now()
	for i, q := range questions {
		next = next.Add(time.Duration(random.ExpFloat64() / perSecond * float64(time.Second)))
		due := next
		time.Sleep(time.Until(due))
		work.Go(func() {
			answers[i], failures[i] = a.ask(ctx, q)
			took[i] = time.Since(due)
		})
	}
	work.Wait()
	return took, parallel(len(questions), func(i int) error {
		if errors.Is(failures[i], context.DeadlineExceeded) && ctx.Err() == nil {
			return nil // it shows in took
		}
		if failures[i] != nil {
			return failures[i]
		}
		return a.check(questions[i], answers[i])
	})
}

// percentile is the time that p of 100 do not exceed.
func percentile(times []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[(len(sorted)*p+99)/100-1]
}
