// SPDX-License-Identifier: Apache-2.0

package notifytest_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"

	"github.com/holdfast-go/holdfast/notify/notifytest"
)

func ExampleStart() {
	m, err := notifytest.Start(fmt.Sprintf("@holdfast-example-%d", os.Getpid()))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()

	// In a service, package notify does this.
	conn, err := net.Dial("unixgram", m.Socket())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "READY=1\nSTATUS=serving")

	message, err := m.Wait(context.Background(), "READY=1")
	if err != nil {
		log.Fatal(err)
	}
	status, _ := message.Value("STATUS")
	fmt.Println(status, message.Sender.PID == os.Getpid())
	// Output: serving true
}
