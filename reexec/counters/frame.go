// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"unicode/utf8"

	dto "github.com/prometheus/client_model/go"
)

// format is the version of what encode writes. All numbers are varints of
// encoding/binary, but for float64, which are 8 bytes, little endian. Strings have
// their length before them. Families and series are sorted.
//
//	families: count, then for each: name, help, unit, kind, series
//	series:   count, then for each: length of the labels, labels (name, value, ...), created, sum;
//	          of a summary and a histogram: count
//	          of a histogram: number of bounds; for each bound: bound, observations in the
//	          bucket; 1 if there is a native part, else 0
//	native:   schema, threshold, observations in the zero bucket, positive, negative buckets
//	buckets:  count, then for each: distance of the index to the last one, observations
//	sum:      number of parts, parts
const format = 1

// encode appends t to buf.
func (t totals) encode(buf []byte) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(t)))
	for _, name := range slices.Sorted(maps.Keys(t)) {
		f := t[name]
		buf = appendString(appendString(appendString(buf, name), f.help), f.unit)
		buf = append(buf, byte(f.kind))
		buf = binary.AppendUvarint(buf, uint64(len(f.series)))
		for _, key := range slices.Sorted(maps.Keys(f.series)) {
			buf = f.series[key].encode(appendString(buf, key), f.kind)
		}
	}
	return buf
}

func (s series) encode(buf []byte, kind dto.MetricType) []byte {
	buf = binary.AppendVarint(buf, s.created)
	buf = binary.AppendUvarint(buf, uint64(len(s.sum.rest)+1))
	for _, part := range s.sum.rest {
		buf = appendFloat(buf, part)
	}
	buf = appendFloat(buf, s.sum.first)
	if kind == dto.MetricType_COUNTER {
		return buf
	}
	buf = binary.AppendUvarint(buf, s.count)
	if kind == dto.MetricType_SUMMARY {
		return buf
	}
	buf = binary.AppendUvarint(buf, uint64(len(s.bounds)))
	var below uint64
	for i, bound := range s.bounds {
		buf = binary.AppendUvarint(appendFloat(buf, bound), s.below[i]-below)
		below = s.below[i]
	}
	if s.native == nil {
		return append(buf, 0)
	}
	buf = binary.AppendVarint(append(buf, 1), int64(s.native.schema))
	buf = binary.AppendUvarint(appendFloat(buf, s.native.threshold), s.native.zero)
	for _, side := range []buckets{s.native.positive, s.native.negative} {
		buf = binary.AppendUvarint(buf, uint64(len(side)))
		var last int32
		for _, b := range side {
			buf = binary.AppendUvarint(binary.AppendVarint(buf, int64(b.index-last)), b.count)
			last = b.index
		}
	}
	return buf
}

func appendFloat(buf []byte, x float64) []byte {
	return binary.LittleEndian.AppendUint64(buf, math.Float64bits(x))
}

// decode is the inverse of encode. What it returns has no part of data.
func decode(data []byte) (totals, error) {
	r := reader{all: len(data), rest: data}
	t := totals{}
	last := ""
	for range r.length(5) {
		name := r.text()
		if name <= last {
			r.fail("metric %q after %q: not sorted, or without a name", name, last)
		}
		last = name
		f := &family{help: r.text(), unit: r.text(), kind: dto.MetricType(r.byte())}
		if !grows(f.kind) || !utf8.ValidString(name+f.help+f.unit) {
			r.fail("metric %q, %q in %q is of kind %v", name, f.help, f.unit, f.kind)
		}
		n := r.length(4)
		f.series = make(map[string]series, n)
		lastKey := ""
		for i := range n {
			key := r.text()
			if i > 0 && key <= lastKey {
				r.fail("series %d of metric %q: not sorted", i, name)
			}
			lastKey = key
			r.labels(key)
			f.series[key] = r.series(f.kind)
			if r.err != nil {
				break
			}
		}
		if r.err != nil {
			break
		}
		t[name] = f
	}
	if r.err == nil && len(r.rest) > 0 {
		r.fail("%d bytes too many", len(r.rest))
	}
	if r.err != nil {
		return nil, fmt.Errorf("counters: frame of %d bytes: %w", len(data), r.err)
	}
	return t, nil
}

// reader takes values from the front of rest. After an error it returns zeros.
type reader struct {
	all  int
	rest []byte
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("at byte %d: %w", r.all-len(r.rest), fmt.Errorf(format, args...))
	}
	r.rest = nil
}

var errShort = errors.New("it ends too early")

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.fail("%w", errShort)
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) uvarint() uint64 {
	x, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail("%w, or in a number", errShort)
		return 0
	}
	r.rest = r.rest[n:]
	return x
}

func (r *reader) varint() int64 {
	x, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail("%w, or in a number", errShort)
		return 0
	}
	r.rest = r.rest[n:]
	return x
}

// length returns how many things of at least size bytes follow, so that nothing
// is allocated for what cannot be there.
func (r *reader) length(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.rest)/size) {
		r.fail("%d things in %d bytes", n, len(r.rest))
		return 0
	}
	return int(n)
}

func (r *reader) text() string {
	n := r.length(1)
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

func (r *reader) float() float64 {
	if len(r.rest) < 8 {
		r.fail("%w", errShort)
		return 0
	}
	x := math.Float64frombits(binary.LittleEndian.Uint64(r.rest))
	r.rest = r.rest[8:]
	return x
}

// labels checks what labelsOf will read: names that rise.
func (r *reader) labels(key string) {
	in := reader{all: len(key), rest: []byte(key)}
	last := ""
	for len(in.rest) > 0 {
		name, value := in.text(), in.text()
		if name <= last || !utf8.ValidString(name) || !utf8.ValidString(value) {
			in.fail("label %q=%q after %q", name, value, last)
		}
		last = name
	}
	if in.err != nil {
		r.fail("labels %q: %w", key, in.err)
	}
}

func (r *reader) series(kind dto.MetricType) (s series) {
	s.created = r.varint()
	for range r.length(8) {
		s.sum = s.sum.add(r.float())
	}
	if kind == dto.MetricType_COUNTER {
		if s.sum.negative() {
			r.fail("a counter of %v", s.sum.float())
		}
		return s
	}
	if s.count = r.uvarint(); s.count > math.MaxInt64 {
		r.fail("%d observations", s.count)
	}
	if kind == dto.MetricType_SUMMARY {
		return s
	}
	if n := r.length(9); n > 0 {
		s.bounds, s.below = make([]float64, n), make([]uint64, n)
		var below uint64
		for i := range n {
			s.bounds[i] = r.float()
			below += r.uvarint()
			s.below[i] = below
		}
		if !ordered(s.bounds, s.below, s.count) {
			r.fail("bounds %v of %d observations", s.bounds, s.count)
		}
	}
	switch r.byte() {
	case 0:
	case 1:
		s.native = r.native()
	default:
		r.fail("neither 0 nor 1 for a native part")
	}
	return s
}

func (r *reader) native() *native {
	schema := r.varint()
	n := &native{schema: int32(schema), threshold: r.float(), zero: r.uvarint()}
	if schema < minSchema || schema > maxSchema || !(n.threshold >= 0) {
		r.fail("native histogram of schema %d, threshold %v", schema, n.threshold)
	}
	n.positive, n.negative = r.buckets(), r.buckets()
	return n
}

func (r *reader) buckets() buckets {
	n := r.length(2)
	if n == 0 {
		return nil
	}
	all := make(buckets, n)
	var index int64
	for i := range all {
		distance := r.varint()
		if i > 0 && distance <= 0 || distance > 2*maxIndex || distance < -maxIndex {
			r.fail("bucket %d at a distance of %d", i, distance)
		}
		index += distance
		all[i] = bucket{int32(index), r.uvarint()}
		if index > maxIndex || index < -maxIndex || all[i].count == 0 || all[i].count > math.MaxInt64 {
			r.fail("bucket at %d with %d observations", index, all[i].count)
		}
	}
	return all
}
