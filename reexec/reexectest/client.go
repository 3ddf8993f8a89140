// SPDX-License-Identifier: Apache-2.0

package reexectest

import "context"

// Client talks to a service as its users do. It is used by one goroutine at a
// time.
type Client interface {
	// Exchange asks for something and waits for the whole answer. An error
	// says that it was lost, or that the answer is wrong.
	Exchange(ctx context.Context) error
	Close() error
}

// SlowClient is a Client that can have a request in flight for as long as it
// likes. Cases that need one are left out without it.
type SlowClient interface {
	Client
	// Begin asks for something and returns once the service works on it, so
	// that the version that has it now is the one that must answer. It must not be
	// answered whole before finish is called, which may be after an upgrade and
	// while the service stops. An error says that the service does not take the request.
	//
	// Finish has it answered and waits for the whole answer. An error says that
	// it was lost, or that the answer is wrong. It is called once, or not at all if the case
	// fails; then Close ends the request. Each context bounds its own call only.
	Begin(ctx context.Context) (finish func(ctx context.Context) error, err error)
}

// Kind is one way in which clients talk to a service.
type Kind struct {
	Name string // "keep-alive"
	// Dial makes a client of this kind. It need not connect.
	Dial func(ctx context.Context, u *Unit) (Client, error)
}

// Clients are kinds of clients: a [Kind], [Kinds], or [HTTP], which is three.
type Clients interface{ Kinds() []Kind }

// Kinds are several kinds of clients.
type Kinds []Kind

// Kinds returns k.
func (k Kinds) Kinds() []Kind { return k }

// Kinds returns k alone.
func (k Kind) Kinds() []Kind { return []Kind{k} }
