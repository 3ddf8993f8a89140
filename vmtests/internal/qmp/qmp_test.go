// SPDX-License-Identifier: Apache-2.0

package qmp_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests/internal/qmp"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}`

// qemu is the other end: it greets, and answers each command with what answers says.
func qemu(t *testing.T, answers map[string]string) net.Conn {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { there.Close() })
	go func() {
		io.WriteString(there, greeting+"\r\n")
		commands := json.NewDecoder(there)
		for {
			var command struct {
				Execute string `json:"execute"`
			}
			if commands.Decode(&command) != nil {
				return
			}
			answer, ok := answers[command.Execute]
			if !ok {
				answer = `{"return": {}}`
			}
			io.WriteString(there, answer)
		}
	}()
	return here
}

func reset(e qmp.Event) bool { return e.Name == "RESET" }

func TestCommandsAndEvents(t *testing.T) {
	const event = `{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESET", "data": {"guest": true, "reason": "guest-reset"}}`
	c, err := qmp.New(qemu(t, map[string]string{
		"system_reset": event + "\r\n" + `{"return": {}}`, // as QEMU does: events come when they come
		"set-action":   `{"error": {"class": "GenericError", "desc": "Parameter 'reboot' does not accept value 'x'"}}`,
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Execute(t.Context(), "system_reset", nil); err != nil {
		t.Fatal(err)
	}
	e, err := c.Wait(t.Context(), 0, reset)
	if err != nil || string(e.Data) != `{"guest": true, "reason": "guest-reset"}` {
		t.Errorf("Wait: got %s (%v)", e.Data, err)
	}
	if n := c.Seen(); n != 1 {
		t.Errorf("Seen: got %d, want 1", n)
	}
	var refused *qmp.Error
	if err := c.Execute(t.Context(), "set-action", map[string]any{"reboot": "x"}); !errors.As(err, &refused) || refused.Class != "GenericError" {
		t.Errorf("Execute: got %v, want QEMU's refusal", err)
	}
	// The one event is not taken for the next.
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("waited enough")
	cancel(enough)
	if _, err := c.Wait(ctx, c.Seen(), reset); !errors.Is(err, enough) {
		t.Errorf("Wait: got %v, want %v", err, enough)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Wait(t.Context(), c.Seen(), reset); err == nil {
		t.Error("Wait after Close: got no error")
	}
	if err := c.Execute(t.Context(), "system_reset", nil); err == nil {
		t.Error("Execute after Close: got no error")
	}
}

// Who waits hears that QEMU has died.
func TestDeathOfQEMU(t *testing.T) {
	conn := qemu(t, map[string]string{"quit": "never an answer"})
	c, err := qmp.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := c.Wait(t.Context(), 0, reset)
		waited <- err
	}()
	if err := c.Execute(t.Context(), "quit", nil); err == nil {
		t.Error("Execute: got no error")
	}
	if err := <-waited; err == nil {
		t.Error("Wait: got no error")
	}
}

func TestNewRefusesStrangers(t *testing.T) {
	for _, greeting := range []string{`{"hello": "world"}`, "SSH-2.0-OpenSSH_9.2p1\r\n", ""} {
		here, there := net.Pipe()
		go func() {
			io.WriteString(there, greeting)
			there.Close()
		}()
		if _, err := qmp.New(here); err == nil {
			t.Errorf("%q: got no error", greeting)
		}
		if _, err := here.Write(nil); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%q: the connection was not closed: %v", greeting, err)
		}
	}
}
