package vm

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// bannerTime is how long the machine may take to say that it speaks ssh. qemu takes
	// a connection long before there is anybody in the machine to take it.
	bannerTime = 20 * time.Second
	// loginTime is how long a login may take on a busy host.
	loginTime = 2 * time.Minute
)

// login opens a connection as root.
func (m *Machine) login(ctx context.Context) (*ssh.Client, error) {
	key, err := os.ReadFile(m.image.key())
	if err != nil {
		return nil, fmt.Errorf("reading the key of root: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", m.image.key(), err)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(m.sshPort))
	conn, err := (&net.Dialer{Timeout: bannerTime}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	heard := &listener{Conn: conn, in: bufio.NewReader(conn)}
	if err := heard.await(); err != nil {
		conn.Close()
		return nil, err
	}
	c, channels, requests, err := ssh.NewClientConn(heard, address, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // on loopback, to a process of ours
	})
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("logging in: %w", err)
	}
	return ssh.NewClient(c, channels, requests), nil
}

// listener is a connection of which the first word has been heard.
type listener struct {
	net.Conn
	in *bufio.Reader
}

func (l *listener) Read(to []byte) (int, error) { return l.in.Read(to) }

// await hears it, and leaves it to be read.
func (l *listener) await() error {
	if err := l.SetDeadline(time.Now().Add(bannerTime)); err != nil {
		return err
	}
	if _, err := l.in.Peek(1); err != nil {
		return fmt.Errorf("nobody speaks ssh yet: %w", err)
	}
	return l.SetDeadline(time.Now().Add(loginTime))
}

// Run has root's shell do something and returns what it wrote to standard output.
func (m *Machine) Run(ctx context.Context, script string) (string, error) {
	if m.client == nil {
		return "", fmt.Errorf("%s: the machine is off", script)
	}
	session, err := m.client.NewSession()
	if err != nil {
		return "", fmt.Errorf("%s: %w", script, err)
	}
	end := func() { _ = session.Close() } // which is an error when it has ended
	defer end()
	defer context.AfterFunc(ctx, end)() // the connection may hang with the machine
	var out, problem strings.Builder
	session.Stdout, session.Stderr = &out, &problem
	if err := session.Run(script); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", script, err, strings.TrimSpace(problem.String()))
	}
	return out.String(), nil
}
