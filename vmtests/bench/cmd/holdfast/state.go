// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/holdfast-go/holdfast/reexec"
)

// keepState gives the service a state of so many bytes, which it commits once it is main: a crash after that
// brings it back.
func keepState(service *reexec.Service, size int64) error {
	state := bytes.Repeat([]byte{1}, int(size))
	h, err := service.State("toy", reexec.Exclusive{
		Version: 1,
		Save: func(w io.Writer) error {
			_, err := w.Write(state)
			return err
		},
		Load: func(_ uint32, data []byte) error {
			if int64(len(data)) != size {
				return fmt.Errorf("%d bytes, want %d", len(data), size)
			}
			copy(state, data)
			return nil
		},
	})
	if err != nil {
		return err
	}
	service.Go("commit", func(ctx context.Context) error { return h.Commit(ctx) })
	return nil
}
