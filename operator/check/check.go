// Package check tells whether an installation works, as `helm test` asks: from
// inside the cluster, with no credentials and no rights. It changes nothing.
package check

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// Installation is what there is to ask. What is "" is not asked.
type Installation struct {
	// Operator and Callout are URLs at their Services. A Service passes on to pods
	// alone that are ready, which operator and callout are while they are connected
	// to the broker and find it fit: so any answer says that one is.
	Operator, Callout string
	// Broker is a host and a port at which connections may begin with TLS's handshake.
	Broker string
	// CAFile has the authority of the broker's certificate.
	CAFile string
	// Tell hears of each part that works, and of each that does not yet.
	Tell func(text string)
}

const (
	// answer is how long a part may take to answer.
	answer = 10 * time.Second
	// pause between two tries.
	pause = time.Second
)

// Run asks each part until it works, or fails with why it does not when ctx ends.
func (i Installation) Run(ctx context.Context) error {
	for _, part := range []struct {
		what, address string
		ask           func(context.Context, string) error
	}{
		{"operator", i.Operator, ready}, {"callout", i.Callout, ready}, {"broker", i.Broker, i.stranger},
	} {
		if part.address == "" {
			continue
		}
		if err := i.eventually(ctx, func() error { return part.ask(ctx, part.address) }); err != nil {
			return fmt.Errorf("the %s does not work: %w", part.what, err)
		}
		i.Tell("the " + part.what + " works, at " + part.address)
	}
	return nil
}

func (i Installation) eventually(ctx context.Context, try func() error) error {
	told := ""
	for {
		err := try()
		if err == nil {
			return nil
		}
		if text := err.Error(); text != told && ctx.Err() == nil {
			told = text
			i.Tell("not yet: " + text)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// ready asks a program by its Service.
func ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("no pod of it is ready: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

// refusal is what a broker says to whom it, or its callout, does not know.
const refusal = "Authorization Violation"

// stranger tries to log in to the broker as nobody whom it knows: it must show a
// certificate that is in order, and refuse.
func (i Installation) stranger(ctx context.Context, broker string) error {
	authority, err := os.ReadFile(i.CAFile)
	if err != nil {
		return err
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(authority) {
		return errors.New(i.CAFile + " holds no certificate in PEM")
	}
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12}}
	conn, err := dialer.DialContext(ctx, "tcp", broker)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	return refused(conn)
}

// refused logs in with a name that nobody has, in the words of the protocol: a
// client would need more than the two lines that are of interest.
func refused(conn net.Conn) error {
	const login = `CONNECT {"verbose":false,"pedantic":false,"name":"helm test","user":"helm-test","pass":"nobody","protocol":1}` + "\r\nPING\r\n"
	lines := bufio.NewScanner(conn)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "INFO ") {
		return fmt.Errorf("it is no NATS server, it begins with %q: %w", lines.Text(), why(lines))
	}
	if _, err := io.WriteString(conn, login); err != nil {
		return err
	}
	for lines.Scan() {
		switch said := lines.Text(); {
		case strings.Contains(said, refusal):
			return nil
		case strings.HasPrefix(said, "PONG"):
			return errors.New("it lets a stranger in")
		case strings.HasPrefix(said, "-ERR"):
			return fmt.Errorf("it says %s to a stranger", said)
		}
	}
	return fmt.Errorf("it hung up on a stranger: %w", why(lines))
}

// why a connection has no more lines.
func why(lines *bufio.Scanner) error {
	if err := lines.Err(); err != nil {
		return err
	}
	return io.EOF
}
