package legacy_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"strings"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/verify"
	"github.com/containai/containai/mage/verify/legacy"
)

// A digest beside which nobody left a .sig tag is not signed in the old way.
func ExampleRead() {
	server := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
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
	_, subject, err := ref.Parse(strings.TrimPrefix(server.URL, "http://") + "/acme/widget@sha256:" + strings.Repeat("0", 64))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = legacy.Read(context.Background(), subject, trust, policy)
	kind, _ := fault.KindOf(err)
	fmt.Println(int(kind), kind)
	// Output: 31 Unverified
}
