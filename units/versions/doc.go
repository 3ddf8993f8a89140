// SPDX-License-Identifier: Apache-2.0

// Package versions keeps versions of a program side by side, and switches between
// them at once:
//
//	/usr/lib/myapp/versions/1.0.0/myapp
//	/usr/lib/myapp/versions/1.1.0/myapp
//	/usr/lib/myapp/current  -> versions/1.1.0
//	/usr/lib/myapp/previous -> versions/1.0.0
//
// The unit starts the program by way of the link, so that an upgrade takes what the
// link names at that moment, and may execute files of all versions:
//
//	units.Options{
//		Exec:            "/usr/lib/myapp/current/myapp",
//		ExecDirectories: []string{"/usr/lib/myapp/versions"},
//	}
//
// A switch replaces a link by rename(2) and syncs the directory: after a loss of power
// there is the old link or the new one, and never none. A switch of both links is
// written down before it begins, see [Switch]: whoever finds one that was not ended
// knows what to do. "holdfast versions switch --unit=" upgrades between the two, and
// switches back if the upgrade fails.
//
// Who writes a version does not matter: [Directory.Install], a package that owns
// versions/1.1.0, or an unpacked archive; only the links are this package's. They can
// be switched by the script of a package, and all may be read-only after that. A
// package should not own the links, and what a package owns is not to be pruned here.
// Beside them is an empty file ".lock" once something was changed, which only those who
// may change the directory can open and so hold.
//
// # With the launcher
//
// A unit that starts its program by "holdfast launch" keeps a copy of the last good
// one, and of the one before. With versions side by side these are not needed, and do
// no harm: the launcher judges a file by its content, whatever the path. So after a
// rollback over the control socket, which does not touch the links, a restart starts
// the version before all the same, by its copy. Without the launcher a restart starts
// what "current" names: roll back by "holdfast versions switch DIR previous --unit=UNIT".
package versions
