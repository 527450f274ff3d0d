# The image graph. One solve builds every image on every platform:
#
#   containai-base ─┬─ containai ─┬─ containai-copilot
#                   │             ├─ containai-codex
#                   │             └─ containai-claude
#                   └─ containai-proxy
#
# An image names its parent as a linked target, so the parent's layers are a byte-identical prefix
# of its own. By hand, from the root of the repository:
#
#   docker buildx bake -f images/docker-bake.hcl containai-codex

variable "CONTAINAI_PLATFORMS" { default = "linux/amd64,linux/arm64" }

# The CA bundle of a network that inspects TLS. It is a secret: steps that download mount it, it
# never enters a layer or a cache key, and without it nothing is mounted.
variable "CONTAINAI_CA_BUNDLE" { default = "" }

variable "SOURCE" { default = "https://github.com/containai/containai" }

group "default" {
  targets = [
    "containai-base", "containai", "containai-proxy",
    "containai-copilot", "containai-codex", "containai-claude",
  ]
}

target "_image" {
  platforms = split(",", CONTAINAI_PLATFORMS)
  secret    = CONTAINAI_CA_BUNDLE == "" ? [] : ["id=ca,src=${CONTAINAI_CA_BUNDLE}"]
}

# What is on everything: ours, and Debian's packages under the licenses that the SBOM lists one by one.
function "labels" {
  params = [title, description, licenses]
  result = {
    "org.opencontainers.image.title"       = title
    "org.opencontainers.image.description" = description
    "org.opencontainers.image.licenses"    = join(" AND ", concat(["Apache-2.0", "LicenseRef-Debian"], licenses))
    "org.opencontainers.image.source"      = SOURCE
  }
}

# The vetted base: the operating system, CA certificates, a non-root user, an init.
# Where no registry can be reached, the builder replaces `os` with a root file system of its own.
target "containai-base" {
  inherits = ["_image"]
  context  = "images/base"
  contexts = {
    os = "docker-image://debian:bookworm-slim@sha256:7802002798b0e351323ed2357ae6dc5a8c4d0a05a57e7f4d8f97136151d3d603"
  }
  labels = labels("containai-base", "The vetted base that every ContainAI image shares", [])
}

# The runtime of the agents: git, jq, Python, Node.js, a C toolchain, the session helpers.
target "containai" {
  inherits = ["_image"]
  context  = "images/containai"
  contexts = { base = "target:containai-base" }
  labels   = labels("containai", "The runtime that ContainAI's agents share", ["MIT", "Artistic-2.0"])
}

target "containai-copilot" {
  inherits = ["_image"]
  context  = "images/copilot"
  contexts = { runtime = "target:containai" }
  labels   = labels("containai-copilot", "GitHub Copilot CLI in the ContainAI runtime", ["MIT", "Artistic-2.0", "LicenseRef-GitHub-Copilot-CLI"])
}

target "containai-codex" {
  inherits = ["_image"]
  context  = "images/codex"
  contexts = { runtime = "target:containai" }
  labels   = labels("containai-codex", "OpenAI Codex CLI in the ContainAI runtime", ["MIT", "Artistic-2.0"])
}

target "containai-claude" {
  inherits = ["_image"]
  context  = "images/claude"
  contexts = { runtime = "target:containai" }
  labels   = labels("containai-claude", "Claude Code in the ContainAI runtime", ["MIT", "Artistic-2.0", "LicenseRef-Claude-Code"])
}

# The only way out of an agent's network: Squid with an allow-list of domains.
target "containai-proxy" {
  inherits = ["_image"]
  context  = "images/proxy"
  contexts = { base = "target:containai-base" }
  labels   = labels("containai-proxy", "Squid that lets agents reach allowed domains only", ["GPL-2.0-or-later"])
}
