// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// sums is a service with a stream of each kind, whose messages are Int64Value. It is
// written by hand what protoc would write of:
//
//	service Sums {
//	  rpc Total(stream Int64Value) returns (Int64Value);
//	  rpc Count(Int64Value) returns (stream Int64Value);
//	  rpc Add(stream Int64Value) returns (stream Int64Value);
//	}
var sums = grpc.ServiceDesc{
	ServiceName: "example.Sums",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{
		{StreamName: "Total", Handler: total, ClientStreams: true},
		{StreamName: "Count", Handler: count, ServerStreams: true},
		{StreamName: "Add", Handler: add, ClientStreams: true, ServerStreams: true},
	},
}

// total answers when the client has sent all numbers.
func total(_ any, stream grpc.ServerStream) error {
	var n int64
	for {
		var m wrapperspb.Int64Value
		if err := stream.RecvMsg(&m); errors.Is(err, io.EOF) {
			return stream.SendMsg(wrapperspb.Int64(n))
		} else if err != nil {
			return err
		}
		n += m.Value
	}
}

// count sends the numbers up to that of the client.
func count(_ any, stream grpc.ServerStream) error {
	var m wrapperspb.Int64Value
	if err := stream.RecvMsg(&m); err != nil {
		return err
	}
	for n := range m.Value {
		if err := stream.SendMsg(wrapperspb.Int64(n + 1)); err != nil {
			return err
		}
	}
	return nil
}

// add answers each number with the sum so far.
func add(_ any, stream grpc.ServerStream) error {
	var n int64
	for {
		var m wrapperspb.Int64Value
		if err := stream.RecvMsg(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		n += m.Value
		if err := stream.SendMsg(wrapperspb.Int64(n)); err != nil {
			return err
		}
	}
}
