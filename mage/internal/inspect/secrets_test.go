package inspect_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/internal/inspect"
	"github.com/containai/containai/mage/internal/tool"
)

// TestF3SecretsInEveryLayer: every layer blob, the configuration and the manifest are searched,
// whatever a later layer or the history does to hide it.
func TestF3SecretsInEveryLayer(t *testing.T) {
	credentials := func(key string) file {
		return file{"root/.aws/credentials", "[default]\naws_access_key_id = " + key + "\n"}
	}
	cmd := ocispec.History{CreatedBy: `CMD ["bash"]`, EmptyLayer: true}
	step := ocispec.History{CreatedBy: "COPY something /"}
	tests := []struct {
		name  string
		image recipe
		want  []string // "rule path:line"
		layer []int    // index of the layer, -1 for none
	}{
		{
			name:  "a key deleted by a later whiteout is found in the layer that has it",
			image: recipe{layers: [][]file{debian(), {credentials(awsKey())}, {{"root/.aws/.wh.credentials", ""}}}},
			want:  []string{"aws-access-key-id root/.aws/credentials:2"}, layer: []int{1},
		},
		{
			name:  "a key in a directory made opaque later is found",
			image: recipe{layers: [][]file{debian(), {credentials(awsKey())}, {{"root/.aws/.wh..wh..opq", ""}}}},
			want:  []string{"aws-access-key-id root/.aws/credentials:2"}, layer: []int{1},
		},
		{
			name:  "a key replaced by another one of the same rule is found beside it",
			image: recipe{layers: [][]file{debian(), {credentials(awsKey())}, {credentials(otherAWSKey())}}},
			want:  []string{"aws-access-key-id root/.aws/credentials:2", "aws-access-key-id root/.aws/credentials:2"}, layer: []int{1, 2},
		},
		{
			name:  "a key below what looks like a base image in the history is found",
			image: recipe{layers: [][]file{debian(), {credentials(awsKey())}, {{"hello", "hello hello hello"}}}, history: []ocispec.History{step, step, cmd, step}},
			want:  []string{"aws-access-key-id root/.aws/credentials:2"}, layer: []int{1},
		},
		{
			name:  "a private key in an uncompressed layer is found",
			image: recipe{layers: [][]file{debian(), {{"root/.ssh/id_rsa", privateKey()}}}, mediaType: ocispec.MediaTypeImageLayer},
			want:  []string{"private-key root/.ssh/id_rsa:2"}, layer: []int{1},
		},
		{
			name:  "a token in the environment is found under its JSON pointer",
			image: recipe{layers: [][]file{debian()}, config: ocispec.ImageConfig{Env: []string{"PATH=/bin", "TOKEN=" + githubToken()}}},
			want:  []string{"github-pat config.json#/config/Env/1"}, layer: []int{-1},
		},
		{
			name:  "a private key with line ends in the environment is found",
			image: recipe{layers: [][]file{debian()}, config: ocispec.ImageConfig{Env: []string{"KEY=" + privateKey()}}},
			want:  []string{"private-key config.json#/config/Env/0"}, layer: []int{-1},
		},
		{
			name:  "a token in a label is found",
			image: recipe{layers: [][]file{debian()}, config: ocispec.ImageConfig{Labels: map[string]string{"org/token": githubToken()}}},
			want:  []string{"github-pat config.json#/config/Labels/org~1token"}, layer: []int{-1},
		},
		{
			name:  "a token in the history is found",
			image: recipe{layers: [][]file{debian()}, history: []ocispec.History{{CreatedBy: "RUN curl -H 'Authorization: " + githubToken() + "'"}}},
			want:  []string{"github-pat config.json#/history/0/created_by"}, layer: []int{-1},
		},
		{
			name:  "a token in an annotation of the manifest is found",
			image: recipe{layers: [][]file{debian()}, annotations: map[string]string{"note": githubToken()}},
			want:  []string{"github-pat manifest.json#/annotations/note"}, layer: []int{-1},
		},
		{
			name:  "a key whose two halves are merged in a third layer is found there",
			image: recipe{layers: [][]file{debian(), {{"a", half(0)}}, {{"b", half(1)}}, {{"root/.aws/credentials", "key = " + half(0) + half(1) + "\n"}}}},
			want:  []string{"aws-access-key-id root/.aws/credentials:1"}, layer: []int{3},
		},
		{
			// Trivy comes with exceptions for all of these; whoever plants a secret knows them, too.
			name: "a key is found where Trivy's own exceptions would leave it out",
			image: recipe{layers: [][]file{debian(), {
				{"app/.git/config", "key = " + awsKey() + "\n"},
				{"app/node_modules/x/index.js", "key = " + awsKey() + "\n"},
				{"app/test/y.env", "key = " + awsKey() + "\n"},
				{"opt/README.md", "key = " + awsKey() + "\n"},
				{"opt/example.env", "this is no example: " + awsKey() + "\n"},
				{"opt/logo.png", "key = " + awsKey() + "\n"},
				{"opt/package-lock.json", "key = " + awsKey() + "\n"},
				{"usr/share/doc/x", "key = " + awsKey() + "\n"},
			}}},
			want: []string{
				"aws-access-key-id app/.git/config:1", "aws-access-key-id app/node_modules/x/index.js:1", "aws-access-key-id app/test/y.env:1",
				"aws-access-key-id opt/README.md:1", "aws-access-key-id opt/example.env:1", "aws-access-key-id opt/logo.png:1",
				"aws-access-key-id opt/package-lock.json:1", "aws-access-key-id usr/share/doc/x:1",
			}, layer: []int{1},
		},
		{
			// What no search file by file can find: no single file holds the secret.
			name:  "a key split over two files of two layers is NOT found",
			image: recipe{layers: [][]file{debian(), {{"a", half(0)}}, {{"b", half(1)}}}},
		},
		{
			name:  "a clean image has no findings",
			image: recipe{layers: [][]file{debian()}},
		},
	}
	var recipes []recipe
	for i, test := range tests {
		test.image.name = "image" + string(rune('a'+i))
		recipes = append(recipes, test.image)
	}
	layout, cells := newLayout(t, recipes...)
	run := newInspection(t, layout, cells...)
	reports := run.mustRun(t)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for n, f := range secrets(reports[i]) {
				got = append(got, f.ID+" "+where(f))
				if f.Severity != "CRITICAL" && f.Severity != "HIGH" {
					t.Errorf("severity %s does not stop a release", f.Severity)
				}
				if n < len(test.layer) && test.layer[n] < 0 && f.Layer != "" {
					t.Errorf("layer %s, want none", f.Layer)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Fatalf("findings (-want +got):\n%s", diff)
			}
			wantLayers(t, layout, cells[i], test.layer, secrets(reports[i]))
			for _, name := range []string{inspect.ReportFile, inspect.SBOMFile} {
				content := run.file(t, cells[i].Cell, name)
				for _, secret := range []string{awsKey(), otherAWSKey(), githubToken(), "MIIEpAIBAAKCAQEA"} {
					if name == inspect.ReportFile && bytes.Contains(content, []byte(secret)) {
						t.Errorf("%s holds the secret it reports", name)
					}
				}
			}
		})
	}
}

// where is a finding's path, with the line if it has one.
func where(f evidence.Finding) string {
	if f.Line == 0 {
		return f.Path
	}
	return fmt.Sprintf("%s:%d", f.Path, f.Line)
}

// half is the first or the second half of a key, on a line of its own.
func half(i int) string { return awsKey()[i*10 : i*10+10] }

// wantLayers compares the layers of findings with those of the manifest, in any order.
func wantLayers(t *testing.T, layout string, cell inspect.Cell, want []int, findings []evidence.Finding) {
	t.Helper()
	manifest := readManifest(t, layout, cell)
	missing := map[string]bool{}
	for _, i := range want {
		if i >= 0 {
			missing[manifest.Layers[i].Digest.String()] = true
		}
	}
	for _, f := range findings {
		delete(missing, f.Layer.String())
	}
	if len(missing) > 0 {
		t.Errorf("no finding names the layers %v: %+v", missing, findings)
	}
}

func TestF3SecretOnOnePlatformIsReportedThere(t *testing.T) {
	planted := []file{{"opt/app/deploy.env", "AWS_ACCESS_KEY_ID=" + awsKey() + "\n"}}
	layout, cells := newLayout(t,
		recipe{name: "app", platform: "linux/amd64", layers: [][]file{debian()}},
		recipe{name: "app", platform: "linux/arm64", layers: [][]file{debian(), planted}},
	)
	reports := newInspection(t, layout, cells...).mustRun(t)
	if len(secrets(reports[0])) != 0 || len(secrets(reports[1])) != 1 {
		t.Errorf("amd64 %+v, arm64 %+v; want the finding on arm64 alone", reports[0].Findings, reports[1].Findings)
	}
}

// TestF7TheReportSaysWhatWasInForce when the worker ran, as it saw it itself.
func TestF7TheReportSaysWhatWasInForce(t *testing.T) {
	layout, cells := newLayout(t, recipe{name: "app", layers: [][]file{debian()}})
	tools := newInspection(t, layout, cells...).mustRun(t)[0].Tools
	if got := tools[inspect.ToolLimits]; got != inspect.Limits(4<<30) {
		t.Errorf("limits %q", got)
	}
	if got := tools[inspect.ToolView]; tool.CanConfine() && got != inspect.ReadOnly {
		t.Errorf("view %q", got)
	}
	if got := tools[inspect.ToolPrivileges]; got != inspect.Unprivileged {
		t.Errorf("the worker's privileges were %q, want %q", got, inspect.Unprivileged)
	}
	if got := tools[inspect.ToolIsolation]; os.Geteuid() == 0 && got != inspect.Isolated {
		t.Errorf("isolation %q", got)
	}
}

// TestLayersAreToldWithTheirInstruction: and an instruction that holds a secret is not shown.
func TestLayersAreToldWithTheirInstruction(t *testing.T) {
	history := []ocispec.History{
		{CreatedBy: "/bin/sh -c #(nop) ADD file:1 in /"},
		{CreatedBy: "ENV X=1", EmptyLayer: true},
		{CreatedBy: "RUN /bin/sh -c apt-get update &&\n\tapt-get install -y hello # buildkit"},
		{CreatedBy: "RUN /bin/sh -c echo " + githubToken() + " >/token # buildkit"},
		{CreatedBy: "RUN /bin/sh -c printf AKIA%s " + awsKey()[4:] + " >/key # buildkit"},
		{CreatedBy: "COPY key /key # buildkit"},
	}
	step, key := []file{{"hello", "hello hello hello"}}, []file{{"key", "key = " + awsKey() + "\n"}}
	layout, cells := newLayout(t,
		recipe{name: "told", layers: [][]file{debian(), step, step, key, key}, history: history},
		recipe{name: "silent", layers: [][]file{debian(), step}, history: history},
	)
	run := newInspection(t, layout, cells...)
	reports := run.mustRun(t)
	want := [][]string{
		{"/bin/sh -c #(nop) ADD file:1 in /", "RUN /bin/sh -c apt-get update && apt-get install -y hello", "(not shown: it may hold the secret)", "(not shown: it may hold the secret)", "COPY key /key"},
		{"", ""},
	}
	for i, cell := range cells {
		var got []string
		for n, layer := range reports[i].Layers {
			if layer.Digest != readManifest(t, layout, cell).Layers[n].Digest {
				t.Errorf("%s: layer %d is %s", cell, n, layer.Digest)
			}
			got = append(got, layer.Instruction)
		}
		if diff := cmp.Diff(want[i], got); diff != "" {
			t.Errorf("instructions of %s (-want +got):\n%s", cell, diff)
		}
		for _, secret := range []string{githubToken(), awsKey()[4:]} {
			if bytes.Contains(run.file(t, cell.Cell, inspect.ReportFile), []byte(secret)) {
				t.Errorf("the report of %s holds the secret", cell)
			}
		}
	}
}

func TestDirectoryIsInspectedLikeALayer(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"bin/launch":            "#!/bin/sh\nexport AWS_ACCESS_KEY_ID=" + awsKey() + "\n",
		"dev/secret.env":        "TOKEN=" + githubToken() + "\n", // Trivy's walker of file systems skips /dev
		"etc/package-lock.json": `{"name":"x","version":"1.0.0","lockfileVersion":3,"packages":{"":{"name":"x","version":"1.0.0"},"node_modules/left-pad":{"version":"1.3.0"}}}`,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := newInspection(t, "")
	run.job.Directories = []inspect.Directory{{Name: "payload", Path: dir}}
	report := run.mustRun(t)[0]
	var paths []string
	for _, f := range secrets(report) {
		paths = append(paths, f.Path)
	}
	if diff := cmp.Diff([]string{"bin/launch", "dev/secret.env"}, paths); diff != "" {
		t.Errorf("secrets (-want +got):\n%s", diff)
	}
	if want, err := inspect.TreeDigest(dir); err != nil || report.Digest != want {
		t.Errorf("digest %s, want %s, %v", report.Digest, want, err)
	}
	bom := run.file(t, evidence.Cell{Image: "payload", Platform: inspect.AnyPlatform}, inspect.SBOMFile)
	if !strings.Contains(string(bom), "left-pad") || strings.Contains(string(bom), dir) {
		t.Errorf("the SBOM lacks left-pad or names the directory it was made in:\n%s", bom)
	}
}
