// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
)

// fileReloader reads the file of the plan's Config. Its text is what GET /config
// answers, unless it begins with "!": then it does as that says.
type fileReloader struct {
	plan plan
	next string
	now  atomic.Pointer[string]
}

func newFileReloader(p plan) (*fileReloader, error) {
	r := &fileReloader{plan: p}
	text, err := os.ReadFile(p.Config)
	r.next = string(text)
	r.Commit()
	return r, err
}

func (r *fileReloader) Prepare(ctx context.Context) error {
	data, err := os.ReadFile(r.plan.Config)
	if err != nil {
		return err
	}
	text := string(data)
	if what, ok := strings.CutPrefix(text, "!"); ok {
		if what == "wait" {
			<-ctx.Done()
			return ctx.Err()
		}
		if err := r.plan.do(what, "config"); err != nil {
			return err
		}
	}
	r.next = text
	return nil
}

func (r *fileReloader) Commit() {
	text := r.next
	r.now.Store(&text)
}

func (*fileReloader) Discard() {}

// witness says in the log what is done with it.
type witness struct{ log *slog.Logger }

func (w witness) Prepare(context.Context) error {
	w.log.Info("witness prepares")
	return nil
}

func (w witness) Commit()  { w.log.Info("witness commits") }
func (w witness) Discard() { w.log.Info("witness discards") }
