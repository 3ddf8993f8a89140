// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units/bus"
)

const (
	// askTimeout bounds one question to a service.
	askTimeout = 5 * time.Second
	// maxBody bounds what is read of an answer.
	maxBody = 8 << 20
)

// service is the control socket of a unit.
type service struct {
	socket string
	client *control.Client
}

// controlSocket is the path of the control socket, of which the unit's
// RuntimeDirectory= tells.
func (u *Upgrader) controlSocket(unit bus.Unit) (string, error) {
	if len(unit.RuntimeDirectory) == 0 {
		return "", &PreconditionError{
			Unit: unit.Name, What: "it has no RuntimeDirectory=, where its control socket would be",
			Hint: "holdfast check " + unit.Name,
		}
	}
	root := "/run"
	if u.options.User {
		if root = os.Getenv("XDG_RUNTIME_DIR"); root == "" {
			return "", errors.New("$XDG_RUNTIME_DIR is not set: log in, or set XDG_RUNTIME_DIR=/run/user/UID")
		}
	}
	first := filepath.Join(root, unit.RuntimeDirectory[0], control.SocketName)
	for _, dir := range unit.RuntimeDirectory {
		socket := filepath.Join(root, dir, control.SocketName)
		if _, err := os.Stat(socket); err == nil {
			return socket, nil
		}
	}
	return first, nil
}

// newService speaks to a service that runs as the user uid. A user's own manager runs
// all as that user, who has no more rights than they have.
func (u *Upgrader) newService(socket string, uid uint32) *service {
	if u.options.User {
		return &service{socket, control.NewClient(socket)}
	}
	return &service{socket, control.NewClientOf(socket, uid)}
}

func (s *service) status(ctx context.Context) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return s.client.Status(ctx)
}

// get asks for a page outside of the control protocol, on the same socket.
func (s *service) get(ctx context.Context, path string) (code int, body []byte, err error) {
	return fetchBy(ctx, target{s.socket, "http://control" + path}, s.client.Dial)
}

// fetch gets a page.
func fetch(ctx context.Context, t target) (code int, body []byte, err error) {
	if t.socket == "" {
		return fetchBy(ctx, t, nil)
	}
	return fetchBy(ctx, t, func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", t.socket) })
}

// fetchBy gets a page by a connection that dial makes, unless that is nil. It follows no
// redirect: another page is not the one that was asked for.
func fetchBy(ctx context.Context, t target, dial func(context.Context) (net.Conn, error)) (code int, body []byte, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, fmt.Errorf("no answer within %v", askTimeout))
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true}
	if dial != nil {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("User-Agent", "holdfast")
	resp, err := client.Do(req)
	if err != nil {
		// What net/http says has the whole URL.
		var said *url.Error
		if errors.As(err, &said) {
			err = said.Err
		}
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return 0, nil, fmt.Errorf("get %s: %w", t, err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("get %s: %w", t, err)
	case len(body) > maxBody:
		return 0, nil, fmt.Errorf("get %s: the answer has more than %d bytes", t, maxBody)
	}
	return resp.StatusCode, body, nil
}

// String is for the report, which everybody may read: a password and a query, which may be a
// token, are not in it.
func (t target) String() string {
	text := t.url
	if u, err := url.Parse(t.url); err == nil {
		if u.RawQuery != "" {
			u.RawQuery = "..."
		}
		text = u.Redacted()
	}
	if t.socket != "" {
		return "unix:" + t.socket + " " + text
	}
	return text
}

// upgrading are the states in which a verdict is still to come.
var upgrading = map[string]bool{
	"pre-check": true, "checking": true, "starting": true, "probation": true, "promoting": true, "joining": true,
	"offered": true, "trial": true, "emptying": true, control.Executing: true, "booting": true, "renewed": true,
}

func underWay(st control.Status) bool { return st.Successor != nil || upgrading[st.State] }

func versionOf(st control.Status) Version {
	return Version{Version: st.Version, PID: st.PID, Generation: st.Generation}
}
