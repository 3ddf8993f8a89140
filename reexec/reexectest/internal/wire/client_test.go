// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
)

// accept starts a client whose manager is the returned connection; it has
// answered the Config.
func accept(t *testing.T, event func(*Event)) (*Client, *Conn) {
	t.Helper()
	near, far := net.Pipe()
	manager := NewConn(far)
	t.Cleanup(func() { _ = manager.Close() })
	served := make(chan error, 1)
	go func() {
		var config Config
		err := manager.Receive(&config)
		if err == nil && config.Systemd != 257 {
			err = errors.New("not the config that was sent")
		}
		served <- errors.Join(err, manager.Send(Message{Answer: &Answer{Loaded: &Loaded{Service: "a.service"}}}))
	}()
	client, answer, err := NewClient(t.Context(), near, &Config{Systemd: 257}, event)
	if err := errors.Join(err, <-served); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if answer.Loaded.Service != "a.service" {
		t.Errorf("answer is %+v", answer)
	}
	return client, manager
}

func TestAnswersByID(t *testing.T) {
	client, manager := accept(t, func(*Event) {})
	var waits []func(context.Context) (*Answer, error)
	received := make(chan Request, 2)
	go func() {
		for range 2 {
			var r Request
			if err := manager.Receive(&r); err != nil {
				t.Error(err)
			}
			received <- r
		}
	}()
	for _, verb := range []Verb{Start, Show} {
		_, wait := client.Begin(&Request{Verb: verb})
		waits = append(waits, wait)
	}
	start, show := <-received, <-received
	if start.Verb != Start || show.Verb != Show || start.ID == show.ID || start.ID == 0 {
		t.Fatalf("received %+v and %+v", start, show)
	}
	go func() {
		err := manager.Send(Message{Answer: &Answer{ID: show.ID, Error: &Error{Name: ErrNoSuchUnit, Message: "none"}}})
		if err := errors.Join(err, manager.Send(Message{Answer: &Answer{ID: start.ID, Result: Failed}})); err != nil {
			t.Error(err)
		}
	}()
	answer, err := waits[0](t.Context())
	if err != nil || answer.Result != Failed || answer.ExitStatus() != 1 {
		t.Errorf("start: %+v, %v", answer, err)
	}
	var refused *Error
	if _, err := waits[1](t.Context()); !errors.As(err, &refused) || refused.Name != ErrNoSuchUnit {
		t.Errorf("show: %v", err)
	}
}

// What happened before an answer has been told before it.
func TestEventsBeforeTheAnswer(t *testing.T) {
	var seen []EventKind
	client, manager := accept(t, func(e *Event) { seen = append(seen, e.Kind) })
	go func() {
		var r Request
		err := manager.Receive(&r)
		for _, kind := range []EventKind{ProcessBorn, PropertiesChanged} {
			err = errors.Join(err, manager.Send(Message{Event: &Event{Kind: kind}}))
		}
		if err := errors.Join(err, manager.Send(Message{Answer: &Answer{ID: r.ID, Result: Done}})); err != nil {
			t.Error(err)
		}
	}()
	if _, err := client.Call(t.Context(), Request{Verb: Start}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 || seen[0] != ProcessBorn || seen[1] != PropertiesChanged {
		t.Errorf("seen are %v", seen)
	}
}

func TestManagerHangsUp(t *testing.T) {
	client, manager := accept(t, func(*Event) {})
	go func() {
		var r Request
		if err := errors.Join(manager.Receive(&r), manager.Close()); err != nil {
			t.Error(err)
		}
	}()
	if _, err := client.Call(t.Context(), Request{Verb: Stop}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	<-client.Done()
	if _, err := client.Call(t.Context(), Request{Verb: Stop}); err == nil {
		t.Error("a request after the end was answered")
	}
}

func TestCallGivesUp(t *testing.T) {
	client, manager := accept(t, func(*Event) {})
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	requested := make(chan int64)
	go func() {
		for range 2 {
			var r Request
			if err := manager.Receive(&r); err != nil {
				t.Error(err)
			}
			requested <- r.ID
		}
	}()
	go func() {
		<-requested
		cancel(cause)
	}()
	if _, err := client.Call(ctx, Request{Verb: Start}); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	// The late answer is nobody's; the next request is not disturbed by it.
	go func() {
		id := <-requested
		for _, id := range []int64{id - 1, id} {
			if err := manager.Send(Message{Answer: &Answer{ID: id, Result: Done}}); err != nil {
				t.Error(err)
			}
		}
	}()
	if answer, err := client.Call(t.Context(), Request{Verb: Show}); err != nil || answer.Result != Done {
		t.Errorf("got %+v, %v", answer, err)
	}
}

func TestRefusedConfig(t *testing.T) {
	near, far := net.Pipe()
	manager := NewConn(far)
	defer manager.Close()
	go func() {
		var config Config
		err := manager.Receive(&config)
		if err := errors.Join(err, manager.Send(Message{Answer: &Answer{Error: &Error{Name: ErrBadUnit, Message: "a.service:1"}}})); err != nil {
			t.Error(err)
		}
	}()
	_, _, err := NewClient(t.Context(), near, &Config{}, func(*Event) {})
	var refused *Error
	if !errors.As(err, &refused) || refused.Name != ErrBadUnit {
		t.Errorf("got %v", err)
	}
}
