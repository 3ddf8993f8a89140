// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// link is the handover between two generations of one process.
type link struct {
	mover *mover
	other *Service // what adopts
	a, b  *handover.Conn
	done  sync.WaitGroup
}

// linked makes a mover to next. What it sends goes to receive; nil adopts it.
func linked(t *testing.T, next *httpGeneration, receive func(*link, handover.Frame, []*os.File)) *link {
	t.Helper()
	a, file, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	b, err := handover.New(file)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	l := &link{a: a, b: b, other: &Service{log: log}}
	if next != nil {
		l.other.inv = next.inv
	}
	if receive == nil {
		receive = func(l *link, f handover.Frame, files []*os.File) { l.other.adopt(l.b, f, files) }
	}
	from := newAnswers()
	l.mover = newMover(a, from, log)
	l.done.Go(func() {
		for {
			f, files, err := b.Receive()
			if err != nil {
				return
			}
			receive(l, f, files)
		}
	})
	l.done.Go(func() {
		for {
			f, files, err := a.Receive()
			closeFiles(files)
			if err != nil {
				from.end(err)
				return
			}
			if err := from.add(f); err != nil {
				t.Error(err)
				from.end(err)
				return
			}
		}
	})
	t.Cleanup(func() {
		_, _ = a.Close(), b.Close()
		l.done.Wait()
	})
	return l
}

func (l *link) adopted() int {
	l.other.mu.Lock()
	defer l.other.mu.Unlock()
	return l.other.adopted
}

func (l *link) waitAdopted(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); l.adopted() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections were adopted, want %d", l.adopted(), n)
		}
	}
}

// moveTo drains g, with l to move to.
func (g *httpGeneration) moveTo(l *link) {
	g.t.Helper()
	g.inv.pause()
	g.drain.mover = l.mover
	g.begin(successors)
}

// following makes the next generation, which accepts.
func (g *httpGeneration) following(srv *http.Server) *httpGeneration {
	g.t.Helper()
	next := newHTTPGeneration(g.t, nextInventory(g.t, g.inv), srv)
	next.serving()
	next.inv.accept()
	return next
}

// serving waits until the server runs.
func (g *httpGeneration) serving() *keepAlives {
	g.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if set := g.server.keepAlives.Load(); set != nil {
			return set
		}
		if time.Now().After(deadline) {
			g.t.Fatal("the server does not run")
		}
	}
}

// waitPhase waits until n connections are in this phase; arriving is also for
// those that have arrived.
func (g *httpGeneration) waitPhase(p phase, n int) {
	g.t.Helper()
	set := g.serving()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		got := 0
		for _, c := range set.list() {
			c.mu.Lock()
			switch {
			case p == arriving && c.phase == busy, c.phase == p && (p == arriving || p == busy || c.reading):
				got++
			}
			c.mu.Unlock()
		}
		if got == n {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("%d connections are in phase %d, want %d", got, p, n)
		}
	}
}

// firstGeneration accepts.
func firstGeneration(t *testing.T, srv *http.Server) *httpGeneration {
	t.Helper()
	g := newHTTPGeneration(t, firstInventory(t), srv)
	g.serving()
	g.inv.accept()
	return g
}

func (c *httpClient) write(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, text); err != nil {
		c.t.Fatal(err)
	}
}

// answer reads one answer and checks it, and that the connection stays.
func (c *httpClient) answer(want string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatalf("no answer %q: %v", want, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != want {
		c.t.Errorf("answer %q, %v; want %q", body, err, want)
	}
	if resp.Close {
		c.t.Errorf("answer %q leads away", body)
	}
}

func (c *httpClient) mustAsk(body, want string) {
	c.t.Helper()
	c.send(body)
	c.answer(want)
}

func TestIdleConnectionsMove(t *testing.T) {
	const clients = 450 // more than two frames
	a := firstGeneration(t, &http.Server{Handler: echo("A")})
	var all []*httpClient
	for i := range clients {
		c := dialHTTP(t, a.ln.Addr())
		if i%3 > 0 {
			c.mustAsk("1", "A: 1")
		} // the others have not asked anything yet
		all = append(all, c)
	}
	b := a.following(&http.Server{Handler: echo("B")})
	// What was never accepted is the next one's anyway.
	a.waitPhase(waiting, clients-clients/3)
	a.waitPhase(fresh, clients/3)
	l := linked(t, b, nil)
	a.moveTo(l)
	a.mustEnd()
	if n := l.adopted(); n != clients {
		t.Errorf("%d connections were adopted, want %d", n, clients)
	}
	for i, c := range all {
		for j := range 2 {
			body := fmt.Sprintf("%d of %d", j, i)
			c.mustAsk(body, "B: "+body)
		}
	}
}

// Whatever of a request has arrived when the move begins: it is answered once,
// by whoever has read the beginning, and the next one by the next generation.
func TestMoveWhileRequestsArrive(t *testing.T) {
	request := "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabcdef"
	a := firstGeneration(t, &http.Server{Handler: echo("A")})
	var all []*httpClient
	for i := range 2 * len(request) {
		c := dialHTTP(t, a.ln.Addr())
		if i < len(request) {
			c.mustAsk("1", "A: 1")
		} // the others are new
		all = append(all, c)
	}
	a.waitPhase(waiting, len(request))
	a.waitPhase(fresh, len(request))
	for i, c := range all {
		c.write(request[:i%len(request)])
	}
	a.waitPhase(arriving, 2*(len(request)-1))
	b := a.following(&http.Server{Handler: echo("B")})
	l := linked(t, b, nil)
	a.moveTo(l)
	l.waitAdopted(t, 2)
	for i, c := range all {
		i %= len(request)
		c.write(request[i:])
		if i == 0 {
			c.answer("B: abcdef")
		} else {
			c.answer("A: abcdef")
		}
	}
	a.mustEnd()
	for _, c := range all {
		c.mustAsk("2", "B: 2")
	}
}

// The same, with bytes that arrive at the very moment of the move.
func TestMoveRacesWithRequests(t *testing.T) {
	const clients, moves = 24, 30
	gen := firstGeneration(t, &http.Server{Handler: echo("0")})
	addr := gen.ln.Addr()
	stop := make(chan struct{})
	var asked atomic.Int64
	var done sync.WaitGroup
	for i := range clients {
		c := dialHTTP(t, addr)
		done.Go(func() {
			last := 0
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				body := strings.Repeat("x", (n*7+i)%50)
				request := fmt.Sprintf("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				cut := (n*13 + i*5) % len(request)
				for _, part := range []string{request[:cut], request[cut:]} {
					if _, err := io.WriteString(c.conn, part); err != nil {
						t.Errorf("client %d, request %d: %v", i, n, err)
						return
					}
				}
				resp, err := http.ReadResponse(c.in, nil)
				if err != nil {
					t.Errorf("client %d, request %d: %v", i, n, err)
					return
				}
				answer, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				by, got, _ := strings.Cut(string(answer), ": ")
				var generation int
				_, scanErr := fmt.Sscan(by, &generation)
				if err != nil || scanErr != nil || got != body || resp.Close || generation < last {
					t.Errorf("client %d, request %d: answer %q after generation %d, close %t, %v", i, n, answer, last, resp.Close, err)
					return
				}
				last = generation
				asked.Add(1)
			}
		})
	}
	for i := range moves {
		for before := asked.Load(); asked.Load() < before+2*clients && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		next := gen.following(&http.Server{Handler: echo(fmt.Sprint(i + 1))})
		gen.moveTo(linked(t, next, nil))
		gen.mustEnd()
		gen = next
	}
	close(stop)
	done.Wait()
	t.Logf("%d requests over %d moves of %d connections", asked.Load(), moves, clients)
}

// What a client has sent ahead is in net/http's buffer, and is answered before
// the connection moves.
func TestPipelinedRequestsAreAnsweredFirst(t *testing.T) {
	post := func(body, more string) string {
		return fmt.Sprintf("POST / HTTP/1.1\r\nHost: test\r\n%sContent-Length: %d\r\n\r\n%s", more, len(body), body)
	}
	first, second := post("wait", ""), post("2", "")
	// A header that is longer than the buffer.
	long := post("2", "X: "+strings.Repeat("x", 4096)+"\r\n")
	for _, c := range []struct{ name, now, later string }{
		{"whole", second, ""},
		{"two", second + second, ""},
		{"a part", second[:10], second[10:]},
		{"a byte", second[:1], second[1:]},
		// Taken out of the buffer, which is empty then, as between requests.
		{"a line", second[:len("POST / HTTP/1.1\r\n")], second[len("POST / HTTP/1.1\r\n"):]},
		{"a full buffer", long[:4096-len(first)], long[4096-len(first):]},
	} {
		t.Run(c.name, func(t *testing.T) {
			entered, release := make(chan struct{}), make(chan struct{})
			a := firstGeneration(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				if string(body) == "wait" {
					close(entered)
					<-release
				}
				fmt.Fprintf(w, "A: %s", body)
			})})
			client := dialHTTP(t, a.ln.Addr())
			client.write(first + c.now)
			<-entered
			b := a.following(&http.Server{Handler: echo("B")})
			l := linked(t, b, nil)
			a.moveTo(l)
			close(release)
			client.answer("A: wait")
			client.write(c.later)
			for range strings.Count(c.now+c.later, "POST") {
				client.answer("A: 2")
			}
			a.mustEnd()
			client.mustAsk("3", "B: 3")
		})
	}
}

func TestMoveDuring100Continue(t *testing.T) {
	a := firstGeneration(t, &http.Server{Handler: echo("A")})
	c := dialHTTP(t, a.ln.Addr())
	c.write("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil || resp.StatusCode != http.StatusContinue {
		t.Fatalf("%v, %v", resp, err)
	}
	b := a.following(&http.Server{Handler: echo("B")})
	a.moveTo(linked(t, b, nil))
	c.write("abc")
	c.answer("A: abc")
	// One that follows at once may come before the connection is idle.
	a.mustEnd()
	c.mustAsk("2", "B: 2")
}

// A hijacked connection is its handler's: it does not move, and nothing is
// intercepted any more.
func TestHijackedConnectionsStay(t *testing.T) {
	hijacked := make(chan net.Conn, 1)
	a := firstGeneration(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
		}
		hijacked <- conn
	})})
	c := dialHTTP(t, a.ln.Addr())
	c.send("x")
	conn := <-hijacked
	for _, want := range []struct {
		name string
		ok   bool
	}{
		{"ReadFrom", implements[io.ReaderFrom](conn)},
		{"WriteTo", implements[io.WriterTo](conn)},
		{"CloseWrite", implements[interface{ CloseWrite() error }](conn)},
		{"SyscallConn", implements[syscall.Conn](conn)},
		{"SetNoDelay", implements[interface{ SetNoDelay(bool) error }](conn)},
	} {
		if !want.ok {
			t.Errorf("the hijacked connection has no %s", want.name)
		}
	}
	b := a.following(&http.Server{Handler: echo("B")})
	a.moveTo(linked(t, b, nil))
	// Reads with a buffer of net/http's size, after deadlines like net/http's.
	read := make(chan error, 1)
	go func() {
		_ = conn.SetReadDeadline(time.Time{})
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err == nil {
			_, err = conn.Write(buf[:n])
		}
		read <- err
	}()
	a.mustWait()
	c.write("hello")
	got := make([]byte, 5)
	if _, err := io.ReadFull(c.in, got); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	_ = conn.SetReadDeadline(time.Unix(1, 0))
	if _, err := conn.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("after a deadline: %v", err)
	}
	_ = conn.Close()
	a.mustEnd()
}

func implements[T any](v any) bool {
	_, ok := v.(T)
	return ok
}

// net/http sends files by sendfile(2) if the connection has ReadFrom, and an
// adopted connection has it too.
func TestFilesAreSentOverAdoptedConnections(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			content := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
			path := t.TempDir() + "/file"
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			server := func() *http.Server {
				return &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) })}
			}
			address := "127.0.0.1:0"
			if network == "unix" {
				address = t.TempDir() + "/s"
			}
			a := generationOn(t, firstInventory(t), server(), network, address)
			c := dialHTTP(t, a.ln.Addr())
			get := func() {
				t.Helper()
				c.write("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
				resp, err := http.ReadResponse(c.in, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil || !bytes.Equal(body, content) || resp.Close {
					t.Errorf("%d bytes, close %t, %v", len(body), resp.Close, err)
				}
			}
			get()
			a.waitPhase(waiting, 1)
			b := generationOn(t, nextInventory(t, a.inv), server(), network, address)
			l := linked(t, b, nil)
			a.moveTo(l)
			a.mustEnd()
			get()
			conns := b.serving().list()
			if len(conns) != 1 || l.adopted() != 1 {
				t.Fatalf("%d connections are open, %d were adopted; want 1", len(conns), l.adopted())
			}
			if network == "tcp" && !implements[io.ReaderFrom](conns[0].self) {
				t.Error("the adopted connection has no ReadFrom")
			}
		})
	}
}

func generationOn(t *testing.T, inv *inventory, srv *http.Server, network, address string) *httpGeneration {
	t.Helper()
	g := newHTTPGenerationOn(t, inv, srv, network, address, nil)
	g.serving()
	g.inv.accept()
	return g
}

// A moved connection is no new one: the times for a header and for a request
// begin with the request.
func TestMovedConnectionIsNotNew(t *testing.T) {
	t.Parallel() // it sleeps
	const limit = time.Second
	server := func(name string) *http.Server {
		return &http.Server{Handler: echo(name), ReadHeaderTimeout: limit, ReadTimeout: limit, IdleTimeout: patience}
	}
	a := firstGeneration(t, server("A"))
	c := dialHTTP(t, a.ln.Addr())
	c.mustAsk("1", "A: 1")
	a.waitPhase(waiting, 1)
	b := a.following(server("B"))
	a.moveTo(linked(t, b, nil))
	a.mustEnd()
	// Silence is what is tried here.
	time.Sleep(2 * limit)
	c.mustAsk("2", "B: 2")
	// Half a header, however, has its time.
	c.write("POST / HT")
	if rest, err := io.ReadAll(c.in); err != nil {
		t.Errorf("the connection is not closed: %q, %v", rest, err)
	}
}

// The idle time goes on, and is the one of the server where it began.
func TestMovedConnectionKeepsItsIdleTime(t *testing.T) {
	t.Parallel() // it waits for the limit
	const limit = patience / 4
	a := firstGeneration(t, &http.Server{Handler: echo("A"), IdleTimeout: limit})
	c := dialHTTP(t, a.ln.Addr())
	sent := time.Now()
	c.mustAsk("1", "A: 1")
	answered := time.Now()
	a.waitPhase(waiting, 1)
	b := a.following(&http.Server{Handler: echo("B"), IdleTimeout: patience})
	l := linked(t, b, nil)
	a.moveTo(l)
	a.mustEnd()
	gen := b.following(&http.Server{Handler: echo("C"), IdleTimeout: patience})
	l2 := linked(t, gen, nil)
	b.moveTo(l2)
	b.mustEnd()
	if l.adopted() != 1 || l2.adopted() != 1 {
		t.Fatalf("adopted %d, then %d; want 1", l.adopted(), l2.adopted())
	}
	c.mustBeClosed()
	if got := time.Since(sent); got < limit {
		t.Errorf("closed after %v, want at least %v", got, limit)
	}
	if got := time.Since(answered); got > patience/2 {
		t.Errorf("closed after %v, want about %v", got, limit)
	}
}

// One that is silent goes through many generations.
func TestSilentConnectionMovesAgain(t *testing.T) {
	gen := firstGeneration(t, &http.Server{Handler: echo("0")})
	c := dialHTTP(t, gen.ln.Addr())
	c.mustAsk("1", "0: 1")
	gen.waitPhase(waiting, 1)
	for i := range 10 {
		next := gen.following(&http.Server{Handler: echo(fmt.Sprint(i + 1))})
		gen.moveTo(linked(t, next, nil))
		gen.mustEnd()
		gen = next
	}
	c.mustAsk("2", "10: 2")
}

// What has been adopted and was not used ends with its client, with the service
// and with the drain.
func TestAdoptedConnectionsEnd(t *testing.T) {
	for _, how := range []string{"client", "stop", "drain", "cut"} {
		t.Run(how, func(t *testing.T) {
			a := firstGeneration(t, &http.Server{Handler: echo("A")})
			c := dialHTTP(t, a.ln.Addr())
			c.mustAsk("1", "A: 1")
			a.waitPhase(waiting, 1)
			b := a.following(&http.Server{Handler: echo("B")})
			a.moveTo(linked(t, b, nil))
			a.mustEnd()
			switch how {
			case "client":
				_ = c.conn.Close()
				b.ln.conns.wait(nil)
				return
			case "stop":
				b.begin(ours)
				b.drain.now()
				c.mustBeClosed()
			case "drain":
				// To nobody who takes it: it is waited for, answered and led away.
				b.begin(successors)
				b.mustWait()
				if resp := c.ask("2"); !resp.Close {
					t.Error("the answer does not lead away")
				}
				c.mustBeClosed()
			case "cut":
				b.begin(successors)
				b.mustWait()
				b.drain.abandon()
				c.mustBeClosed()
			}
			b.mustEnd()
		})
	}
}

// What the other generation does not take stays, is answered, and is led away.
func TestConnectionsThatAreNotTakenStay(t *testing.T) {
	for name, receive := range map[string]func(*link, handover.Frame, []*os.File){
		"no such listener": func(l *link, f handover.Frame, files []*os.File) {
			l.other.inv = firstInventory(t)
			l.other.adopt(l.b, f, files)
		},
		"none has arrived": func(l *link, f handover.Frame, files []*os.File) {
			closeFiles(files)
			l.other.adopt(l.b, f, nil)
		},
		"it dies": func(l *link, _ handover.Frame, files []*os.File) {
			closeFiles(files)
			_ = l.b.Close()
		},
		"a wrong count": func(l *link, _ handover.Frame, files []*os.File) {
			closeFiles(files)
			_ = l.b.Send(handover.KindTaken, handover.Taken{Count: 1000})
		},
		"one that was not sent": func(l *link, _ handover.Frame, files []*os.File) {
			closeFiles(files)
			_ = l.b.Send(handover.KindTaken, handover.Taken{Count: len(files), Kept: []int{len(files)}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := firstGeneration(t, &http.Server{Handler: echo("A")})
			var all []*httpClient
			for range 20 {
				c := dialHTTP(t, a.ln.Addr())
				c.mustAsk("1", "A: 1")
				all = append(all, c)
			}
			a.waitPhase(waiting, len(all))
			b := a.following(&http.Server{Handler: echo("B")})
			l := linked(t, b, receive)
			a.moveTo(l)
			<-l.mover.settled
			a.mustWait()
			for _, c := range all {
				if resp := c.ask("2"); !resp.Close {
					t.Error("the answer does not lead away")
				}
				c.mustBeClosed()
			}
			a.mustEnd()
		})
	}
}

// A receiver of whose frame only the beginning has arrived, at its limit of open
// files, has that.
func TestReceiverWithoutRoom(t *testing.T) {
	const clients, arrive = 40, 20
	a := firstGeneration(t, &http.Server{Handler: echo("A")})
	var all []*httpClient
	for range clients {
		c := dialHTTP(t, a.ln.Addr())
		c.mustAsk("1", "A: 1")
		all = append(all, c)
	}
	a.waitPhase(waiting, clients)
	b := a.following(&http.Server{Handler: echo("B")})
	var sent atomic.Int64
	l := linked(t, b, func(l *link, f handover.Frame, files []*os.File) {
		sent.Add(int64(len(files)))
		n := min(len(files), arrive)
		closeFiles(files[n:])
		l.other.adopt(l.b, f, files[:n])
	})
	// All in one frame.
	l.mover.offers = make(chan *offer, clients)
	set := a.serving()
	set.move(l.mover)
	for len(l.mover.offers) < clients {
		time.Sleep(time.Millisecond)
	}
	a.moveTo(l)
	<-l.mover.settled
	stayed := 0
	for _, c := range all {
		if resp := c.ask("2"); resp.Close {
			stayed++
			c.mustBeClosed()
		}
	}
	if want := clients - arrive; sent.Load() != clients || stayed != want {
		t.Errorf("%d were sent, %d stayed; want %d, %d", sent.Load(), stayed, clients, want)
	}
	a.mustEnd()
}

// The predecessor ends while connections are on their way: nobody waits for the
// answer, and what has been sent is the other one's.
func TestPredecessorEndsDuringMove(t *testing.T) {
	for _, dies := range []bool{false, true} {
		t.Run(fmt.Sprintf("dies %t", dies), func(t *testing.T) {
			a := firstGeneration(t, &http.Server{Handler: echo("A")})
			c := dialHTTP(t, a.ln.Addr())
			c.mustAsk("1", "A: 1")
			a.waitPhase(waiting, 1)
			b := a.following(&http.Server{Handler: echo("B")})
			received, goOn := make(chan struct{}), make(chan struct{})
			l := linked(t, b, func(l *link, f handover.Frame, files []*os.File) {
				close(received)
				<-goOn
				l.other.adopt(l.b, f, files)
			})
			a.moveTo(l)
			<-received
			a.mustWait()
			a.drain.now()
			a.mustEnd()
			if dies {
				_ = l.a.Close()
			}
			close(goOn)
			c.mustAsk("2", "B: 2")
		})
	}
}

// Connections that may speak something else, or that we do not know.
func TestWhatCannotMoveIsLedAway(t *testing.T) {
	var h2c http.Protocols
	h2c.SetHTTP1(true)
	h2c.SetUnencryptedHTTP2(true)
	for _, name := range []string{"h2c", "wrapped", "odd"} {
		t.Run(name, func(t *testing.T) {
			srv := &http.Server{Handler: echo("A")}
			if name == "h2c" {
				srv.Protocols = &h2c
			}
			a := newHTTPGenerationOn(t, firstInventory(t), srv, "tcp", "127.0.0.1:0", func(ln net.Listener) net.Listener {
				switch name {
				case "wrapped":
					return struct{ net.Listener }{ln}
				case "odd":
					lane := ln.(*listener).lanes[0]
					lane.Listener = oddListener{lane.Listener.(*net.TCPListener)}
				}
				return ln
			})
			a.inv.accept()
			c := dialHTTP(t, a.ln.Addr())
			c.mustAsk("1", "A: 1")
			b := a.following(&http.Server{Handler: echo("B")})
			a.moveTo(linked(t, b, nil))
			a.mustWait()
			if resp := c.ask("2"); !resp.Close {
				t.Error("the answer does not lead away")
			}
			c.mustBeClosed()
			a.mustEnd()
		})
	}
}

// The service's own hook is still called.
func TestConnStateHookIsKept(t *testing.T) {
	var states sync.Map
	a := firstGeneration(t, &http.Server{Handler: echo("A"), ConnState: func(_ net.Conn, s http.ConnState) { states.Store(s, true) }})
	c := dialHTTP(t, a.ln.Addr())
	c.mustAsk("1", "A: 1")
	a.waitPhase(waiting, 1)
	for _, s := range []http.ConnState{http.StateNew, http.StateActive, http.StateIdle} {
		if _, ok := states.Load(s); !ok {
			t.Errorf("the hook was not called for %v", s)
		}
	}
}
