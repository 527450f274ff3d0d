package release

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Profile returns profile.env of the payload: KEY=value lines, sorted, that pin every image of a
// release by the digest of its index. Registry is host[:port]/owner.
func Profile(registry, family string, src Source, images map[string]Image) []byte {
	host, owner, _ := strings.Cut(registry, "/")
	values := map[string]string{
		"CONTAINAI_FAMILY":   family,
		"CONTAINAI_REGISTRY": host,
		"CONTAINAI_OWNER":    owner,
		"CONTAINAI_COMMIT":   src.Commit,
		"CONTAINAI_TAG":      src.Tag(),
	}
	for name, image := range images {
		values[digestKey(name)] = image.Index.Digest.String()
	}
	var out strings.Builder
	for _, key := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&out, "%s=%s\n", key, values[key])
	}
	return []byte(out.String())
}

// digestKey turns an image name into its key: "containai-base" → "CONTAINAI_BASE_DIGEST".
func digestKey(image string) string {
	return strings.ToUpper(strings.ReplaceAll(image, "-", "_")) + "_DIGEST"
}
