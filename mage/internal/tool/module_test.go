package tool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containai/containai/mage/fault"
)

func TestModuleIsWhereGoKeepsIt(t *testing.T) {
	dir, err := Module(t.Context(), t.TempDir(), "github.com/magefile/mage", "v1.17.2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Errorf("no module lies at %s: %v", dir, err)
	}
}

func TestModuleSaysWhatIsMissing(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	_, err := Module(t.Context(), t.TempDir(), "example.org/absent", "v1.0.0")
	if !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
		t.Errorf("got %v with the hint %q, want fault.Environment and a hint", err, fault.HintOf(err))
	}
}
