// SPDX-License-Identifier: Apache-2.0

// Package units renders the .service and .socket units of a service that
// upgrades with Holdfast.
//
//	files, err := units.Render(units.Options{
//		Name:    "myapp",
//		Exec:    "/usr/bin/myapp",
//		Systemd: 252,
//		Sockets: []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}},
//	})
//
// # What the units guarantee
//
//   - An option that the given version of systemd does not know is left out, so
//     that no version warns about it. What an older one lacks has a substitute
//     where there is one.
//   - The service runs as a user of its own, without privileges, and is rated
//     below 2.0 by `systemd-analyze security`; none of the options breaks an
//     upgrade.
//   - A crash loop never closes the sockets: the service has no start limit
//     and its restarts are delayed, and the sockets have no trigger limit.
//   - While the service's file is one that failed, the last good version starts
//     instead, by `holdfast launch`. For that alone the service may execute from a
//     directory that it may write: NAME.holdfast in the state directory. LauncherOff
//     renders without.
//   - The timeouts of the unit follow from those of the upgrade.
//   - A value cannot bring in another line, another argument or a specifier.
package units
