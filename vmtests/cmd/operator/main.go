// SPDX-License-Identifier: Apache-2.0

// Operator plays with a service inside a machine of package vmtests: it asks systemd over D-Bus and directs the
// puppets that the service is made of. Package vmtests/agreement runs it, one for each machine.
//
// It reads orders from standard input, one JSON object a line, and answers each with one on standard output;
// the types are in package vmtests/agreement.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/holdfast-go/holdfast/vmtests/agreement"
)

func main() {
	if err := run(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "operator:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, in io.Reader, out io.Writer) error {
	m, err := connect(ctx)
	if err != nil {
		return err
	}
	defer m.close()
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	var stage *agreement.Stage
	for {
		var order agreement.Order
		if err := orders.Decode(&order); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read an order: %w", err)
		}
		var answer agreement.Answer
		var err error
		switch {
		case order.Open != nil && stage == nil:
			stage, err = agreement.Open(ctx, m, order.Open)
		case order.Op != nil && stage != nil:
			answer.Observation, err = stage.Perform(ctx, *order.Op)
		case order.Close && stage != nil:
			err = stage.Close(ctx)
			stage = nil
		default:
			err = errors.New("operator: this order makes no sense now")
		}
		if err != nil {
			answer.Error = err.Error()
		}
		if err := answers.Encode(answer); err != nil {
			return fmt.Errorf("write an answer: %w", err)
		}
	}
}
