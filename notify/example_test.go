// SPDX-License-Identifier: Apache-2.0

package notify_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/notify/notifytest"
)

// serviceManager stands for systemd in the examples.
func serviceManager() *notifytest.Manager {
	m, err := notifytest.Start(fmt.Sprintf("@holdfast-example-%d", os.Getpid()))
	if err != nil {
		log.Fatal(err)
	}
	return m
}

func Example() {
	m := serviceManager()
	defer m.Close()
	os.Setenv("NOTIFY_SOCKET", m.Socket()) // systemd does this
	defer os.Unsetenv("NOTIFY_SOCKET")

	n, err := notify.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	defer n.Close()
	if err := n.Notify(notify.Ready(), notify.Status("serving on :8080")); err != nil {
		log.Fatal(err)
	}
	if err := n.Barrier(context.Background()); err != nil {
		log.Fatal(err)
	}

	fmt.Printf("%s\n", m.Messages()[0].Payload)
	// Output:
	// READY=1
	// STATUS=serving on :8080
}

// On a laptop there is no manager, and no need for a case of its own.
func ExampleFromEnv() {
	os.Unsetenv("NOTIFY_SOCKET")
	n, err := notify.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(n.Enabled(), n.Notify(notify.Ready()))
	// Output: false <nil>
}

// A listener goes to the manager under a name of its own, the old one is
// removed once the new one is there, and neither is lost if the service dies
// in between.
func ExampleNotifier_Store() {
	m := serviceManager()
	defer m.Close()
	n, err := notify.New(m.Socket())
	if err != nil {
		log.Fatal(err)
	}
	defer n.Close()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		log.Fatal(err)
	}
	defer listener.Close()

	if err := n.Store("http@2", listener); err != nil {
		log.Fatal(err)
	}
	if err := n.Barrier(context.Background()); err != nil {
		log.Fatal(err)
	}
	if err := n.Remove("http@1"); err != nil {
		log.Fatal(err)
	}

	if err := n.Barrier(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Store().Names())
	// Output: [http@2]
}

func ExampleWatchdog() {
	n, err := notify.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	interval, enabled, err := notify.WatchdogFromEnv()
	if err != nil {
		log.Fatal(err)
	}
	if !enabled {
		interval = 0
	}
	dog := &notify.Watchdog{
		Notifier: n,
		Interval: interval,
		Check: func(ctx context.Context) error {
			// Ask what serves requests, as a client would.
			return ctx.Err()
		},
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	fmt.Println(dog.Run(ctx)) // at once, since nothing watches an example
	// Output: <nil>
}

func ExampleStatus() {
	fmt.Println(notify.Status("75% of 12 checks passed").Err())
	fmt.Println(notify.Status("two\nlines").Err())
	// Output:
	// <nil>
	// STATUS="two\nlines": must not contain a newline
}
