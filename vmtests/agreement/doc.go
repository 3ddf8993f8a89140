// SPDX-License-Identifier: Apache-2.0

// Package agreement shows that the stand-in for systemd (package reexec/reexectest) behaves as real systemd
// does. The same operations are done to the same unit files on both sides, and after each everything that can
// be seen is compared: the results of jobs, the properties of units, the processes and what each was started
// with, the file descriptor store.
//
// The unit's commands are puppets (vmtests/cmd/puppet), which do what they are told, or the real example
// service. A [Stage] plays with one service; the same code runs in the test for the stand-in and in
// vmtests/cmd/operator, inside a machine, for real systemd.
//
//	make agreement                                # everything, and writes table.txt, which says what agreed
//	go test ./vmtests/agreement                   # a sample: each scenario on one version, 10 sequences on each
//	go test ./vmtests/agreement -run TestScenarios -scenario='store: names' -v
//	go test ./vmtests/agreement -run TestSequences -seed=17 -sequences=1 -v
//
// The tests need root, and the machines of package vmtests.
package agreement
