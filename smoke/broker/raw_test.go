package broker_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// patience bounds every wait for the broker. Nothing waits that long when all is
// well.
const patience = 30 * time.Second

// rawClient speaks the protocol itself: a client library refuses on its own what
// an attacker would send.
//
// A broker that hangs up may reset the connection: then a write fails, and an
// error that was sent before is lost. Both are frames that say closed.
type rawClient struct {
	t      *testing.T
	conn   net.Conn
	reader *bufio.Reader
	info   string // what the broker said first
}

// frame is what the server sent: an error, a message with its subject, or the end.
type frame struct {
	err, subject, content string
	closed                bool
}

// refuses reports whether the frame is a refusal in these words, or the end of a
// connection, which may have taken the words with it.
func (f frame) refuses(words string) bool {
	return f.closed || strings.Contains(strings.ToLower(f.err), strings.ToLower(words))
}

// proof is the login of a client, given the nonce that it has to sign.
type proof func(nonce string) map[string]any

func password(as v1alpha1.Credentials) proof {
	return func(string) map[string]any { return map[string]any{"user": as.User, "pass": as.Password} }
}

// openRaw connects and reads the broker's first line.
func openRaw(t *testing.T, url string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &rawClient{t: t, conn: conn, reader: bufio.NewReader(conn)}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if c.info, err = c.reader.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return c
}

// login sends the proof and whatever follows in the same breath.
func (c *rawClient) login(p proof, more string) {
	c.t.Helper()
	var info struct{ Nonce string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(c.info, "INFO ")), &info); err != nil {
		c.t.Fatal(err)
	}
	options := p(info.Nonce)
	options["headers"], options["no_responders"], options["verbose"], options["pedantic"] = true, true, false, false
	login, err := json.Marshal(options)
	if err != nil {
		c.t.Fatal(err)
	}
	c.send("CONNECT " + string(login) + "\r\n" + more)
}

func dialRaw(t *testing.T, url string, p proof) *rawClient {
	t.Helper()
	c := openRaw(t, url)
	c.login(p, "")
	if frames := c.roundTrip(); len(frames) > 0 {
		t.Fatalf("logging in: %+v", frames)
	}
	return c
}

// send writes. That the broker has hung up, the next read tells.
func (c *rawClient) send(protocol string) {
	if err := c.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.conn.Write([]byte(protocol)); errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("the broker does not read: %v", err)
	}
}

// roundTrip returns what came before the answer to a PING: with it, the server
// has judged all that was sent before. It ends with the connection, too.
func (c *rawClient) roundTrip() (frames []frame) {
	c.send("PING\r\n")
	for {
		f, pong := c.next()
		if pong {
			return frames
		}
		frames = append(frames, f)
		if f.closed {
			return frames
		}
	}
}

// rest returns all until the broker hangs up.
func (c *rawClient) rest() (frames []frame) {
	for {
		f, _ := c.next()
		frames = append(frames, f)
		if f.closed {
			return frames
		}
	}
}

// next reads one frame.
func (c *rawClient) next() (f frame, pong bool) {
	if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	for {
		line, err := c.reader.ReadString('\n')
		if err != nil {
			return c.ended(err), false
		}
		fields := strings.Fields(line)
		if len(fields) == 0 {
			return frame{err: "an empty line"}, false
		}
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
			if _, err := io.ReadFull(c.reader, content); err != nil {
				return c.ended(err), false
			}
			return frame{subject: fields[1], content: string(content[:size])}, false
		}
		// INFO or PING: of no interest
	}
}

func (c *rawClient) ended(err error) frame {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("the broker says nothing: %v", err)
	}
	return frame{closed: true}
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
