// SPDX-License-Identifier: Apache-2.0

package reexec

import "errors"

// ErrNotMain is wrapped by the errors of what only main may do: a commit,
// [Service.Keep] and [Service.Release]. Main is who holds the lease: until the
// verdict the predecessor, and from then on the successor.
var ErrNotMain = errors.New("this generation is not main")
