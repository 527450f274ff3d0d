package verify_test

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/verify"
)

// Without evidence there is no result: nothing demanded was said about the digest.
func ExampleVerify() {
	policy, err := family.ParsePolicy("policy.yaml", []byte(`
issuer: https://token.actions.githubusercontent.com
repository: https://github.com/acme/widget
workflow: .github/workflows/release.yml
ref: refs/tags/v*
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	trust, err := verify.ParseTrust(policy.Instance, nil) // the public instance's root is built in
	if err != nil {
		fmt.Println(err)
		return
	}
	subject := verify.Subject{Name: "widget", Kind: family.ImageIndex, Digest: digest.FromString("an index")}
	_, err = verify.Verify(context.Background(), subject, verify.Evidence{}, trust, policy, time.Unix(1800000000, 0))
	kind, _ := fault.KindOf(err)
	fmt.Println(int(kind), kind)
	// Output: 31 Unverified
}

func ExampleCompare() {
	before, _ := verify.Components([]byte(`{"components":[{"type":"library","name":"zlib","version":"1.2"}]}`))
	after, _ := verify.Components([]byte(`{"components":[{"type":"library","name":"zlib","version":"1.3"}]}`))
	for _, c := range verify.Compare(before, after) {
		fmt.Println(c.Name, c.Before, "→", c.After)
	}
	// Output: zlib 1.2 → 1.3
}
