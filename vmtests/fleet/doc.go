// SPDX-License-Identifier: Apache-2.0

// Package fleet has the stories of a fleet: hosts with real systemd, sshd and apt, each with an address of its own, that
// real Ansible upgrades in waves with the collection holdfast_go.holdfast, while clients make requests: some through
// a load balancer that the play takes each host out of, and some straight to each host.
//
//	            controller                        198.18.0.1
//	            ansible-playbook, an apt repository, haproxy, the clients
//	                |
//	  ----+---------+---- a bridge in a network namespace of its own
//	      |
//	host1 … host6                                 198.18.0.11 …
//	sshd, myapp from a package, port 8080
//
// The hosts are containers of systemd 247, 252, 257 and 262. Each story looks at the report that the
// play leaves on the controller, at what systemd, dpkg and the service on each host say, and at every single request.
//
// make test-packages runs it.
package fleet
