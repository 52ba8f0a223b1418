package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/stories"
)

// queue are the stories that no lane has begun to tell.
type queue struct {
	stories chan stories.Story
	failed  atomic.Bool // a story did: no other is begun
}

func newQueue(told []stories.Story) *queue {
	q := &queue{stories: make(chan stories.Story, len(told))}
	for _, s := range told {
		q.stories <- s
	}
	close(q.stories)
	return q
}

// next is a story to tell, while there is one and none has failed.
func (q *queue) next(ctx context.Context) (s stories.Story, more bool) {
	if q.failed.Load() || ctx.Err() != nil {
		return s, false
	}
	s, more = <-q.stories
	return s, more
}

// lane tells stories on a cluster of its own until there is none left.
func lane(ctx context.Context, o cluster.Options, q *queue, keep bool) (err error) {
	defer func() {
		if err != nil {
			q.failed.Store(true)
		}
	}()
	var c *cluster.Cluster
	err = o.Journal.Group("the cluster comes up", func() error {
		c, err = cluster.Start(ctx, o)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Journal.Step("the cluster goes down", c.Stop)) }()
	for {
		s, more := q.next(ctx)
		if !more {
			err = ctx.Err()
			break
		}
		err = o.Journal.Group("story "+s.Name+": "+s.Shows, func() error { return s.Run(ctx, c) })
		if err != nil {
			fmt.Fprintln(o.Journal.Out, c.Describe())
			break
		}
	}
	if keep {
		fmt.Fprintf(o.Journal.Out, "the cluster is up until Ctrl-C: export KUBECONFIG=%s\n", c.Kubeconfig())
		<-ctx.Done()
	}
	return err
}

// side is as many writers to one, which mark their lines.
func side(out io.Writer, count int) (outs []io.Writer) {
	var lock sync.Mutex
	for n := range count {
		outs = append(outs, &marked{to: out, lock: &lock, mark: fmt.Sprintf("%d| ", n+1)})
	}
	return outs
}

// marked writes whole lines, each with a mark, to what others write to as well.
type marked struct {
	to   io.Writer
	lock *sync.Mutex
	mark string
	rest []byte
}

// Write keeps what is after the last end of a line.
func (m *marked) Write(text []byte) (int, error) {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.rest = append(m.rest, text...)
	for {
		line, rest, whole := bytes.Cut(m.rest, []byte("\n"))
		if !whole {
			return len(text), nil
		}
		if _, err := fmt.Fprintf(m.to, "%s%s\n", m.mark, line); err != nil {
			return 0, err
		}
		m.rest = rest
	}
}
