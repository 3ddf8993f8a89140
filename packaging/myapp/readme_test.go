// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bufio"
	"encoding/json"
	"go/format"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation/activationtest"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
	"github.com/holdfast-go/holdfast/units"
)

const root = "../../"

// read returns a file of the module.
func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// blocks returns the README's n code blocks in a language.
func blocks(t *testing.T, language string, n int) []string {
	t.Helper()
	parts := strings.Split(read(t, "README.md"), "\n```"+language+"\n")[1:]
	if len(parts) != n {
		t.Fatalf("README.md has %d blocks in %q, want %d", len(parts), language, n)
	}
	for i := range parts {
		text, _, found := strings.Cut(parts[i], "```\n")
		if !found {
			t.Fatalf("README.md: a block in %q does not end", language)
		}
		parts[i] = text
	}
	return parts
}

// block returns the README's only code block in a language.
func block(t *testing.T, language string) string {
	t.Helper()
	return blocks(t, language, 1)[0]
}

// goBlock returns the README's n-th block of Go.
func goBlock(t *testing.T, n int) string {
	t.Helper()
	source := blocks(t, "go", 6)[n]
	if formatted, err := format.Source([]byte(source)); err != nil || string(formatted) != source {
		t.Errorf("gofmt would change the README's block %d of Go (%v):\n%s", n, err, formatted)
	}
	return source
}

// writeGo writes the README's n-th block of Go to a file in dir and returns its path.
func writeGo(t *testing.T, n int, dir, name string) string {
	t.Helper()
	source := goBlock(t, n)
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// build compiles a package, or a file, of the module.
func build(t *testing.T, what string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "program")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", path, what)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", what, err, out)
	}
	// With a wide umask others could write it, and an upgrade would refuse it.
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func buildHoldfast(t *testing.T) string {
	t.Helper()
	return build(t, "./units/cmd/holdfast")
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return string(out)
}

// pages are those whose claims name the tests that show them.
var pages = []string{"README.md", "reexec/SECURITY.md", "packaging/README.md"}

// Every test that a page names exists, in the file that it names.
func TestReadmeNamesTests(t *testing.T) {
	nameRE := regexp.MustCompile("`(Test\\w+)`")
	namedRE := regexp.MustCompile("(`Test\\w+`(?:, `Test\\w+`)*) \\(([\\w/]+_test\\.go)\\)")
	for _, page := range pages {
		text, found := read(t, page), 0
		for _, named := range namedRE.FindAllStringSubmatch(text, -1) {
			source := read(t, named[2])
			for _, name := range nameRE.FindAllStringSubmatch(named[1], -1) {
				found++
				if !strings.Contains(source, "\nfunc "+name[1]+"(t *testing.T)") {
					t.Errorf("%s names %s in %s, which has no such test", page, name[1], named[2])
				}
			}
		}
		if all := len(nameRE.FindAllString(text, -1)); found != all || found == 0 {
			t.Errorf("%s names %d tests, %d of them with a file", page, all, found)
		}
	}
}

// Every function that the page about security names exists, in the file that it names.
func TestSecurityNamesFunctions(t *testing.T) {
	const page = "reexec/SECURITY.md"
	named := regexp.MustCompile("`([\\w/]+\\.go):(\\w+)`").FindAllStringSubmatch(read(t, page), -1)
	if len(named) == 0 {
		t.Errorf("%s names no functions", page)
	}
	for _, n := range named {
		if !regexp.MustCompile(`(?m)^func (\(\w+ \*?\w+\) )?` + n[2] + `\(`).MatchString(read(t, n[1])) {
			t.Errorf("%s names %s in %s, which has no such function", page, n[2], n[1])
		}
	}
}

// Every file and every target of make that the README names exists.
func TestReadmeNamesFiles(t *testing.T) {
	text := read(t, "README.md")
	links := regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(text, -1)
	if len(links) == 0 {
		t.Error("README.md has no links to files")
	}
	for _, link := range links {
		if _, err := os.Stat(filepath.Join(root, link[1])); err != nil {
			t.Error(err)
		}
	}
	makefile := read(t, "Makefile")
	targets := regexp.MustCompile("(?m)^    make ([a-z-]+)|`make ([a-z-]+)`").FindAllStringSubmatch(text, -1)
	if len(targets) == 0 {
		t.Error("README.md has no targets of make")
	}
	for _, target := range targets {
		if name := target[1] + target[2]; !strings.Contains(makefile, "\n"+name+":") {
			t.Errorf("the Makefile has no target %q", name)
		}
	}
}

// The service in the README serves what systemd passes to it, upgrades on
// SIGUSR2 without systemd, and stops.
func TestReadmeService(t *testing.T) {
	dir := t.TempDir()
	program, holdfast := build(t, writeGo(t, 0, dir, "main.go")), buildHoldfast(t)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cmd := activationtest.Command(t, activationtest.Options{
		Descriptors: []activationtest.Descriptor{{Name: "http", Conn: ln.(*net.TCPListener)}},
	}, program)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET=", "RUNTIME_DIRECTORY="+dir)
	// A file: Wait would wait for both generations to close a pipe.
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	t.Cleanup(func() {
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("the service says:\n%s", text)
		}
	})
	// The second generation is the first one's child, and ours when that is gone.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after a failure
		for _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL); ; {
			if _, err := unix.Wait4(-cmd.Process.Pid, nil, 0, nil); err != nil && err != unix.EINTR {
				return
			}
		}
	})

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	status := func() (st control.Status) {
		t.Helper()
		resp, err := client.Get("http://" + ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if err != nil || resp.Header.Get("Content-Type") == "" {
			t.Errorf("GET /: %s, %v", resp.Status, err)
		}
		text := output(t, holdfast, "status", "--json=short", "--socket="+filepath.Join(dir, control.SocketName))
		if err := json.Unmarshal([]byte(text), &st); err != nil {
			t.Fatalf("holdfast status: %v\n%s", err, text)
		}
		return st
	}
	if st := status(); st.Name != "myapp" || st.Generation != 1 || st.PID != cmd.Process.Pid {
		t.Errorf("holdfast status: %+v", st)
	}
	if err := cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the first generation: %v", err)
	}
	st := status()
	if st.Generation != 2 || st.State != "running" || st.PID == cmd.Process.Pid {
		t.Errorf("holdfast status: %+v", st)
	}
	if err := unix.Kill(st.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var ended unix.WaitStatus
	if _, err := unix.Wait4(st.PID, &ended, 0, nil); err != nil || !ended.Exited() || ended.ExitStatus() != 0 {
		t.Errorf("the second generation: wait status %#x, %v", ended, err)
	}
}

// What the README registers beside the server is accepted by the compiler.
func TestReadmeDrain(t *testing.T) {
	t.Parallel()
	const run = "\tif err := svc.Run("
	service := goBlock(t, 0)
	if !strings.Contains(service, run) {
		t.Fatalf("README.md: the service has no %q", run)
	}
	service = strings.Replace(service, run, goBlock(t, 1)+run, 1) + `
var (
	jobs      http.Server // has such a method
	tlsConfig = new(tls.Config)
)

func sendMail(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
`
	service = strings.Replace(service, "import (", `import (
	"crypto/tls"`, 1)
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(service), 0o644); err != nil {
		t.Fatal(err)
	}
	build(t, file)
}

// What the README keeps and commits is accepted by the compiler.
func TestReadmeStates(t *testing.T) {
	t.Parallel()
	source := `package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"os"

	"github.com/holdfast-go/holdfast/reexec"
)

// users is what the README leaves out.
type users struct{}

func (users) save(io.Writer) error { return nil }
func (users) load([]byte) error    { return nil }
func (users) add(string)           {}

func main() {
	svc, err := reexec.New(reexec.Options{Name: "myapp"})
	if err != nil {
		log.Fatal(err)
	}
	var store users
	mux := http.NewServeMux()
` + goBlock(t, 5) + `
	log.Fatal(svc.Run(context.Background()))
}

func keep(ctx context.Context, svc *reexec.Service, memfd *os.File) (*os.File, error) {
` + goBlock(t, 4) + `
	return file, err
}
`
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	build(t, file)
}

// The units in the README are what holdfast renders.
func TestReadmeUnits(t *testing.T) {
	command, want, _ := strings.Cut(block(t, "console"), "\n")
	args := strings.Fields(command)
	if len(args) < 3 || args[0] != "$" || args[1] != "holdfast" {
		t.Fatalf("README.md: %q is not a command of holdfast", command)
	}
	got := output(t, buildHoldfast(t), args[2:]...)
	if why := differ(want, got); why != "" {
		t.Errorf("README.md is not what %q prints: %s", command, why)
	}
}

// differ compares text with what it is shortened to, where lines "[...]" stand
// for any others. It returns what is wrong.
func differ(short, text string) string {
	chunks := strings.Split(short, "[...]\n")
	rest, found := strings.CutPrefix(text, chunks[0])
	if !found {
		return "it does not begin with:\n" + chunks[0]
	}
	for _, chunk := range chunks[1:] {
		if chunk == "" { // after the last marker
			return ""
		}
		_, rest, found = strings.Cut("\n"+rest, "\n"+chunk)
		if !found {
			return "it does not have, or not there:\n" + chunk
		}
	}
	if rest != "" {
		return "it goes on with:\n" + rest
	}
	return ""
}

// The test in the README tests the service in the README, with the units in the
// README, and that keeps the rules.
func TestReadmeUpgradeTest(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", program,
		writeGo(t, 0, dir, "main.go"), writeGo(t, 2, dir, "main_test.go"))
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	if err := os.Mkdir(filepath.Join(dir, "systemd"), 0o755); err != nil {
		t.Fatal(err)
	}
	command, _, _ := strings.Cut(block(t, "console"), "\n")
	output(t, buildHoldfast(t), append(strings.Fields(command)[2:], "--output-dir="+filepath.Join(dir, "systemd"))...)
	cmd = exec.CommandContext(t.Context(), program, "-test.v", "-test.parallel=8")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("the test: %v\n%s", err, out)
	}
	// A server of files reads no request to its end, so none of its requests can be held in flight. And its
	// versions overlap.
	var skipped []string
	for _, found := range regexp.MustCompile(`--- SKIP: TestUpgrade/(\w+)`).FindAllStringSubmatch(string(out), -1) {
		skipped = append(skipped, found[1])
	}
	slices.Sort(skipped)
	if passed := strings.Count(string(out), "--- PASS: TestUpgrade/"); passed < 10 || !slices.Equal(skipped, []string{"in_flight", "same_process"}) {
		t.Errorf("%d rules passed, skipped are %q; want 10 or more, and in_flight and same_process\n%s", passed, skipped, out)
	}
}

// chat is what the README's part of a service with sessions leaves out.
const chat = `package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
)

func main() {
	svc, err := reexec.New(reexec.Options{Name: "chat", Probation: time.Microsecond})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := svc.Listen("chat", "tcp", "127.0.0.1:7070")
	if err != nil {
		log.Fatal(err)
	}
	` + handleSession + `
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(svc, conn, nil)
		}
	}()
	if err := svc.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func answer(conn net.Conn, input []byte) (rest []byte) {
	for {
		line, rest, found := bytes.Cut(input, []byte("\n"))
		if !found {
			return input
		}
		fmt.Fprintf(conn, "%d: %s\n", os.Getpid(), line)
		input = rest
	}
}

`

// handleSession is a line of the README.
const handleSession = `svc.HandleSession("chat", func(conn net.Conn, state []byte) { serve(svc, conn, state) })`

// A session of the service in the README moves in the middle of a line.
func TestReadmeSessions(t *testing.T) {
	t.Parallel()
	if !strings.Contains(read(t, "README.md"), "\n    "+handleSession+"\n") {
		t.Errorf("README.md has no line %q", handleSession)
	}
	file := filepath.Join(t.TempDir(), "chat.go")
	if err := os.WriteFile(file, []byte(chat+goBlock(t, 3)), 0o644); err != nil {
		t.Fatal(err)
	}
	files, err := units.Render(units.Options{
		Name: "chat", Exec: "/usr/bin/chat", Systemd: reexectest.DefaultSystemd,
		Sockets: []units.Socket{{Name: "chat", Address: "127.0.0.1:7070"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	o := reexectest.Options{
		Files:    make(map[string]string),
		Programs: map[string]reexectest.Program{"/usr/bin/chat": reexectest.File(build(t, file))},
	}
	for _, f := range files {
		o.Files[f.Name] = f.Content
	}
	u := reexectest.Start(t, o)
	conn, err := u.Dial(t.Context(), "chat")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(u.Options().Patience)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	ask := func(rest, line string) (pid int) {
		t.Helper()
		if _, err := io.WriteString(conn, rest+"\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := in.ReadString('\n')
		number, said, _ := strings.Cut(answer, ": ")
		if pid, _ = strconv.Atoi(number); said != line+"\n" || err != nil {
			t.Fatalf("answer %q to %q, %v", answer, line, err)
		}
		return pid
	}
	old := u.MainPID()
	if pid := ask("hello", "hello"); pid != old {
		t.Errorf("process %d answers, want %d", pid, old)
	}
	if _, err := io.WriteString(conn, "good"); err != nil {
		t.Fatal(err)
	}
	if err := u.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	// It ends when its drain does, or before.
	for !slices.ContainsFunc(u.Deaths(), func(d reexectest.Death) bool { return d.PID == old }) {
		time.Sleep(time.Millisecond)
	}
	if pid := ask("bye", "goodbye"); pid != u.MainPID() || pid == old {
		t.Errorf("process %d answers, want %d", pid, u.MainPID())
	}
}

// The exit codes in the README are those of holdfast's own help.
func TestReadmeExitCodes(t *testing.T) {
	if help, codes := output(t, buildHoldfast(t), "--help"), block(t, "text"); !strings.HasSuffix(help, "\n"+codes) {
		t.Errorf("README.md has other exit codes than the help:\n%s", help)
	}
}

// The picture in the README is that of the table, without what leads to a stop.
func TestReadmePicture(t *testing.T) {
	var want strings.Builder
	for line := range strings.Lines(read(t, "reexec/internal/machine/testdata/diagram.mmd")) {
		line = strings.TrimSuffix(line, "\n")
		arrow, events, labelled := strings.Cut(line, " : ")
		if strings.Contains(arrow, "stopping") {
			continue
		}
		if labelled {
			var kept []string
			for _, event := range strings.Split(events, ", ") {
				if event != "failed" && event != "stop" && event != "hurry" {
					kept = append(kept, event)
				}
			}
			if len(kept) == 0 {
				continue
			}
			line = arrow + " : " + strings.Join(kept, ", ")
		}
		want.WriteString(line + "\n")
	}
	if got := block(t, "mermaid"); got != want.String() {
		t.Errorf("README.md has another picture than the table; it should be:\n%s", &want)
	}
}
