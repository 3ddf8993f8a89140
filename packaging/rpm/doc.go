// SPDX-License-Identifier: Apache-2.0

// Package rpm has no Go code: beside it are the macros of rpm that make an upgrade of a package a hot upgrade of its
// services.
//
//	macros.holdfast    /usr/lib/rpm/macros.d/
//
// A spec file adopts them by three lines:
//
//	BuildRequires: holdfast
//	%{?holdfast_requires}
//	%holdfast_scriptlets myapp.service
//
// macros.holdfast itself has the rest. Its tests ask the rpm of this machine.
package rpm
