// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
)

func TestAcceptedSocket(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			ln, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if inode, err := acceptedSocket(conn); err != nil || inode != 0 {
				t.Errorf("nobody has accepted, and it is socket %d, %v", inode, err)
			}
			accepted, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer accepted.Close()
			inode, err := acceptedSocket(conn)
			if link := fmt.Sprintf("socket:[%d]", inode); err != nil || !slices.Contains(descriptors(os.Getpid()), link) {
				t.Errorf("accepted as %s, which this process does not have: %v", link, err)
			}
		})
	}
}
