package v1alpha1

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes that files spell as Kubernetes does: "512Mi", "1Gi", and
// "0" for none.
type Size int64

// units from the largest on, with what they are called in files.
var units = []struct {
	name  string
	bytes int64
}{{"Ti", 1 << 40}, {"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}, {"", 1}}

// UnmarshalText reads a whole number with a unit, or of bytes.
func (s *Size) UnmarshalText(text []byte) error {
	for _, unit := range units {
		digits, found := strings.CutSuffix(string(text), unit.name)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/unit.bytes {
			break
		}
		*s = Size(n * unit.bytes)
		return nil
	}
	return fmt.Errorf(`size %q: want a whole number with the unit Ki, Mi, Gi or Ti, such as "512Mi"`, text)
}

// MarshalText writes what UnmarshalText reads.
func (s Size) MarshalText() ([]byte, error) {
	for _, unit := range units {
		if s != 0 && int64(s)%unit.bytes == 0 {
			return []byte(strconv.FormatInt(int64(s)/unit.bytes, 10) + unit.name), nil
		}
	}
	return []byte("0"), nil
}
