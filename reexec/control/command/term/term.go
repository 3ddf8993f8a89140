// SPDX-License-Identifier: Apache-2.0

// Package term knows where the output of a command goes, and lays it out for
// that: bounded by the width of a terminal, with colours where they are wanted,
// and in full and plain in a pipe. It depends on the standard library only.
//
// Texts of others (versions, reasons, names) go through [Printable] before they
// are laid out.
package term

import (
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// Terminal is where output goes. The zero value is a pipe.
type Terminal struct {
	// Width and Height are those of the screen; 0 where there is none, and then
	// nothing is cut or wrapped.
	Width, Height int
	// Color: escape sequences that change the colour are understood and wanted.
	Color bool
	// Redraw: lines can be written again, which a terminal of TERM=dumb cannot.
	Redraw bool
	// ASCII: other characters may not be shown.
	ASCII bool
}

// The size of a terminal that does not tell it, and the least that is laid out for.
const (
	defaultWidth  = 80
	defaultHeight = 24
	minWidth      = 20
)

// Of looks at w, and at the variables that say what is wanted, as systemd's
// tools do: COLUMNS and LINES, SYSTEMD_COLORS before NO_COLOR before TERM, and
// the locale.
func Of(w io.Writer) Terminal { return of(w, os.Getenv) }

func of(w io.Writer, getenv func(string) string) Terminal {
	width, height, ok := size(w)
	return settle(width, height, ok, getenv)
}

// settle decides on what [of] has seen.
func settle(width, height int, ok bool, getenv func(string) string) Terminal {
	t := Terminal{Color: ok && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"}
	switch value := strings.ToLower(getenv("SYSTEMD_COLORS")); value {
	case "":
	case "0", "no", "n", "false", "f", "off":
		t.Color = false
	case "1", "yes", "y", "true", "t", "on", "16", "256", "24bit":
		t.Color = true
	case "auto-16", "auto-256", "auto-24bit":
		// On a terminal only, which is decided already.
	}
	locale := getenv("LC_ALL")
	for _, name := range []string{"LC_CTYPE", "LANG"} {
		if locale == "" {
			locale = getenv(name)
		}
	}
	// In a pipe, or where nothing is said, it is as everywhere now.
	locale = strings.ToLower(locale)
	t.ASCII = locale == "c" || locale == "posix"
	if !ok {
		return t
	}
	t.Redraw = getenv("TERM") != "dumb"
	t.Width = max(positive(getenv("COLUMNS"), width, defaultWidth), minWidth)
	t.Height = positive(getenv("LINES"), height, defaultHeight)
	return t
}

// positive is the first of the numbers that is one.
func positive(variable string, numbers ...int) int {
	if n, err := strconv.Atoi(variable); err == nil && n > 0 && n < 1<<15 {
		return n
	}
	for _, n := range numbers {
		if n > 0 {
			return n
		}
	}
	return 0
}

// size asks the terminal; ok is false if w is none.
func size(w io.Writer) (width, height int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile {
		return 0, 0, false
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, 0, false
	}
	// struct winsize of tty_ioctl(4).
	var winsize struct{ rows, columns, x, y uint16 }
	err = conn.Control(func(fd uintptr) {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&winsize)))
		ok = errno == 0
	})
	return int(winsize.columns), int(winsize.rows), ok && err == nil
}

// A Color is what a text means.
type Color string

const (
	Plain  Color = ""
	Bold   Color = "1"
	Dim    Color = "2"
	Red    Color = "1;31"
	Green  Color = "1;32"
	Yellow Color = "1;33"
)

// Paint colours text, if the terminal wants that.
func (t Terminal) Paint(c Color, text string) string {
	if !t.Color || c == Plain || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// Mark is a dot that begins a line, and has the colour of what follows.
func (t Terminal) Mark(c Color) string {
	if t.ASCII {
		return t.Paint(c, "*")
	}
	return t.Paint(c, "●")
}

// Arrow stands between two versions.
func (t Terminal) Arrow() string {
	if t.ASCII {
		return "->"
	}
	return "→"
}

func (t Terminal) ellipsis() string {
	if t.ASCII {
		return "..."
	}
	return "…"
}
