# tiny-base ─┬─ tiny ── tiny-agent
#            └─ tiny-proxy
variable "CONTAINAI_PLATFORMS" { default = "linux/amd64,linux/arm64" }

group "default" { targets = ["tiny-base", "tiny", "tiny-agent", "tiny-proxy"] }

target "_image" { platforms = split(",", CONTAINAI_PLATFORMS) }

target "tiny-base" {
  inherits = ["_image"]
  context  = "images/base"
  contexts = {
    os = "docker-image://debian:bookworm-slim@sha256:7802002798b0e351323ed2357ae6dc5a8c4d0a05a57e7f4d8f97136151d3d603"
  }
  labels = {
    "org.opencontainers.image.title"    = "tiny-base"
    "org.opencontainers.image.licenses" = "Apache-2.0 AND LicenseRef-Debian"
  }
}

target "tiny" {
  inherits = ["_image"]
  context  = "images/app"
  contexts = { base = "target:tiny-base" }
}

target "tiny-agent" {
  inherits = ["_image"]
  context  = "images/agent"
  contexts = { app = "target:tiny" }
}

target "tiny-proxy" {
  inherits = ["_image"]
  context  = "images/proxy"
  contexts = { base = "target:tiny-base" }
}
