// SPDX-License-Identifier: Apache-2.0

package pidfd_test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation/activationtest"
	"github.com/holdfast-go/holdfast/activation/internal/pidfd"
)

const askVar = "HOLDFAST_TEST_PRINT_OWN_ID"

func TestMain(m *testing.M) {
	if os.Getenv(askVar) != "" {
		fmt.Println(pidfd.OwnID())
		// Stay until the parent has looked: the number is that of a living process.
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	// The race detector lets each process linger for a second when it exits; the child need not.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	activationtest.Main(m)
}

// A child's own number is the inode that its parent sees in a pidfd of the child.
func TestOwnIDIsWhatOthersSee(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), askVar+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}()
	var id uint64
	var ok bool
	if _, err := fmt.Fscan(stdout, &id, &ok); err != nil {
		t.Fatal(err)
	}

	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		t.Fatal(err)
	}
	numbered := fs.Type == pidfd.Magic
	if ok != numbered {
		t.Fatalf("OwnID in the child: ok = %t, but pidfds have inodes of their own: %t", ok, numbered)
	}
	if numbered && id != stat.Ino {
		t.Errorf("OwnID in the child is %d, its pidfd has inode %d", id, stat.Ino)
	}
	if own, _ := pidfd.OwnID(); numbered && own == id {
		t.Errorf("parent and child have the same number %d", id)
	}
}
