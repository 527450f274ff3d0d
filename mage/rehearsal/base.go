package rehearsal

import (
	"context"
	"net/http"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // the one driver we use registers itself
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
)

// newBase returns CNCF distribution v3 over memory, the handler alone. It holds the content and
// checks it; names, logins and refusals are the personality's.
func newBase() http.Handler {
	// distribution logs every request through logrus' standard logger and offers no other way to say no.
	logrus.SetLevel(logrus.PanicLevel)
	config := &configuration.Configuration{
		Storage: configuration.Storage{
			"inmemory":    configuration.Parameters{},
			"redirect":    configuration.Parameters{"disable": true},
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
		},
	}
	config.HTTP.RelativeURLs = true
	config.Validation.Manifests.URLs.Allow = []string{".*"} // GHCR takes foreign layers
	config.HTTP.Secret = "signs the state of uploads; nothing is kept from anybody here"
	return handlers.NewApp(context.Background(), config)
}

// manifestTypes are the media types that a client must accept to be shown every manifest.
func manifestTypes() []string {
	return []string{
		ocispec.MediaTypeImageManifest,
		ocispec.MediaTypeImageIndex,
		"application/vnd.docker.distribution.manifest.v2+json",
		"application/vnd.docker.distribution.manifest.list.v2+json",
	}
}
