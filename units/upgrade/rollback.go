// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"context"
	"strings"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// rollback has the service go back to the version before, and follows it. The reason
// goes to its log.
func (s *service) rollback(ctx context.Context, reason string, onState func(control.Status)) (control.Result, error) {
	reason = strings.ToValidUTF8(reason[:min(len(reason), control.MaxReason)], "")
	return s.client.RollbackAndFollow(ctx, control.FollowOptions{OnState: onState, Reason: reason})
}
