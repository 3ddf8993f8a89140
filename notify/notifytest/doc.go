// SPDX-License-Identifier: Apache-2.0

// Package notifytest is the other end of sd_notify(3) for tests: a real socket
// that records the messages a service sends and treats its descriptors and
// barriers as systemd does.
//
//	m := notifytest.NewManager(t)
//	m.Setenv(t)
//	... start the service ...
//	m.Want(t, "READY=1")
//
// [Start] makes a [Manager] without a test around it. A stand-in for the
// service manager builds on the parts: [Listen] receives, [Parse] reads a
// payload, [FDStore] keeps descriptors.
package notifytest
