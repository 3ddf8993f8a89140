// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/notify"
)

// keeperMain is a service without sockets: it stores a descriptor at its first
// start, and says what it finds and gets.
func keeperMain() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1)
	n, err := notify.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("version %s, stored %q, home %s\n", InstalledVersion(), os.Getenv("LISTEN_FDNAMES"), os.Getenv("STATE_DIRECTORY"))
	if os.Getenv("LISTEN_FDNAMES") == "" {
		fd, err := unix.MemfdCreate("kept", unix.MFD_CLOEXEC)
		if err != nil {
			log.Fatal(err)
		}
		if err := n.Notify(notify.FDStore(os.NewFile(uintptr(fd), "kept")), notify.FDName("kept")); err != nil {
			log.Fatal(err)
		}
	}
	_ = n.Notify(notify.Ready(), notify.Status("keeping"))
	for s := range signals {
		switch s {
		case syscall.SIGTERM:
			return
		case syscall.SIGHUP:
			_ = n.Notify(notify.Reloading())
			_ = n.Notify(notify.Ready(), notify.Status("reloaded"))
		case syscall.SIGUSR1:
			_ = n.Notify(notify.Status("asked"))
		}
	}
}
