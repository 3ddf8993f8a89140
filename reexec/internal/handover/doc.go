// SPDX-License-Identifier: Apache-2.0

// Package handover is the wire format between a predecessor and its
// successor: frames on a SOCK_SEQPACKET socket pair, some with descriptors.
//
// A frame is a header of fixed form, which no version may change, and a JSON
// payload. The first frame of each side is a [Hello] with the range of
// versions that it speaks; everything after it is in the highest common one.
// A reader ignores fields that it does not know, so a version is only raised
// when a field's absence would be an error.
package handover
