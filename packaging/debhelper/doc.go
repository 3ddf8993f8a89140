// SPDX-License-Identifier: Apache-2.0

// Package debhelper has no Go code: beside it is the add-on of debhelper that makes an upgrade of a Debian package
// a hot upgrade of its services.
//
//	dh_holdfast              /usr/bin/
//	dh_holdfast.1            /usr/share/man/man1/, made of dh_holdfast by "go test -update"
//	holdfast.pm              /usr/share/perl5/Debian/Debhelper/Sequence/
//	autoscripts/             /usr/share/debhelper/
//
// A source package adopts it by its build dependencies, with debhelper 13 or later:
//
//	Build-Depends: debhelper-compat (= 13), dh-sequence-holdfast
//
// dh_holdfast runs after dh_installsystemd and corrects it: when dh starts, the units of the package are not built
// yet, so that dh_installsystemd could not be told beforehand which ones to exclude. Its manual page has the rest.
//
// Its tests build packages with the debhelper of this machine.
package debhelper
