// SPDX-License-Identifier: Apache-2.0

// Package check says whether a unit is fit for upgrades that lose nothing, and what to
// write where it is not.
//
//	report, err := check.Files(ctx, os.DirFS("/"), "myapp.service", check.Options{Systemd: 252})
//	report, err := check.Running(ctx, conn, os.DirFS("/"), "myapp.service", check.Options{})
//	if !report.Fit() {
//		for _, f := range report.Findings {
//			fmt.Println(f.Level, f.Found, f.Why, f.Write)
//		}
//	}
//
// [Files] reads the unit file, its drop-ins and its socket units, as systemd does.
// [Running] asks systemd for what is in force, wherever it comes from, and judges
// by numbers: tasks, memory, open and stored descriptors.
//
// # What is judged
//
// A service that upgrades with Holdfast is one whose ExecReload= runs "holdfast reload", whose
// ExecStart= runs "holdfast launch", that is of Type=notify-reload with ReloadSignal=SIGUSR2, or for
// which Options.Mode is set; a running one says so itself. It is judged by what its mode needs.
// A finding of the level [Error] breaks an upgrade, or the way back from one.
//
// How other services upgrade is not known. Of them it says what a reload and a restart do to
// their clients, and what holds for any upgrade; never that they should use Holdfast. So they have
// no errors.
//
// # What looks dangerous and is not
//
// No rule names these. The units that package units renders have them all, and upgrade with them
// on systemd 247, 252, 257 and 262: DynamicUser=, PrivateUsers=, ProtectProc= and ProcSubset= (a service
// finds its own children, and needs no other process), NoNewPrivileges= but for a file with a setuid
// bit, MemoryDenyWriteExecute=, RestrictNamespaces=, ProtectSystem=strict, PrivateTmp=,
// SystemCallFilter=@system-service without @privileged and @resources, an empty
// CapabilityBoundingSet=.
//
// # Guarantees
//
//   - Each rule is one row of a table. Units that package units renders have no finding above
//     [Note], and each rule finds the mutation of such a unit that it is for.
//   - What a unit file has in it is not trusted: files are bounded, links stay in the file system that
//     was given, and nothing that is no regular file is opened. Texts of a [Finding] may
//     hold control characters of the file; who prints them escapes them.
//   - It changes nothing.
package check
