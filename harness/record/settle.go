package record

import (
	"fmt"
	"math"
	"reflect"
	"strings"
)

// settle makes a value fit to be written: nil lists and maps that are always
// written become empty ones, and a float that is NaN or infinite is an error
// naming its place.
func settle(v any) error {
	return settleValue("", reflect.ValueOf(v))
}

// Finite returns an error naming the place of a float that is NaN or infinite.
func Finite(r *Run) error { return settle(r) }

func settleValue(at string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return settleValue(at, v.Elem())
	case reflect.Float64:
		return finite(at, v.Float())
	case reflect.Struct:
		return settleStruct(at, v)
	case reflect.Slice, reflect.Array:
		return settleList(at, v)
	case reflect.Map:
		return settleMap(at, v)
	default:
		return nil
	}
}

func finite(at string, f float64) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Errorf("%s is %v: not a number that may be recorded; leave the value out and give the reason in absent", strings.TrimPrefix(at, "."), f)
	}
	return nil
}

func settleStruct(at string, v reflect.Value) error {
	t := v.Type()
	for i := range t.NumField() {
		name, opts, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		fv := v.Field(i)
		fill(fv, opts)
		if err := settleValue(at+"."+name, fv); err != nil {
			return err
		}
	}
	return nil
}

// fill gives a list or map that is written even when empty a value of its own.
func fill(v reflect.Value, opts string) {
	if opts != "" || !v.CanSet() {
		return
	}
	switch {
	case v.Kind() == reflect.Slice && v.IsNil():
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	case v.Kind() == reflect.Map && v.IsNil():
		v.Set(reflect.MakeMap(v.Type()))
	}
}

func settleList(at string, v reflect.Value) error {
	for i := range v.Len() {
		if err := settleValue(fmt.Sprintf("%s[%d]", at, i), v.Index(i)); err != nil {
			return err
		}
	}
	return nil
}

func settleMap(at string, v reflect.Value) error {
	for it := v.MapRange(); it.Next(); {
		if err := settleValue(at+"."+it.Key().String(), it.Value()); err != nil {
			return err
		}
	}
	return nil
}
