// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

// roleVariable tells a test binary that another one started what to be instead of a test.
const roleVariable = "VMTESTS_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(playRole(role))
	}
	code := m.Run()
	removePrograms()
	if left := leftBehind(); len(left) > 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "left behind by the tests:\n\t%s\n", strings.Join(left, "\n\t"))
		code = 1
	}
	os.Exit(code)
}

// playRole boots a machine for version role, says what it is, and stays until its input ends.
func playRole(role string) int {
	v, err := vmtests.ParseVersion(role)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	m, err := vmtests.Boot(context.Background(), v)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	leader, err := m.HostPID(1)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("booted", m.Name, leader)
	io.Copy(io.Discard, os.Stdin)
	return 0 // without Close, as a program that forgets it
}

// leftBehind lists what machines of this process left on the host.
func leftBehind() []string {
	var left []string
	locks, _ := filepath.Glob("/run/holdfast-vmtests/*/lock") // the pattern is well-formed
	for _, lock := range locks {
		if owner, err := os.ReadFile(lock); err == nil && strings.TrimSpace(string(owner)) == strconv.Itoa(os.Getpid()) {
			left = append(left, filepath.Dir(lock))
		}
	}
	children, _ := filepath.Glob("/proc/self/task/*/children") // well-formed
	for _, file := range children {
		pids, _ := os.ReadFile(file) // gone with its thread
		for pid := range strings.FieldsSeq(string(pids)) {
			command, _ := os.ReadFile("/proc/" + pid + "/cmdline") // gone with its process
			left = append(left, "process "+pid+": "+strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return append(left, mountsOfMachines()...)
}

// mountsOfMachines lists what is mounted for machines in the host's own mount namespace: nothing, ever.
func mountsOfMachines() []string {
	var mounts []string
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "nspawn") || strings.Contains(line, "holdfast") {
			mounts = append(mounts, "mount "+strings.TrimSpace(line))
		}
	}
	return mounts
}
