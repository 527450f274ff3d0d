# chart ── plot ── atlas
# gateway
variable "WHERE" { default = "linux/amd64,linux/arm64" }

group "default" { targets = ["atlas", "gateway"] }

target "chart" {
  platforms = split(",", WHERE)
  context   = "build/chart"
  contexts  = { os = "docker-image://debian:bookworm-slim@sha256:7802002798b0e351323ed2357ae6dc5a8c4d0a05a57e7f4d8f97136151d3d603" }
}

target "plot" {
  platforms = split(",", WHERE)
  context   = "build/plot"
  contexts  = { chart = "target:chart" }
}

target "atlas" {
  platforms = split(",", WHERE)
  context   = "build/atlas"
  contexts  = { plot = "target:plot" }
}

# Its Dockerfile calls the operating system by its image's name.
target "gateway" {
  platforms = split(",", WHERE)
  context   = "build/gateway"
  contexts  = { "debian:bookworm-slim" = "docker-image://debian:bookworm-slim@sha256:7802002798b0e351323ed2357ae6dc5a8c4d0a05a57e7f4d8f97136151d3d603" }
}
