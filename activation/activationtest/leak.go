// SPDX-License-Identifier: Apache-2.0

package activationtest

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// settleTime bounds how long [Main] waits for what is already on its way out: goroutines end, and killed
// processes are reaped, a moment after the test that started them has returned.
const settleTime = 5 * time.Second

// Main runs the tests of a package and exits. Call it from TestMain:
//
//	func TestMain(m *testing.M) { activationtest.Main(m) }
//
// The run fails, with exit status 1, when the tests left behind file descriptors, goroutines or child
// processes that were not there before. Each is listed on standard error: descriptors with what they refer to,
// goroutines with their stacks, child processes with their command lines.
//
// A descriptor that a test leaves open is one that the next generation of a service would inherit; a
// goroutine, one that still holds a connection.
//
// Main does not return.
func Main(m *testing.M) {
	os.Exit(run(m, os.Stderr, settleTime))
}

func run(m interface{ Run() int }, report io.Writer, patience time.Duration) int {
	startPoller()
	before := takeInventory()
	code := m.Run()
	left := settle(before, patience)
	if left.empty() {
		return code
	}
	left.write(report)
	if code == 0 {
		code = 1
	}
	return code
}

// startPoller makes the runtime open its epoll and event descriptors, which stay for the life of the process.
func startPoller() {
	r, w, err := os.Pipe()
	if err != nil {
		return
	}
	_ = r.Close()
	_ = w.Close()
}

// settle compares until nothing is left over or the time is up.
func settle(before inventory, patience time.Duration) inventory {
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		// A finished goroutine is gone only after it was scheduled; files without an owner close in finalizers.
		runtime.Gosched()
		left := takeInventory().minus(before)
		if left.empty() || time.Now().After(deadline) {
			return left
		}
		runtime.GC()
		time.Sleep(pause)
	}
}

// inventory is what a process holds at one moment. The keys tell one thing from the next of the same number.
type inventory struct {
	descriptors map[string]string // "7 socket:[123]" -> the same
	goroutines  map[int]string    // goroutine id -> stack
	children    map[string]string // "1234 98765" (PID, start time) -> command line
}

func takeInventory() inventory {
	return inventory{descriptors: openDescriptors(), goroutines: goroutineStacks(), children: childProcesses()}
}

func (i inventory) minus(before inventory) inventory {
	return inventory{
		descriptors: without(i.descriptors, before.descriptors),
		goroutines:  without(i.goroutines, before.goroutines),
		children:    without(i.children, before.children),
	}
}

func without[K comparable](all, known map[K]string) map[K]string {
	rest := make(map[K]string)
	for key, value := range all {
		if _, ok := known[key]; !ok {
			rest[key] = value
		}
	}
	return rest
}

func (i inventory) empty() bool {
	return len(i.descriptors)+len(i.goroutines)+len(i.children) == 0
}

func (i inventory) write(w io.Writer) {
	fmt.Fprintf(w, "the tests left behind %d descriptors, %d goroutines and %d child processes\n",
		len(i.descriptors), len(i.goroutines), len(i.children))
	for _, key := range slices.Sorted(maps.Keys(i.descriptors)) {
		fmt.Fprintf(w, "descriptor %s\n", i.descriptors[key])
	}
	for _, key := range slices.Sorted(maps.Keys(i.children)) {
		fmt.Fprintf(w, "child process %s\n", i.children[key])
	}
	for _, key := range slices.Sorted(maps.Keys(i.goroutines)) {
		fmt.Fprintf(w, "%s\n", i.goroutines[key])
	}
}

func openDescriptors() map[string]string {
	open := make(map[string]string)
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return open
	}
	names, _ := dir.Readdirnames(-1)
	_ = dir.Close()
	for _, name := range names {
		// The descriptor of the listing itself is closed by now and has no link.
		link, err := os.Readlink("/proc/self/fd/" + name)
		if err != nil {
			continue
		}
		key := name + " " + link
		open[key] = key
	}
	return open
}

// runtimeGoroutines are started once and stay: they belong to os/signal and to the runtime, not to a test.
var runtimeGoroutines = []string{"os/signal.signal_recv", "os/signal.loop", "runtime.ensureSigM"}

func goroutineStacks() map[int]string {
	stacks := make(map[int]string)
	for _, stack := range bytes.Split(allStacks(), []byte("\n\n")) {
		text := string(stack)
		var id int
		if _, err := fmt.Sscanf(text, "goroutine %d ", &id); err != nil {
			continue
		}
		if slices.ContainsFunc(runtimeGoroutines, func(f string) bool { return strings.Contains(text, f) }) {
			continue
		}
		stacks[id] = text
	}
	return stacks
}

func allStacks() []byte {
	for buf := make([]byte, 64<<10); ; buf = make([]byte, 2*len(buf)) {
		if n := runtime.Stack(buf, true); n < len(buf) {
			return buf[:n]
		}
	}
}

// childProcesses walks /proc: the list in /proc/self/task/*/children is an option of the kernel's build.
// A zombie counts, for nobody has waited for it.
func childProcesses() map[string]string {
	children := make(map[string]string)
	proc, err := os.Open("/proc")
	if err != nil {
		return children
	}
	names, _ := proc.Readdirnames(-1)
	_ = proc.Close()
	for _, name := range names {
		if _, err := strconv.Atoi(name); err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		command, fields := splitStat(string(stat))
		// proc_pid_stat(5): after the name come the state (3), the parent (4), ... the start time (22).
		if len(fields) < 20 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		line := command + " (state " + fields[0] + ")"
		if args, err := os.ReadFile("/proc/" + name + "/cmdline"); err == nil && len(args) > 0 {
			line = string(bytes.ReplaceAll(bytes.TrimRight(args, "\x00"), []byte{0}, []byte{' '}))
		}
		children[name+" "+fields[19]] = name + " " + line
	}
	return children
}

// splitStat parts the command name, which may hold spaces and parentheses, from the fields behind it.
func splitStat(stat string) (command string, fields []string) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return "", nil
	}
	return stat[open+1 : end], strings.Fields(stat[end+1:])
}
