package broker_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// rawClient speaks the protocol itself: a client library refuses on its own what
// an attacker would send.
type rawClient struct {
	t      *testing.T
	conn   net.Conn
	reader *bufio.Reader
}

// frame is what the server sent: an error, or a message with its subject.
type frame struct{ err, subject, content string }

func dialRaw(t *testing.T, b anyBroker, as v1alpha1.Credentials) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.URL(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &rawClient{t: t, conn: conn, reader: bufio.NewReader(conn)}
	if _, err := c.reader.ReadString('\n'); err != nil { // INFO
		t.Fatal(err)
	}
	login, err := json.Marshal(map[string]any{"user": as.User, "pass": as.Password, "headers": true, "no_responders": true})
	if err != nil {
		t.Fatal(err)
	}
	c.send("CONNECT " + string(login) + "\r\n")
	if frames := c.roundTrip(); len(frames) > 0 {
		t.Fatalf("logging in as %q: %+v", as.User, frames)
	}
	return c
}

func (c *rawClient) send(protocol string) {
	if _, err := c.conn.Write([]byte(protocol)); err != nil {
		c.t.Fatal(err)
	}
}

// roundTrip returns what came before the answer to a PING: with it, the server
// has judged all that was sent before.
func (c *rawClient) roundTrip() (frames []frame) {
	c.send("PING\r\n")
	for {
		f, pong := c.next(5 * time.Second)
		if pong {
			return frames
		}
		frames = append(frames, f)
	}
}

// next reads one frame. A connection that was closed is an error frame.
func (c *rawClient) next(timeout time.Duration) (f frame, pong bool) {
	if err := c.conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		c.t.Fatal(err)
	}
	line, err := c.reader.ReadString('\n')
	if err != nil {
		c.t.Fatalf("reading from the broker: %v", err)
	}
	fields := strings.Fields(line)
	switch fields[0] {
	case "PONG":
		return frame{}, true
	case "-ERR":
		return frame{err: strings.TrimSpace(line)}, false
	case "MSG", "HMSG":
		size, err := strconv.Atoi(fields[len(fields)-1])
		if err != nil {
			c.t.Fatal(err)
		}
		content := make([]byte, size+2)
		for n := 0; n < len(content); {
			m, err := c.reader.Read(content[n:])
			if err != nil {
				c.t.Fatal(err)
			}
			n += m
		}
		return frame{subject: fields[1], content: string(content[:size])}, false
	}
	return c.next(timeout) // INFO, PING
}

// pub is a publication with an optional reply subject and optional headers of
// the form "Key: value".
func pub(subject, reply, body string, headers ...string) string {
	if reply != "" {
		reply += " "
	}
	if len(headers) == 0 {
		return fmt.Sprintf("PUB %s %s%d\r\n%s\r\n", subject, reply, len(body), body)
	}
	head := "NATS/1.0\r\n" + strings.Join(headers, "\r\n") + "\r\n\r\n"
	return fmt.Sprintf("HPUB %s %s%d %d\r\n%s%s\r\n", subject, reply, len(head), len(head)+len(body), head, body)
}

// sub is a subscription, with "subject queue" in a queue group.
func sub(subject string) string { return "SUB " + subject + " 1\r\n" }
