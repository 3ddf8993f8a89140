// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Barrier returns nil when the manager has processed every message that this
// process sent before, and an error that wraps the cause of ctx if that ends
// first. It leaves nothing behind in either case. It is read under every
// NotifyAccess=, needs systemd 246, and also works with older versions, which
// close the descriptors of a message that they do not know.
//
// A manager that goes away drops its queue, which looks the same as having
// processed it.
func (n *Notifier) Barrier(ctx context.Context) error {
	if !n.Enabled() {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("barrier: %w", context.Cause(ctx))
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	defer reader.Close()
	err = n.notify(ctx, []Field{Barrier(writer)})
	// Our copy must go, or the pipe never ends.
	if closeErr := writer.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("barrier: %w", err)
	}

	stop := context.AfterFunc(ctx, func() {
		// A deadline in the past ends the Read; a pipe always has one.
		_ = reader.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	_, err = reader.Read(make([]byte, 1))
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err == nil:
		return errors.New("barrier: manager wrote to the descriptor that it should close")
	case ctx.Err() != nil:
		return fmt.Errorf("barrier: manager has not reached it: %w", context.Cause(ctx))
	default:
		return fmt.Errorf("barrier: %w", err)
	}
}
