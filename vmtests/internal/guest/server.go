// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/internal/command"
)

// A Server runs the commands of a [Client].
type Server struct {
	// Groups is the directory of a control group of the unified hierarchy that is the server's own: each
	// command gets one below. Where it is empty, commands get process groups instead.
	Groups string

	frames *frameWriter

	mu       sync.Mutex
	commands map[uint32]*served
}

// A served command.
type served struct {
	stdin          *inbound
	input          *io.PipeReader // the end of stdin that the program gets, nil for none
	stdout, stderr *outbound

	mu    sync.Mutex
	group string // "" for a process group
	pid   int    // 0 before it runs and after it ended
}

// Serve greets the client at the other end of conn and runs its commands until conn ends. Those that
// still run then are killed.
func (s *Server) Serve(conn io.ReadWriter) error {
	s.frames = &frameWriter{w: conn}
	s.commands = make(map[uint32]*served)
	if err := s.frames.write(frame{0, kindHello, []byte(greeting)}); err != nil {
		return err
	}
	defer s.abandon()
	for {
		f, err := readFrame(conn)
		if err != nil {
			return err
		}
		if err := s.handle(f); err != nil {
			return fmt.Errorf("command %d: %w", f.id, err)
		}
	}
}

// abandon ends all commands: nobody hears from them any more.
func (s *Server) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.commands {
		c.kill()
		c.stdout.close()
		c.stderr.close()
	}
}

func (s *Server) handle(f frame) error {
	if f.kind == kindStart {
		var request startRequest
		if err := json.Unmarshal(f.payload, &request); err != nil {
			return err
		}
		s.start(f.id, request)
		return nil
	}
	s.mu.Lock()
	c := s.commands[f.id]
	s.mu.Unlock()
	if c == nil {
		return nil // it ended before the client knew
	}
	switch f.kind {
	case kindStdin:
		return c.stdin.put(f.payload)
	case kindStdinEnd:
		c.stdin.end(io.EOF)
	case kindKill:
		c.kill()
	case kindCredit:
		stream, n, err := f.credit()
		switch {
		case err != nil:
			return err
		case stream == kindStdout:
			c.stdout.addCredit(n)
		case stream == kindStderr:
			c.stderr.addCredit(n)
		default:
			return fmt.Errorf("credit for stream %d", stream)
		}
	default:
		return fmt.Errorf("unexpected frame of kind %d", f.kind)
	}
	return nil
}

// start starts a command and leaves a goroutine that waits for it.
func (s *Server) start(id uint32, request startRequest) {
	c := &served{
		stdin:  newInbound(s.frames, id, kindStdin),
		stdout: newOutbound(s.frames, id, kindStdout),
		stderr: newOutbound(s.frames, id, kindStderr),
	}
	s.mu.Lock()
	s.commands[id] = c
	s.mu.Unlock()
	running, err := s.run(id, c, request)
	if err != nil {
		s.forget(id)
		_ = s.frames.writeJSON(id, kindStarted, startReply{Error: err.Error()}) // fails with the connection only
		return
	}
	go func() {
		reply := c.wait(running)
		s.forget(id)
		_ = s.frames.writeJSON(id, kindExit, reply) // fails with the connection only
	}()
}

func (s *Server) run(id uint32, c *served, request startRequest) (*command.Running, error) {
	// The shell makes an exit status of what cannot be executed, with a reason. It waits until the client
	// knows of it: no output must come before.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `read -r go <&3; exec 3<&-; exec "$@"`, "sh"}, request.Args...)...)
	cmd.Dir, cmd.Env = "/", request.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	gate, open, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	defer open.Close()
	cmd.ExtraFiles = []*os.File{gate}
	if s.Groups != "" {
		group := filepath.Join(s.Groups, strconv.FormatUint(uint64(id), 10))
		if err := os.Mkdir(group, 0o755); err != nil {
			return nil, err
		}
		dir, err := os.Open(group)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		c.group = group
	}
	streams := command.Streams{Stdout: c.stdout, Stderr: c.stderr}
	if request.Stdin {
		reader, writer := io.Pipe()
		streams.Stdin, c.input = reader, reader
		go func() {
			_, _ = c.stdin.WriteTo(writer) // what the command does not read is its business
			writer.Close()
		}()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	running, err := command.Start(cmd, streams)
	if err != nil {
		c.endInput()
		return nil, err
	}
	c.pid = cmd.Process.Pid
	return running, s.frames.writeJSON(id, kindStarted, startReply{PID: c.pid})
}

func (s *Server) forget(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.commands, id)
}

// kill ends the command and all that it started.
func (c *served) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Errors mean that it has ended.
	if c.group != "" {
		_ = os.WriteFile(filepath.Join(c.group, "cgroup.kill"), []byte("1"), 0)
	} else if c.pid != 0 {
		_ = unix.Kill(-c.pid, unix.SIGKILL)
	}
}

func (c *served) wait(running *command.Running) exitReply {
	status, err := running.Wait()
	c.mu.Lock()
	c.pid = 0
	if c.group != "" {
		_ = unix.Rmdir(c.group) // fails while something it started goes on
	}
	c.mu.Unlock()
	c.endInput()
	if err != nil {
		return exitReply{Error: err.Error()}
	}
	return exitReply{Status: status}
}

// endInput lets go of input that the command did not read.
func (c *served) endInput() {
	c.stdin.end(io.EOF)
	if c.input != nil {
		c.input.Close()
	}
}
