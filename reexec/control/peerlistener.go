// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// refusalTimeout bounds how long a refused peer is listened to.
	refusalTimeout = 2 * time.Second
	// maxRefusals bounds the descriptors that refused peers can hold; beyond
	// it they are closed at once.
	maxRefusals = 16
	// maxLoggedUIDs bounds the memory of who was already logged.
	maxLoggedUIDs = 256
	// defaultOverflowUID is what the kernel starts with (DEFAULT_OVERFLOWUID).
	defaultOverflowUID = 65534
)

// PeerListener is a listener on a Unix socket whose Accept returns only
// connections of root and of one user, by SO_PEERCRED (unix(7)). Anybody else
// is answered with 403 and an [Error] that names the uid, and is logged once
// per uid at warn.
//
// The kernel reports a peer whose uid has no mapping in this process's user
// namespace (user_namespaces(7)), as under PrivateUsers=yes, as the overflow uid.
// It stands for any such stranger and is never let in: a service that itself
// runs as the overflow uid ("nobody") serves root only.
//
// It keeps one descriptor in reserve. A process that can open nothing any more
// accepts one connection at a time with it: the others wait in the queue. Strangers
// are closed without an answer then.
type PeerListener struct {
	ln       *net.UnixListener
	uid      uint32
	overflow uint32
	logger   *slog.Logger
	refusals sync.WaitGroup
	reserve  *reserve

	mu      sync.Mutex
	closed  bool
	full    bool                       // it was said that there is no descriptor left
	refused map[*net.UnixConn]struct{} // connections being answered with 403
	logged  map[uint32]struct{}
}

// NewPeerListener lets root and uid in through ln. It owns ln from now on:
// Close closes it. Whether that unlinks the socket's path is for the caller to
// have set (SetUnlinkOnClose).
func NewPeerListener(ln *net.UnixListener, uid uint32, logger *slog.Logger) *PeerListener {
	return newPeerListener(ln, uid, overflowUID("/proc/sys/kernel/overflowuid"), logger)
}

func newPeerListener(ln *net.UnixListener, uid, overflow uint32, logger *slog.Logger) *PeerListener {
	if uid == overflow {
		logger.Warn("control socket serves root only: the service runs as the overflow uid, which is also how strangers appear; give it a user of its own (DynamicUser=yes or User=)",
			"socket", ln.Addr().String(), "uid", uid)
	}
	return &PeerListener{
		ln: ln, uid: uid, overflow: overflow, logger: logger,
		reserve: newReserve(),
		refused: make(map[*net.UnixConn]struct{}),
		logged:  make(map[uint32]struct{}),
	}
}

// Accept returns the next connection of a peer that is let in. Close unblocks
// it with an error that is [net.ErrClosed].
func (l *PeerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.ln.AcceptUnix()
		if outOfFiles(err) {
			conn, err := l.acceptReserved(err)
			if errors.Is(err, errNobody) {
				continue
			}
			return conn, err
		}
		if err != nil {
			return nil, err
		}
		cred, err := peerCredentials(conn)
		if err != nil {
			l.logger.Warn("control socket refused a peer", "error", err)
			_ = conn.Close()
			continue
		}
		if l.allowed(cred.Uid) {
			return conn, nil
		}
		l.refuse(conn, cred)
	}
}

// outOfFilesWait is how long Accept waits for somebody who connects, or for the
// descriptor in reserve, while it can accept nobody without it. It also bounds how
// late it hears of Close then.
const outOfFilesWait = 100 * time.Millisecond

// errNobody says that nobody was accepted, and that it is worth another try.
var errNobody = errors.New("nobody waits who is let in")

// acceptReserved accepts one connection where there is no descriptor for it but the
// one in reserve; full says so. The error may be errNobody.
func (l *PeerListener) acceptReserved(full error) (net.Conn, error) {
	if !somebodyWaits(l.ln, outOfFilesWait) {
		return nil, errNobody
	}
	if !l.reserve.giveUp() {
		time.Sleep(outOfFilesWait)
		return nil, errNobody
	}
	// Whoever waited may be gone, and the next one is not to be waited for.
	_ = l.ln.SetDeadline(time.Now().Add(outOfFilesWait))
	conn, err := l.ln.AcceptUnix()
	_ = l.ln.SetDeadline(time.Time{})
	if err != nil {
		l.reserve.back()
		if errors.Is(err, os.ErrDeadlineExceeded) || outOfFiles(err) {
			err = errNobody
		}
		return nil, err
	}
	l.warnFull(full)
	if cred, err := peerCredentials(conn); err != nil || !l.allowed(cred.Uid) {
		_ = conn.Close()
		l.reserve.back()
		return nil, errNobody
	}
	return &reserved{Conn: conn, reserve: l.reserve}, nil
}

// warnFull says it once: as long as it is so, each connection would say it again.
func (l *PeerListener) warnFull(full error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.full {
		l.full = true
		l.logger.Warn("no file can be opened any more; the control socket answers one client at a time: raise LimitNOFILE=, or see what leaks", "error", full)
	}
}

// Close closes the socket and the connections of refused peers that are still
// being answered. It does not touch connections that Accept returned.
func (l *PeerListener) Close() error {
	err := l.ln.Close()
	l.reserve.close()
	l.mu.Lock()
	l.closed = true
	for conn := range l.refused {
		_ = conn.SetDeadline(time.Unix(1, 0))
	}
	l.mu.Unlock()
	l.refusals.Wait()
	return err
}

// Addr is the address of the socket.
func (l *PeerListener) Addr() net.Addr { return l.ln.Addr() }

func (l *PeerListener) allowed(uid uint32) bool {
	// The overflow uid first: it is refused whoever else it may be.
	return uid != l.overflow && (uid == 0 || uid == l.uid)
}

func (l *PeerListener) refuse(conn *net.UnixConn, cred *syscall.Ucred) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.logged[cred.Uid]; !known && len(l.logged) < maxLoggedUIDs {
		l.logged[cred.Uid] = struct{}{}
		l.logger.Warn("control socket refused a peer", "reason", l.reason(cred.Uid), "uid", cred.Uid, "pid", cred.Pid)
	}
	if l.closed || len(l.refused) == maxRefusals {
		_ = conn.Close()
		return
	}
	l.refused[conn] = struct{}{}
	_ = conn.SetDeadline(time.Now().Add(refusalTimeout))
	l.refusals.Go(func() {
		answerRefused(conn, l.reason(cred.Uid))
		_ = conn.Close()
		l.mu.Lock()
		delete(l.refused, conn)
		l.mu.Unlock()
	})
}

func (l *PeerListener) reason(uid uint32) string {
	if uid == l.overflow {
		return fmt.Sprintf("uid %d is not served: it is the overflow uid, which stands for any user that this user namespace does not map", uid)
	}
	if l.uid == l.overflow || l.uid == 0 {
		return fmt.Sprintf("uid %d is not served: only root is", uid)
	}
	return fmt.Sprintf("uid %d is not served: only root and uid %d are", uid, l.uid)
}

// answerRefused reads the request before it answers: closing a Unix socket
// with unread bytes resets it, and the peer would lose the answer.
func answerRefused(conn *net.UnixConn, reason string) {
	req, err := http.ReadRequest(bufio.NewReader(io.LimitReader(conn, 8<<10)))
	if err != nil {
		return
	}
	body, err := json.Marshal(&Error{Message: reason})
	if err != nil {
		return
	}
	resp := &http.Response{
		StatusCode: http.StatusForbidden,
		ProtoMajor: 1, ProtoMinor: 1,
		Request:       req,
		Header:        http.Header{"Content-Type": {"application/json"}},
		ContentLength: int64(len(body)),
		Body:          io.NopCloser(bytes.NewReader(body)),
		Close:         true,
	}
	if resp.Write(conn) != nil || conn.CloseWrite() != nil {
		return
	}
	// What the peer still sends is read away, for the same reason.
	_, _ = io.Copy(io.Discard, conn)
}

// peerCredentials are those of the process that called connect(2), or for the one that
// did, of the process that called listen(2).
func peerCredentials(conn *net.UnixConn) (*syscall.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("get SO_PEERCRED: %w", err)
	}
	var cred *syscall.Ucred
	var sockErr error
	if err := raw.Control(func(fd uintptr) {
		cred, sockErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		sockErr = errors.Join(sockErr, err)
	}
	if sockErr != nil {
		return nil, fmt.Errorf("get SO_PEERCRED: %w", sockErr)
	}
	return cred, nil
}

// overflowUID reads the sysctl (proc_sys_kernel(5)); it is hidden under
// ProcSubset=pid, and then it is taken to be what every distribution has.
func overflowUID(path string) uint32 {
	data, err := os.ReadFile(path)
	if err != nil {
		return defaultOverflowUID
	}
	uid, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 32)
	if err != nil {
		return defaultOverflowUID
	}
	return uint32(uid)
}
