# shellcheck shell=sh
# What the host tools share: the profile, the engine, running and showing commands. The caller
# sets `root`, the directory of the installed payload. Nothing read from a file is evaluated.
# shellcheck disable=SC2034,SC2154 # what one side sets, the other uses

# What every container is denied.
hardened='--rm --cap-drop=ALL --security-opt=no-new-privileges --pids-limit=4096'

# read_profile refuses a profile.env with any line that is not KEY=value of plain characters.
read_profile() {
	profile=$root/profile.env
	[ -r "$profile" ] || die 11 "no $profile: this payload was not installed but copied; run install.sh"
	if grep -q -v -E -x '[A-Z][A-Z0-9_]*=[A-Za-z0-9._:/@+-]*' "$profile"; then
		die 32 "$profile has a line that is not KEY=value"
	fi
}

# pinned KEY prints the value of CONTAINAI_KEY, or nothing.
pinned() {
	sed -n "s|^CONTAINAI_$1=||p" "$profile"
}

# image_of NAME prints the image's reference by digest: containai-codex has CONTAINAI_CODEX_DIGEST.
image_of() {
	key=$(printf '%s' "${1#containai}" | tr 'a-z-' 'A-Z_')
	key=${key#_}
	digest=$(pinned "${key:+${key}_}DIGEST")
	printf '%s\n' "$digest" | grep -q -E -x 'sha256:[0-9a-f]{64}' || die 32 "$profile pins no digest of $1"
	printf '%s/%s/%s@%s\n' "$(pinned REGISTRY)" "$(pinned OWNER)" "$1" "$digest"
}

# choose_engine sets engine to the one asked for, or the first that is installed. A dry run needs
# none to show what it would do.
choose_engine() {
	case $engine in
	docker | podman) ;;
	'')
		for engine in docker podman; do
			! command -v $engine >/dev/null || return 0
		done
		engine=docker
		;;
	*) die 10 "unknown engine: $engine (docker or podman)" ;;
	esac
	[ "${dry:-no}" = yes ] || command -v "$engine" >/dev/null ||
		die 11 "neither docker nor podman is installed: https://docs.docker.com/engine/install or https://podman.io/docs/installation"
}

# run runs the engine, or prints the command as a shell would read it.
run() {
	if [ "${dry:-no}" = no ]; then
		"$engine" "$@"
		return
	fi
	line=$engine
	for word in "$@"; do
		line="$line $(quoted "$word")"
	done
	printf '%s\n' "$line"
}

# run_quietly runs the engine without what it prints when all is well.
run_quietly() {
	if [ "${dry:-no}" = no ]; then
		run "$@" >/dev/null
	else
		run "$@"
	fi
}

quoted() {
	case $1 in
	'' | *[!A-Za-z0-9_./:=@,+-]*) printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")" ;;
	*) printf '%s' "$1" ;;
	esac
}

# die STATUS MESSAGE: the statuses are those of docs/exit-codes.md.
die() {
	printf '%s: %s\n' "${0##*/}" "$2" >&2
	exit "$1"
}
