// SPDX-License-Identifier: Apache-2.0

// Package vmtests runs stories on real systemd: versions 247, 252, 257 and 262 in containers, and the last
// two also in virtual machines with a kernel of their own. A story is a Go test.
//
//	func TestRestartKeepsTheSocket(t *testing.T) {
//		for _, v := range vmtests.Versions() {
//			t.Run(v.String(), func(t *testing.T) {
//				t.Parallel()
//				m := vmtests.BootTest(t, v)
//				ctx := t.Context()
//				if err := m.WriteFile(ctx, "/etc/systemd/system/probe.service", unit, 0o644); err != nil {
//					t.Fatal(err)
//				}
//				if err := m.Run(ctx, "systemctl", "start", "probe"); err != nil {
//					t.Fatal(err) // names the command, its status and its standard error
//				}
//				state, err := m.Prop(ctx, "probe.service", "SubState")
//				if err != nil || state != "running" {
//					t.Fatalf("SubState: got %q (%v), want running", state, err)
//				}
//			})
//		}
//	}
//
// [BootTest] boots a container in about half a second and closes it at the end of the test; when the test
// failed, the journal goes to its log and to its artefacts. [BootVMTest] is the same for a virtual machine,
// and a story that takes a [*Machine] runs on both. Only virtual machines reboot: [Machine.Reboot],
// [Machine.SoftReboot], [Machine.Reset]. What a story asserts, it asks systemd ([Machine.Prop],
// [Machine.Entries]); what it waits for, it waits for by event: a systemctl verb that blocks, a change of
// properties ([Machine.WaitProps]), the exit of a command, a line of its output. It never sleeps.
//
// Long commands run beside the story: [Machine.Start]. [Machine.StartLoad] does so with the load
// generator, which counts every request, and says at its end which were lost. [Build] compiles a program
// of this module for a machine, and [Machine.Copy] puts it there as a package manager does.
//
// Machines have no network but the loopback device. [BootSetupTest] attaches them to a [Network], which is theirs
// alone, and gives a container a [Disk], which outlives its power cut.
//
// There is no polkit in a machine, as on a small server. [BootPolkitTest] boots one that has it, and
// [BootWithTest] one with any other packages of Debian. [BootRPMTest] boots one with rpm, dnf and systemd's macros.
//
// # Who may run them
//
// Stories need root. For other users they skip, and say so; for root they fail where something is
// missing, and name the command that installs it: make vmtests-prepare, which is the program in
// cmd/prepare. Virtual machines have a target of their own, make test-vm. Images are built from Debian
// packages at first use and kept in [CacheDir].
//
// # What is the same as on a real machine, and what is not
//
// Containers run systemd unmodified as PID 1, with units as hardened as on a real machine: DynamicUser=,
// PrivateUsers=, ProtectSystem=, system call filters. They share the host's kernel, so limits by control
// group (MemoryMax=, TasksMax=) work only where the host hands out those controllers, and neither kernel
// modules nor vsock nor a reboot are there. Limits belong into the virtual machine, which has a kernel of
// its own with all controllers. It emulates its processor where KVM does not work: then it boots in half
// a minute and computes ten times slower, so what a story waits for there needs patience.
//
// # Guarantees
//
//   - A machine never outlives the process that booted it, not even when that gets SIGKILL.
//   - Closing a machine leaves no process, mount, control group, or file behind.
//   - Machines do not disturb each other: each has its own copy of the image, network and control groups.
//   - The image in the cache is complete or absent, and never changes.
package vmtests
