// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"context"
	"errors"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// rollback has the service go back to the version before, and follows it.
func (s *service) rollback(ctx context.Context, onState func(control.Status)) (control.Result, error) {
	client, ok := any(s.client).(interface {
		RollbackAndFollow(context.Context, control.FollowOptions) (control.Result, error)
	})
	if !ok {
		return control.Result{}, errors.New("this release cannot roll back")
	}
	return client.RollbackAndFollow(ctx, control.FollowOptions{OnState: onState})
}
