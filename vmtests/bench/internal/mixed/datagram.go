// SPDX-License-Identifier: Apache-2.0

package mixed

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"

	"github.com/holdfast-go/holdfast/vmtests/internal/mark"
)

// echoDatagrams answers each datagram as sessions answer a line, until conn is not read any more.
func echoDatagrams(conn net.PacketConn) {
	version, _ := mark.Mine()
	buf := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log.Printf("read a datagram: %v", err)
			continue
		}
		answer := fmt.Appendf(nil, "%d %d %s", version, os.Getpid(), buf[:n])
		if _, err := conn.WriteTo(answer, from); err != nil {
			log.Printf("answer %v: %v", from, err)
		}
	}
}
