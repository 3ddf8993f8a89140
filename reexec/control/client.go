// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// maxHeader bounds the head of an answer.
	maxHeader = 64 << 10
	// maxMetrics bounds the metrics of a service.
	maxMetrics = 64 << 20
	// maxSocketPath is sun_path less its NUL (unix(7)).
	maxSocketPath = 107
)

// Client asks a service over its control socket. Each call makes a connection
// of its own and closes it, so that no call ever ends up at an older generation
// that the connection was made to. A Client may be used by several goroutines.
//
// Every method ends at the latest with its context; the error then wraps the
// context's cause. Otherwise errors are [*NotRunningError], [*PermissionError],
// [*VersionError], [*UnsupportedError], [*ProtocolError] or [*BrokenError]; with
// [NewClientOf] also [*OwnerError].
type Client struct {
	socket string
	// uid is whose the socket must be; nil is anybody's.
	uid *uint32
}

// NewClient returns a client of the control socket at socketPath. It does not
// connect yet.
func NewClient(socketPath string) *Client { return &Client{socket: socketPath} }

// NewClientOf is NewClient for a caller with more rights than the service, which runs
// as the user uid. The path is in a directory that the service may write to, so it could
// lead to the socket of another one, which obeys root. What listens there as another
// user is not spoken to: the error is an [*OwnerError].
func NewClientOf(socketPath string, uid uint32) *Client {
	return &Client{socket: socketPath, uid: &uid}
}

// Dial connects as each call does. The caller closes the connection.
func (c *Client) Dial(ctx context.Context) (net.Conn, error) { return c.connect(ctx) }

// Status asks for the status of the service.
func (c *Client) Status(ctx context.Context) (Status, error) {
	// Main may end, or change, between accepting and answering: then the next
	// one answers a new connection. To ask again costs nothing.
	for attempt := 1; ; attempt++ {
		st, err := c.statusOnce(ctx)
		var broken *BrokenError
		again := errors.As(err, &broken) || err == nil && st.State == "draining"
		if attempt == statusAttempts || !again || ctx.Err() != nil {
			return st, err
		}
	}
}

const statusAttempts = 3

// isLater says whether not every release of this version of the protocol knows it.
func isLater(path string) bool {
	resource, ok := strings.CutPrefix(path, pathOf(""))
	return ok && resource != "status" && resource != "upgrade"
}

func (c *Client) statusOnce(ctx context.Context) (Status, error) {
	body, err := c.fetch(ctx, pathOf("status"), "application/json", maxLine, http.StatusOK)
	if err != nil {
		return Status{}, err
	}
	st, err := parseStatus(body)
	if err != nil {
		return Status{}, &ProtocolError{c.socket, err}
	}
	if st.Protocol != Version {
		return Status{}, &VersionError{c.socket, []int{st.Protocol}}
	}
	return st, nil
}

// Healthz asks whether main is alive. The error of this and of the other probes is an
// [*UnsupportedError] if the service is of a release without them.
func (c *Client) Healthz(ctx context.Context) (Health, error) { return c.health(ctx, HealthzPath) }

// Readyz asks whether the service is able to serve now: main accepts connections, and
// its health check says so, or the new version on trial does.
func (c *Client) Readyz(ctx context.Context) (Health, error) { return c.health(ctx, ReadyzPath) }

func (c *Client) health(ctx context.Context, path string) (h Health, err error) {
	err = c.get(ctx, path, &h, http.StatusOK, http.StatusServiceUnavailable)
	return h, err
}

// Updatez asks where the service is in an upgrade.
func (c *Client) Updatez(ctx context.Context) (u Update, err error) {
	err = c.get(ctx, UpdatezPath, &u, http.StatusOK)
	return u, err
}

func (c *Client) get(ctx context.Context, path string, into any, codes ...int) error {
	body, err := c.fetch(ctx, path, "application/json", maxLine, codes...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return &ProtocolError{c.socket, fmt.Errorf("%s: %.80q: %w", path, body, err)}
	}
	return nil
}

// Metrics asks for the metrics of main in the text format of Prometheus. The error
// is a [*ProtocolError] if the service has none.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	return c.fetch(ctx, MetricsPath, "text/plain", maxMetrics, http.StatusOK)
}

// fetch returns the body of an answer to GET.
func (c *Client) fetch(ctx context.Context, path, mediaType string, limit int64, codes ...int) ([]byte, error) {
	a, err := c.askPath(ctx, http.MethodGet, path, mediaType, nil, codes...)
	if err != nil {
		return nil, err
	}
	defer a.close()
	return a.readAll(limit)
}

// Upgrade asks the service to upgrade and waits for the verdict, which may be
// that it failed. onState, unless nil, is called with every state on the way,
// in this goroutine. The end of ctx ends the waiting, not the upgrade.
func (c *Client) Upgrade(ctx context.Context, onState func(Status)) (Verdict, error) {
	return c.attempt(ctx, "upgrade", nil, onState)
}

// Rollback is [Client.Upgrade] to the version before, which [Status.Previous]
// names: the verdict [Upgraded] means that it is main. The record of the launcher
// then has it start next, until a newer file is installed or somebody clears the
// record with "holdfast retry". The reason is for people; [MaxReason] bounds it.
func (c *Client) Rollback(ctx context.Context, reason string, onState func(Status)) (Verdict, error) {
	reason = strings.ToValidUTF8(reason, "?")
	if n := len(reason); n > MaxReason {
		return Verdict{}, fmt.Errorf("reason of the rollback has %d bytes: must have %d at most", n, MaxReason)
	}
	body, err := json.Marshal(RollbackRequest{Reason: reason})
	if err != nil {
		return Verdict{}, fmt.Errorf("encode the request: %w", err)
	}
	return c.attempt(ctx, "rollback", body, onState)
}

// attempt asks for what ends with a verdict, and waits for that.
func (c *Client) attempt(ctx context.Context, resource string, body []byte, onState func(Status)) (Verdict, error) {
	a, err := c.ask(ctx, http.MethodPost, resource, "application/x-ndjson", body)
	if err != nil {
		return Verdict{}, err
	}
	defer a.close()
	var last *Status
	for events := newEventReader(a.body); ; {
		ev, err := events.next()
		if err != nil {
			err = a.fault(err)
			var broken *BrokenError
			if errors.As(err, &broken) {
				broken.Last = last
			}
			return Verdict{}, err
		}
		if ev.Verdict != nil {
			return *ev.Verdict, nil
		}
		last = ev.State
		if onState != nil {
			onState(*last)
		}
	}
}

// Reload asks the service to read its configuration again, and waits for the end,
// which may be that the configuration is refused. While the service is busy with
// an upgrade it waits, too, and asks whoever is main then. The end of ctx ends the
// waiting, not the reload.
func (c *Client) Reload(ctx context.Context) (Reload, error) {
	for {
		v, err := c.reloadOnce(ctx)
		if err != nil || v.Outcome != Busy {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, c.ended(ctx)
		case <-time.After(pollInterval):
		}
	}
}

func (c *Client) reloadOnce(ctx context.Context) (Reload, error) {
	a, err := c.ask(ctx, http.MethodPost, "reload", "application/json", nil)
	if err != nil {
		return Reload{}, err
	}
	defer a.close()
	body, err := a.readAll(maxLine)
	if err != nil {
		return Reload{}, err
	}
	var v Reload
	if err := json.Unmarshal(body, &v); err != nil {
		return Reload{}, &ProtocolError{c.socket, err}
	}
	if v.Outcome == "" {
		return Reload{}, &ProtocolError{c.socket, errors.New("a reload without an outcome")}
	}
	return v, nil
}

// answer is an answer of code 200 whose body is yet to be read.
type answer struct {
	client *Client
	ctx    context.Context
	conn   net.Conn
	body   io.Reader
	close  func()
}

// ask makes one request. It speaks HTTP over the connection itself:
// http.Transport does not tell a connection that ended from one that was never
// made, and the difference is what the caller acts on.
func (c *Client) ask(ctx context.Context, method, resource, mediaType string, body []byte) (*answer, error) {
	return c.askPath(ctx, method, pathOf(resource), mediaType, body, http.StatusOK)
}

// pathOf is the path of a resource of the protocol.
func pathOf(resource string) string { return fmt.Sprintf("/v%d/%s", Version, resource) }

// askPath takes answers of these codes for one.
func (c *Client) askPath(ctx context.Context, method, path, mediaType string, body []byte, codes ...int) (*answer, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	unwatch := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	a := &answer{client: c, ctx: ctx, conn: conn, close: func() {
		unwatch()
		_ = conn.Close()
	}}
	if err := a.exchange(method, path, mediaType, body, codes); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	if c.socket == "" || len(c.socket) > maxSocketPath {
		return nil, fmt.Errorf("connect to control socket %q: path has %d bytes: must have 1 to %d", c.socket, len(c.socket), maxSocketPath)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	for errors.Is(err, syscall.EAGAIN) && ctx.Err() == nil {
		// The queue of the socket is full (connect(2)), and nothing tells when
		// it no longer is.
		select {
		case <-ctx.Done():
		case <-time.After(pollInterval):
		}
		conn, err = new(net.Dialer).DialContext(ctx, "unix", c.socket)
	}
	switch {
	case err == nil:
		if err := c.checkOwner(conn); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return conn, nil
	case ctx.Err() != nil:
		return nil, c.ended(ctx)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ECONNREFUSED):
		return nil, &NotRunningError{c.socket, syscallError(err)}
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return nil, &PermissionError{c.socket, syscallError(err)}
	default:
		return nil, fmt.Errorf("connect to control socket %q: %w", c.socket, syscallError(err))
	}
}

// checkOwner says whether the socket is the service's. The kernel tells who has begun
// to listen there (SO_PEERCRED, unix(7)): maybe an older generation, as the same user.
func (c *Client) checkOwner(conn net.Conn) error {
	if c.uid == nil {
		return nil
	}
	cred, err := peerCredentials(conn.(*net.UnixConn))
	if err != nil {
		return fmt.Errorf("control socket %q: %w", c.socket, err)
	}
	if cred.Uid != *c.uid {
		return &OwnerError{c.socket, cred.Uid, *c.uid}
	}
	return nil
}

// exchange writes the request and reads the head of the answer.
func (a *answer) exchange(method, path, mediaType string, body []byte, codes []int) error {
	request := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: control\r\nUser-Agent: holdfast\r\nAccept: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		method, path, mediaType, len(body), body)
	// An error of the write is not the last word: a server may answer and
	// close without having read.
	_, writeErr := io.WriteString(a.conn, request)

	end := &endReader{r: a.conn}
	limit := &io.LimitedReader{R: end, N: maxHeader}
	resp, err := http.ReadResponse(bufio.NewReader(limit), &http.Request{Method: method})
	switch {
	case err == nil:
	case limit.N <= 0:
		return &ProtocolError{a.client.socket, fmt.Errorf("head of the answer is longer than %d bytes", maxHeader)}
	case writeErr != nil:
		return a.fault(writeErr)
	case end.err != nil:
		// A head that was cut also looks malformed.
		return a.fault(end.err)
	default:
		return a.fault(err)
	}
	limit.N = 1<<63 - 1
	a.body = resp.Body

	if !slices.Contains(codes, resp.StatusCode) {
		return a.refusal(resp, path)
	}
	if got, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || got != mediaType {
		return &ProtocolError{a.client.socket, fmt.Errorf("Content-Type %q: want %s", resp.Header.Get("Content-Type"), mediaType)}
	}
	return nil
}

// refusal turns an answer that is not 200 into an error.
func (a *answer) refusal(resp *http.Response, path string) error {
	body, err := a.readAll(maxLine)
	if err != nil {
		return err
	}
	var said Error
	if json.Unmarshal(body, &said) != nil || said.Message == "" {
		return &ProtocolError{a.client.socket, fmt.Errorf("answer %q without an error", resp.Status)}
	}
	switch {
	case resp.StatusCode == http.StatusForbidden:
		return &PermissionError{a.client.socket, &said}
	case resp.StatusCode == http.StatusNotFound && len(said.Versions) > 0 && !slices.Contains(said.Versions, Version):
		return &VersionError{a.client.socket, said.Versions}
	// Before there were probes, their paths were ones that lack a version.
	case resp.StatusCode == http.StatusNotFound && (len(said.Versions) == 0 && isLater(path) || len(said.Versions) > 0 && IsProbe(path)):
		return &UnsupportedError{a.client.socket, strings.TrimPrefix(path, pathOf("")), &said}
	default:
		return &ProtocolError{a.client.socket, fmt.Errorf("answer %q: %w", resp.Status, &said)}
	}
}

func (a *answer) readAll(limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(a.body, limit+1))
	if err != nil {
		return nil, a.fault(err)
	}
	if int64(len(body)) > limit {
		return nil, &ProtocolError{a.client.socket, fmt.Errorf("answer is longer than %d bytes", limit)}
	}
	return body, nil
}

// fault names what a failed read or write means.
func (a *answer) fault(err error) error {
	switch {
	case a.ctx.Err() != nil:
		return a.client.ended(a.ctx)
	case isEnd(err):
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return &BrokenError{Socket: a.client.socket, Err: syscallError(err)}
	default:
		return &ProtocolError{a.client.socket, err}
	}
}

func (c *Client) ended(ctx context.Context) error {
	return fmt.Errorf("wait for control socket %q: %w", c.socket, context.Cause(ctx))
}

// endReader remembers the error that ended r.
type endReader struct {
	r   io.Reader
	err error
}

func (e *endReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil {
		e.err = err
	}
	return n, err
}

// isEnd tells the end of a connection from an answer that makes no sense.
func isEnd(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op)
}

// syscallError drops what net adds around the errno: the caller has named the
// operation and the socket already.
func syscallError(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
