package podman

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// ErrNotFound says that no container of this device runs or ran what was asked
// for.
var ErrNotFound = errors.New("no container on this device")

// maxFrame bounds one frame of the log stream, in bytes; podman sends one per
// line, or per part of a long line.
const maxFrame = 1 << 20

// Logs is the end of the log of each asked for service, in the order of their
// names: request.Lines lines of the container that was started last, and
// wire.MaxLogBytes of JSON for all of them together. It fails with ErrNotFound.
func (c *Client) Logs(ctx context.Context, device wire.DeviceID, request wire.LogsRequest) ([]wire.ServiceLog, error) {
	containers, err := c.List(ctx, device)
	if err != nil {
		return nil, err
	}
	latest := map[string]reconcile.Container{}
	for _, container := range containers {
		id := container.Deployment
		if id.Namespace != request.Namespace || id.Name != request.Deployment || (request.Service != "" && container.Service != request.Service) {
			continue
		}
		if known, seen := latest[container.Service]; !seen || container.Started.After(known.Started) {
			latest[container.Service] = container
		}
	}
	if len(latest) == 0 {
		return nil, fmt.Errorf("%w of %s/%s %s", ErrNotFound, request.Namespace, request.Deployment, request.Service)
	}
	logs := make([]wire.ServiceLog, 0, len(latest))
	for service, container := range latest {
		lines, truncated, err := c.tail(ctx, container.ID, limits{lines: min(request.Lines, wire.MaxLogLines), bytes: wire.MaxLogBytes / len(latest)})
		if err != nil {
			return nil, err
		}
		logs = append(logs, wire.ServiceLog{Service: service, Container: container.ID, Lines: lines, Truncated: truncated})
	}
	slices.SortFunc(logs, func(a, b wire.ServiceLog) int { return strings.Compare(a.Service, b.Service) })
	return logs, nil
}

// limits of a log: lines, and bytes of them in JSON.
type limits struct{ lines, bytes int }

// tail is the end of a container's log, oldest line first, and whether the bytes
// cut lines off.
func (c *Client) tail(ctx context.Context, id string, most limits) ([]string, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r := call{
		doing: "reading the log of " + id, method: http.MethodGet, path: "/containers/%s/logs", names: []string{id}, timeout: callTimeout,
		query: url.Values{"stdout": {"true"}, "stderr": {"true"}, "tail": {strconv.Itoa(most.lines)}},
	}
	response, err := c.send(ctx, r)
	if err != nil {
		return nil, false, err
	}
	defer response.Body.Close()
	if !response.IsSuccess() {
		return nil, false, failure(r, response.Process(nil))
	}
	kept := window{most: most}
	if err := kept.fill(bufio.NewReader(response.Body)); err != nil {
		return nil, false, failure(r, err)
	}
	return kept.lines, kept.truncated, nil
}

// window keeps the last lines that fit.
type window struct {
	most      limits
	lines     []string
	bytes     int
	truncated bool
}

// fill reads podman's stream to its end: frames with a header of eight bytes,
// the last four of which tell the length.
func (w *window) fill(stream io.Reader) error {
	for {
		var header [8]byte
		if _, err := io.ReadFull(stream, header[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(header[4:])
		if size > maxFrame {
			return fmt.Errorf("a frame of %d bytes", size)
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(stream, frame); err != nil {
			return err
		}
		for line := range strings.SplitSeq(strings.TrimSuffix(string(frame), "\n"), "\n") {
			w.add(line)
		}
	}
}

func (w *window) add(line string) {
	line = wire.CleanText(line, w.most.bytes/2)
	w.lines = append(w.lines, line)
	w.bytes += encodedSize(line)
	for w.bytes > w.most.bytes {
		w.drop()
		w.truncated = true
	}
	if len(w.lines) > w.most.lines {
		w.drop()
	}
}

func (w *window) drop() {
	w.bytes -= encodedSize(w.lines[0])
	w.lines = w.lines[1:]
}

// encodedSize is what a line takes of a reply: quotes and the like double or
// worse in JSON.
func encodedSize(line string) int {
	encoded, err := json.Marshal(line)
	if err != nil {
		return len(line) // strings always encode
	}
	return len(encoded) + 1
}
