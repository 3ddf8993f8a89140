// SPDX-License-Identifier: Apache-2.0

// Package command runs programs with streams that are copied. It differs from os/exec in how that ends:
// os/exec waits for the reader of standard input, and drops output that is read late.
package command

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// grace is how long output may stay away after the end of a program before nothing more is expected:
// only what it left in the background still has the pipe.
const grace = time.Second

// A Status is how a program ended: with an exit code, or by a signal.
type Status struct {
	Code   int    `json:"code"`             // -1 when a signal ended it
	Signal string `json:"signal,omitempty"` // its name as kill(1) takes it, such as "TERM"
}

// Streams are the standard streams of a program. What is nil is /dev/null; files are passed on as they
// are. Stdout and Stderr may be the same writer, and are otherwise written to by one goroutine each.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// A Running program.
type Running struct {
	cmd     *exec.Cmd
	ended   chan struct{} // closed when the program, not its output, has come to an end
	copying sync.WaitGroup
}

// Start starts cmd, which has no streams yet. Reading from s.Stdin is not waited for: when the program
// ends first, one more Read may follow.
func Start(cmd *exec.Cmd, s Streams) (*Running, error) {
	r := &Running{cmd: cmd, ended: make(chan struct{})}
	var theirs, ours []*os.File
	closeAll := func(files []*os.File) {
		for _, file := range files {
			file.Close()
		}
	}
	output := func(w io.Writer) (io.Writer, func(), error) {
		switch w.(type) {
		case nil, *os.File:
			return w, func() {}, nil
		}
		reader, writer, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		theirs, ours = append(theirs, writer), append(ours, reader)
		return writer, func() { r.copying.Go(func() { r.copyOutput(w, reader) }) }, nil
	}
	var copyStdin, copyStdout, copyStderr func()
	var err error
	switch s.Stdin.(type) {
	case nil, *os.File:
		cmd.Stdin, copyStdin = s.Stdin, func() {}
	default:
		reader, writer, pipeErr := os.Pipe()
		if err = pipeErr; err == nil {
			theirs, ours = append(theirs, reader), append(ours, writer)
			cmd.Stdin, copyStdin = reader, func() { go copyInput(writer, s.Stdin) }
		}
	}
	if err == nil {
		cmd.Stdout, copyStdout, err = output(s.Stdout)
	}
	switch {
	case err != nil:
	case same(s.Stdout, s.Stderr): // one pipe, so that one goroutine writes, in order
		cmd.Stderr, copyStderr = cmd.Stdout, func() {}
	default:
		cmd.Stderr, copyStderr, err = output(s.Stderr)
	}
	if err == nil {
		err = cmd.Start()
	}
	closeAll(theirs)
	if err != nil {
		closeAll(ours)
		return nil, err
	}
	copyStdin()
	copyStdout()
	copyStderr()
	return r, nil
}

// same reports whether a and b are the same writer.
func same(a, b io.Writer) bool {
	defer func() { _ = recover() }() // types that cannot be compared are not the same
	return a == b
}

func copyInput(w *os.File, r io.Reader) {
	_, _ = io.Copy(w, r) // what the program does not read is its business
	w.Close()
}

// copyOutput copies until the end of r, or until nothing came for a while after the end of the program.
func (r *Running) copyOutput(w io.Writer, file *os.File) {
	defer file.Close()
	copied := make(chan struct{})
	defer close(copied)
	go func() {
		select {
		case <-r.ended:
			_ = file.SetReadDeadline(time.Now().Add(grace)) // pipes have deadlines
		case <-copied:
		}
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := file.Read(buffer)
		if n > 0 && w != nil {
			if _, writeErr := w.Write(buffer[:n]); writeErr != nil {
				w = nil // nobody listens any more; let the program go on
			}
		}
		if err != nil {
			return
		}
		select {
		case <-r.ended:
			// The write may have taken long: that does not count.
			_ = file.SetReadDeadline(time.Now().Add(grace))
		default:
		}
	}
}

// Wait waits for the end of the program and of its output. It may be called once.
func (r *Running) Wait() (Status, error) {
	err := r.cmd.Wait()
	close(r.ended)
	r.copying.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return Status{}, err
	}
	status := Status{Code: exit.ExitCode()}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		status.Signal = signalName(ws.Signal())
	}
	return status, nil
}

// signalName returns "TERM" for SIGTERM.
func signalName(signal syscall.Signal) string {
	if name := unix.SignalName(signal); len(name) > len("SIG") {
		return name[len("SIG"):]
	}
	return signal.String()
}
