// SPDX-License-Identifier: Apache-2.0

package term

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// A real terminal is asked for its size.
func TestTerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
		t.Fatal(err)
	}
	getenv := func(name string) string { return map[string]string{"TERM": "xterm"}[name] }
	if got, want := of(slave, getenv), (Terminal{Width: 77, Height: 33, Color: true, Redraw: true}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
