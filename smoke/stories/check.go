package stories

import (
	"context"
	"errors"
)

// test runs `helm test`; when it fails its pod is still there and says why.
func (i *installation) test(ctx context.Context) error {
	err := i.helm.Test(product)
	if err == nil {
		return nil
	}
	said, lost := i.Kubectl(ctx, "", "--namespace="+namespace, "logs", "pod/"+product+"-test")
	return errors.Join(err, errors.New(said), lost)
}
