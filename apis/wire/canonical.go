package wire

import (
	"strings"

	"github.com/nationtech/harmony-fleet/apis/score"
)

// readCanonicalState reads the very bytes that Encode writes when all texts are
// plain ASCII that needs no escape; ok is false for everything else, which the
// JSON decoder reads. States arrive by the thousand in a second, nearly all of
// them like this.
func readCanonicalState(data []byte) (s DeviceState, ok bool) {
	c := cursor{rest: string(data)} // one allocation for all texts
	s.Phase = Phase(c.text(`{"phase":"`))
	s.Reason = c.text(`,"reason":"`)
	if c.at(`,"message":"`) {
		s.Message = c.text(`,"message":"`)
	}
	s.Digest = score.Digest(c.text(`,"digest":"`))
	for before := `,"containers":[{"service":"`; c.at(before); before = `,{"service":"` {
		s.Containers = append(s.Containers, ContainerRef{Service: c.text(before), ID: c.text(`,"id":"`)})
		c.skip("}")
	}
	if s.Containers != nil {
		c.skip("]")
	}
	c.skip("}")
	return s, !c.lost && c.rest == ""
}

// cursor reads along an expected text; once something else is there, it is lost.
type cursor struct {
	rest string
	lost bool
}

func (c *cursor) at(expected string) bool { return !c.lost && strings.HasPrefix(c.rest, expected) }

func (c *cursor) skip(expected string) {
	rest, found := strings.CutPrefix(c.rest, expected)
	c.rest, c.lost = rest, c.lost || !found
}

// text reads what lies between the expected text and the next quote.
func (c *cursor) text(expected string) string {
	c.skip(expected)
	text, rest, found := strings.Cut(c.rest, `"`)
	if c.lost || !found || strings.IndexByte(text, '\\') >= 0 || !plainASCII(text) {
		c.lost = true
		return ""
	}
	c.rest = rest
	return text
}
