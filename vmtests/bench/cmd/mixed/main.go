// SPDX-License-Identifier: Apache-2.0

// Command mixed is the service of the soak, see package mixed.
package main

import (
	"flag"
	"log"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/mixed"
)

func main() {
	var c mixed.Config
	flag.StringVar(&c.Cert, "cert", "", "certificate `file`")
	flag.StringVar(&c.Key, "key", "", "key `file`")
	flag.DurationVar(&c.Probation, "probation", 250*time.Millisecond, "how long a new version is on trial")
	flag.DurationVar(&c.Beat, "beat", 100*time.Millisecond, "interval of its signs of life")
	flag.DurationVar(&c.Drain, "drain", 5*time.Second, "how long connections that are left may take")
	flag.Parse()
	if err := mixed.Run(c); err != nil {
		log.Fatal(err)
	}
}
