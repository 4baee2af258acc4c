package resource

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/policy/balance"
	"github.com/outrigger-mesh/outrigger/policy/fault"
	"github.com/outrigger-mesh/outrigger/policy/limit"
	"github.com/outrigger-mesh/outrigger/policy/outlier"
	"github.com/outrigger-mesh/outrigger/policy/ratelimit"
	"github.com/outrigger-mesh/outrigger/policy/retry"
	"github.com/outrigger-mesh/outrigger/policy/timeout"
)

// The default that the reference tells, a tag, is the one that the code uses, a constant.
func TestDefaultsAreTold(t *testing.T) {
	for _, c := range []struct {
		of    any
		field string
		value any
	}{
		{Restart{}, "max", DefaultRestartMax},
		{Restart{}, "when", Permanent},
		{Restart{}, "within", DefaultRestartWithin},
		{RestartBackoff{}, "kind", DefaultRestartBackoff},
		{RestartBackoff{}, "base", DefaultRestartBase},
		{RestartBackoff{}, "max", DefaultRestartLongest},
		{RestartBackoff{}, "jitter", DefaultRestartJitter},
		{Run{}, "isolation", DefaultIsolation},
		{Start{}, "timeout", DefaultStartTimeout},
		{Stop{}, "signal", DefaultStopSignal},
		{Stop{}, "timeout", DefaultStopTimeout},
		{Pool{}, "size", DefaultPoolSize},
		{Health{}, "interval", DefaultHealthInterval},
		{Health{}, "timeout", DefaultHealthTimeout},
		{Health{}, "unhealthyAfter", DefaultUnhealthyAfter},
		{Health{}, "healthyAfter", DefaultHealthyAfter},
		{Redirect{}, "status", DefaultRedirectStatus},
		{Supervisor{}, "strategy", DefaultStrategy},
		{Intensity{}, "restarts", DefaultRestarts},
		{Intensity{}, "within", DefaultWithin},
		{Metadata{}, "tenant", DefaultTenant},
		{balance.Spec{}, "strategy", balance.DefaultStrategy},
		{timeout.Spec{}, "idle", timeout.DefaultIdle},
		{retry.Spec{}, "attempts", retry.DefaultAttempts},
		{retry.Spec{}, "maxBody", retry.DefaultMaxBody},
		{retry.Budget{}, "percent", retry.DefaultPercent},
		{retry.Budget{}, "perSecond", retry.DefaultPerSecond},
		{retry.Backoff{}, "kind", retry.DefaultBackoff},
		{retry.Backoff{}, "base", retry.DefaultBase},
		{retry.Backoff{}, "max", retry.DefaultMax},
		{ratelimit.Spec{}, "kind", ratelimit.DefaultKind},
		{ratelimit.Spec{}, "scope", ratelimit.DefaultScope},
		{fault.Delay{}, "percent", fault.DefaultPercent},
		{fault.Abort{}, "percent", fault.DefaultPercent},
		{outlier.Spec{}, "consecutive", outlier.DefaultConsecutive},
		{outlier.Spec{}, "baseEjection", outlier.DefaultBaseEjection},
		{outlier.Spec{}, "maxEjection", outlier.DefaultMaxEjection},
		{outlier.Spec{}, "maxPercent", outlier.DefaultMaxPercent},
		{limit.Spec{}, "connections", limit.DefaultConnections},
		{limit.Spec{}, "pending", limit.DefaultPending},
		{limit.Spec{}, "requests", limit.DefaultRequests},
	} {
		f := schema.Of(reflect.TypeOf(c.of)).Field(c.field)
		if f == nil {
			t.Errorf("%T has no field %s", c.of, c.field)
			continue
		}
		told := f.Default
		if d, ok := c.value.(time.Duration); ok {
			if got, err := time.ParseDuration(told); err != nil || got != d {
				t.Errorf("%T.%s: %q is told, %v is used", c.of, c.field, told, d)
			}
		} else if told != fmt.Sprint(c.value) {
			t.Errorf("%T.%s: %q is told, %v is used", c.of, c.field, told, c.value)
		}
	}
}
