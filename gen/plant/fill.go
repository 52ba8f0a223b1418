package plant

import (
	"bytes"
	"encoding"
	"encoding/json"
	"reflect"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// depth bounds how deep a type of others is filled: more than Affinity has.
const depth = 12

// fill sets everything in v to content that names the leaf with the number n.
func fill(v reflect.Value, n int) { (&filler{n: n}).fill(v, depth) }

type filler struct{ n int }

func (f *filler) fill(v reflect.Value, depth int) {
	if depth == 0 {
		return
	}
	switch v.Interface().(type) {
	case resource.Quantity:
		v.Set(reflect.ValueOf(resource.MustParse(strconv.FormatInt(unique(f.n), 10))))
		return
	case intstr.IntOrString:
		v.Set(reflect.ValueOf(intstr.FromString(sentinel(f.n))))
		return
	}
	if v.Type().Implements(reflect.TypeFor[encoding.TextMarshaler]()) && v.CanInt() {
		v.SetInt(unique(f.n) * int64(time.Hour)) // a duration, which prints whole hours as such
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(sentinel(f.n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(unique(f.n))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem(), depth-1)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		f.fill(key, depth-1)
		f.fill(value, depth-1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		f.fill(v.Index(0), depth-1)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				f.fill(v.Field(i), depth-1)
			}
		}
	}
}

// decode reads JSON and keeps numbers as they are spelt.
func decode(data []byte, into *any) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		panic(err) // what json.Marshal wrote
	}
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

// isUnique tells whether a number was planted.
func isUnique(word string) bool {
	n, err := strconv.ParseInt(word, 10, 64)
	return err == nil && n >= unique(0) && n < unique(1000) && (n-unique(0))%(unique(1)-unique(0)) == 0
}
