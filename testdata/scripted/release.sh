#!/bin/sh
# The same family as people script it today: bake, then Syft, Trivy and cosign for each image, oras for the
# artifacts, crane for the tags, one after another. `mage bench` times it beside release:dev.
# It is generous to itself: no smoke tests, no ledger, no read-back, and a key signs instead of a Sigstore.
#
# From the environment:
#   OWNER     host:port/owner of a registry on the loopback
#   BUILDER   a Buildx builder
#   OS        the context of the operating system, for the base image
#   CACHE     a directory with a vulnerability database below db/, where Trivy keeps its cache
#   KEY       cosign's private key, with an empty password
#   WORK      a directory for what is made
set -eu
images="containai-base containai containai-proxy containai-copilot containai-codex containai-claude"
commit=sha-$(git rev-parse HEAD)
export SYFT_REGISTRY_INSECURE_USE_HTTP=true SYFT_CHECK_FOR_APP_UPDATE=false COSIGN_PASSWORD=

set -- --builder "$BUILDER" -f images/docker-bake.hcl --set "containai-base.contexts.os=$OS" --allow=fs.read=/ \
  --set '*.output=type=registry,registry.insecure=true' --set '*.attest=type=provenance,mode=max'
for image in $images; do
  set -- "$@" --set "$image.tags=$OWNER/$image:$commit"
done
buildx bake "$@"

sign() { # REFERENCE, and then a type and a file for each attestation
  reference=$1; shift
  cosign sign --key "$KEY" --tlog-upload=false --yes --allow-http-registry --recursive "$reference"
  while [ $# -gt 0 ]; do
    cosign attest --key "$KEY" --tlog-upload=false --yes --allow-http-registry --type "$1" --predicate "$2" "$reference"
    shift 2
  done
}

for image in $images; do
  reference=$OWNER/$image@$(crane digest --insecure "$OWNER/$image:$commit")
  syft scan -q "registry:$reference" -o cyclonedx-json="$WORK/$image.cdx.json"
  trivy image -q --scanners vuln,secret --offline-scan --skip-db-update --skip-java-db-update --skip-version-check \
    --cache-dir "$CACHE" --format json --output "$WORK/$image.scan.json" "$reference"
  buildx imagetools inspect --builder "$BUILDER" --format '{{json .Provenance.SLSA}}' "$reference" >"$WORK/$image.slsa.json"
  sign "$reference" cyclonedx "$WORK/$image.cdx.json" https://example.com/scan/v1 "$WORK/$image.scan.json" \
    slsaprovenance1 "$WORK/$image.slsa.json"
done

for artifact in payload installer metadata; do
  tar -czf "$WORK/$artifact.tar.gz" -C artifacts "$artifact"
  (cd "$WORK" && oras push --plain-http --no-tty --artifact-type "application/vnd.example.$artifact.v1" \
    "$OWNER/containai-$artifact:$commit" "$artifact.tar.gz:application/vnd.oci.image.layer.v1.tar+gzip")
  sign "$OWNER/containai-$artifact@$(crane digest --insecure "$OWNER/containai-$artifact:$commit")"
done

for member in $images containai-payload containai-installer containai-metadata; do
  crane tag --insecure "$OWNER/$member:$commit" dev
done
