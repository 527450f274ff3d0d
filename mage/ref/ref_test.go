package ref_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/ref"
)

const sha = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseReadsNames(t *testing.T) {
	for name, in := range map[string]string{
		"a tag":                       "ghcr.io/containai/containai-base:dev",
		"a digest":                    "ghcr.io/containai/containai-base@" + sha,
		"a port":                      "localhost:5000/containai:dev",
		"an IPv6 host":                "[::1]:5000/containai/containai:v1.2.3",
		"all separators":              "ghcr.io/a.b/c_d/e__f/g-h/i---j:_tag-1.0",
		"a commit":                    "ghcr.io/a/b:sha-" + strings.Repeat("0", 40),
		"a tag of a single character": "ghcr.io/a/b:_",
		"the longest tag":             "ghcr.io/a/b:" + strings.Repeat("t", 128),
	} {
		t.Run(name, func(t *testing.T) {
			tagged, pinned, err := ref.Parse(in)
			if err != nil {
				t.Fatal(err)
			}
			if got := print(tagged, pinned); got != in {
				t.Errorf("Parse(%q) prints as %q", in, got)
			}
		})
	}
}

// Rows E4 and E5: names that a registry, a shell or a person could take for something else.
func TestParseRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"E4 nothing":                           "",
		"E4 an empty tag":                      "ghcr.io/a/b:",
		"E4 no tag":                            "ghcr.io/a/b",
		"E4 a port and no tag":                 "localhost:5000/a",
		"E4 a tag that is too long":            "ghcr.io/a/b:" + strings.Repeat("t", 129),
		"E4 a tag that begins with a dot":      "ghcr.io/a/b:.t",
		"E4 a tag that begins with a dash":     "ghcr.io/a/b:-t",
		"E4 a tag with a slash":                "ghcr.io/a/b:t/u",
		"E4 a tag with a colon":                "ghcr.io/a/b:t:u",
		"E4 a tag with a blank":                "ghcr.io/a/b:t u",
		"E4 a tag with a line end":             "ghcr.io/a/b:t\n",
		"E4 a tag beyond ASCII":                "ghcr.io/a/b:\u0442",
		"E4 a tag of the referrers fallback":   "ghcr.io/a/b:sha256-" + strings.Repeat("0", 64),
		"E4 a short one of the same":           "ghcr.io/a/b:sha256-x",
		"E5 upper case":                        "ghcr.io/A/b:t",
		"E5 an element of two dots":            "ghcr.io/a/../b:t",
		"E5 an element of one dot":             "ghcr.io/./b:t",
		"E5 an empty element":                  "ghcr.io/a//b:t",
		"E5 a slash at the end":                "ghcr.io/a/:t",
		"E5 a separator at the end":            "ghcr.io/a-:t",
		"E5 three underscores":                 "ghcr.io/a___b:t",
		"E5 two dots":                          "ghcr.io/a..b:t",
		"E5 a name that is too long":           "ghcr.io/" + strings.Repeat("a", 248) + ":t",
		"E5 a name beyond ASCII":               "ghcr.io/\u0430:t",
		"E5 a name with a line end":            "ghcr.io/a\n:t",
		"E5 no path":                           "ghcr.io:t",
		"E5 no host":                           "/a/b:t",
		"E5 a host with a user":                "user@ghcr.io/a:t",
		"E5 a host with a scheme":              "https://ghcr.io/a:t",
		"E5 a host with a query":               "ghcr.io?a/b:t",
		"E5 a port that is no number":          "ghcr.io:x/a:t",
		"a tag and a digest":                   "ghcr.io/a/b:t@" + sha,
		"a digest without a name":              "@" + sha,
		"a digest that is too short":           "ghcr.io/a/b@sha256:00",
		"a digest in upper case":               "ghcr.io/a/b@" + strings.ToUpper(sha),
		"a digest of an unknown algorithm":     "ghcr.io/a/b@md5:d41d8cd98f00b204e9800998ecf8427e",
		"an empty digest":                      "ghcr.io/a/b@",
		"two digests":                          "ghcr.io/a/b@" + sha + "@" + sha,
		"a digest with something more behind":  "ghcr.io/a/b@" + sha + "0",
		"a digest of another name's host only": "ghcr.io@" + sha,
	} {
		t.Run(name, func(t *testing.T) {
			tagged, pinned, err := ref.Parse(in)
			if !errors.Is(err, fault.Invalid) {
				t.Errorf("Parse(%q) = %v, %v, %v, want Invalid", in, tagged, pinned, err)
			}
		})
	}
}

func TestLoopbackIsThisMachineOnly(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1": true, "127.0.0.1:5000": true, "127.1.2.3:1": true, "[::1]": true, "[::1]:5000": true,
		"ghcr.io": false, "localhost.evil.example": false, "127.0.0.1.evil.example": false, "10.0.0.1:5000": false, "0.0.0.0": false, "[::2]:5000": false, "notlocalhost": false,
	} {
		repo, err := ref.ParseRepo(host + "/a")
		if err != nil {
			t.Fatal(err)
		}
		if got := repo.Loopback(); got != want {
			t.Errorf("%s: Loopback = %v, want %v", host, got, want)
		}
	}
}

// FuzzParse: what Parse accepts prints as it was, is one of the two, and parses again.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"ghcr.io/a/b:t", "localhost:5000/a@" + sha, "[::1]:5000/a:t", "a:1/b", "a/b:c@d", "\x00/a:b", "A/b:c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		tagged, pinned, err := ref.Parse(in)
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Errorf("Parse(%q) = %v, want Invalid", in, err)
			}
			return
		}
		if got := print(tagged, pinned); got != in {
			t.Errorf("Parse(%q) prints as %q", in, got)
		}
		if (tagged == ref.Tagged{}) == (pinned == ref.Pinned{}) {
			t.Errorf("Parse(%q) = %v and %v, want exactly one", in, tagged, pinned)
		}
	})
}

func FuzzParseRepoAndTag(f *testing.F) {
	for _, seed := range []string{"ghcr.io/a/b", "localhost:5000/a", "[::1]:5000/a", "A/b", "v1.2.3", "sha256-0", "-x", "a..b", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if repo, err := ref.ParseRepo(in); err == nil && repo.String() != in {
			t.Errorf("ParseRepo(%q) prints as %q", in, repo)
		} else if err != nil && !errors.Is(err, fault.Invalid) {
			t.Errorf("ParseRepo(%q) = %v, want Invalid", in, err)
		}
		if tag, err := ref.ParseTag(in); err == nil && (tag != in || len(tag) > 128) {
			t.Errorf("ParseTag(%q) = %q", in, tag)
		} else if err != nil && !errors.Is(err, fault.Invalid) {
			t.Errorf("ParseTag(%q) = %v, want Invalid", in, err)
		}
	})
}

func print(tagged ref.Tagged, pinned ref.Pinned) string {
	if (pinned != ref.Pinned{}) {
		return pinned.String()
	}
	return tagged.String()
}

func ExampleParse() {
	tagged, _, err := ref.Parse("ghcr.io/containai/containai-base:dev")
	fmt.Println(tagged.Repo.Host, tagged.Repo.Path, tagged.Tag, err)
	_, _, err = ref.Parse("ghcr.io/ContainAI/containai-base:dev")
	fmt.Println(errors.Is(err, fault.Invalid))
	// Output:
	// ghcr.io containai/containai-base dev <nil>
	// true
}
