# How the images of <<.Family>> are built; `docker buildx bake` builds them too. A named context puts another
# target, or the pinned operating system, where a Dockerfile says FROM that name.
variable "CONTAINAI_PLATFORMS" { default = "linux/amd64,linux/arm64" }

group "default" { targets = [<<range $i, $image := .Images>><<if $i>>, <<end>>"<<.Name>>"<<end>>] }

target "_image" { platforms = split(",", CONTAINAI_PLATFORMS) }
<<range .Images>>
target "<<.Name>>" {
  inherits   = ["_image"]
  context    = "<<.Context>>"
  dockerfile = "<<.Dockerfile>>"
  contexts = {
<<- range .Links>>
    "<<.Name>>" = "<<.Value>>"
<<- end>>
  }
}
<<end ->>
