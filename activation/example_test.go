// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/holdfast-go/holdfast/activation"
)

// The .socket unit of this service says
//
//	[Socket]
//	ListenStream=80
//	FileDescriptorName=http
func ExampleFromEnv() {
	passed, err := activation.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	ln, err := passed.Listener("http")
	if err != nil {
		// Not started by systemd: the error says so.
		fmt.Println(err)
		return
	}
	for _, info := range passed.Unclaimed() {
		log.Printf("nobody uses %v", info)
	}
	log.Fatal(http.Serve(ln, nil))
	// Output: listener "http" was not passed: no descriptors were passed: LISTEN_PID is not set
}

// A service that runs on a laptop as well binds what was not passed.
func ExampleSet_Listen() {
	passed, err := activation.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	web, err := passed.Listen(context.Background(), "http", "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("passed:", web.Passed)
	for _, ln := range web.Listeners {
		defer ln.Close()
		// go server.Serve(ln)
	}
	// Output: passed: false
}

// A set of descriptors that did not come from systemd; here one end of a pipe.
func ExampleNewSet() {
	r, w, err := os.Pipe()
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	set, err := activation.NewSet([]activation.Passed{{File: r, Name: "control"}})
	if err != nil {
		log.Fatal(err)
	}
	defer set.Close()

	_, err = set.Listener("control")
	var wrongKind *activation.KindError
	fmt.Println(errors.As(err, &wrongKind), wrongKind.Got[0].Kind)

	file, err := set.File("control")
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	_, err = set.File("control")
	fmt.Println(errors.As(err, new(*activation.ClaimedError)))
	// Output:
	// true FIFO
	// true
}
