#!/bin/sh
# Installs ContainAI's host tools from an OCI registry, and takes them back.
#
# This script was packed by a release, which put into it the digest of a verifier for each processor
# and the family file: whose signatures count, and for what. It fetches the verifier by that digest,
# and the verifier does the rest: it follows the channel from the signed channels document to the
# record and the payload, checks the signature and the provenance of each against that policy, and
# only then unpacks. There is no option that leaves a check out.
#
# Needs a POSIX shell, curl and sha256sum. Needs no login and no root. Of what it fetches it runs
# the verifier alone. Everything lives below one directory:
#
#   versions/<digest of the payload's manifest>/   one installed payload each
#   current, previous                              links to two of them, switched by rename
#   install.sh, verifier, trusted_root.json        for the next time
#   seen/, state                                   the newest channels document; where from
set -eu
umask 022
export LC_ALL=C

# A release replaces the lines between these marks by its own; with these ones, as they lie in the
# repository, this script installs nothing.
#@begin
default_registry='' family='' artifact='' verifier_amd64='' verifier_arm64='' needs_root=no
family_file() { :; }
policy_file() { :; }
root_file() { :; }
#@end

usage() {
	cat <<END
usage: install.sh [option…]
  --channel NAME     dev, nightly or prod (default: the installed one, or prod)
  --registry HOST/OWNER   default: the installed one, or ${default_registry:-none}
  --prefix DIR       default: \$XDG_DATA_HOME/containai or ~/.local/share/containai
  --bin DIR          where the commands are linked (default: ~/.local/bin)
  --trusted-root FILE     where releases are signed by a Sigstore without a public root; kept for updates
  --rollback         switch back to the version before, without a network
  --status           say what is installed
  --uninstall        remove everything that was installed
  --version          print this script's version, and the verifiers it trusts
END
}

version=2.0.0

# Limit of the verifier, in KiB.
limit_verifier=40960

main() {
	work='' action=install channel='' registry='' root=''
	prefix=${XDG_DATA_HOME:-${HOME:?}/.local/share}/containai bin=''
	while [ $# -gt 0 ]; do
		case $1 in
		--channel | --registry | --prefix | --bin | --trusted-root)
			[ $# -gt 1 ] || die 10 "$1 needs a value"
			case $1 in
			--channel) channel=$2 ;;
			--registry) registry=$2 ;;
			--prefix) prefix=$2 ;;
			--bin) bin=$2 ;;
			--trusted-root) root=$2 ;;
			esac
			shift
			;;
		--rollback) action=rollback ;;
		--status) action=status ;;
		--uninstall) action=uninstall ;;
		--version) action=version ;;
		--help | -h) action=usage ;;
		*) usage >&2 && die 10 "unknown option: $1" ;;
		esac
		shift
	done
	: "${bin:=$(recorded bin)}" "${bin:=${HOME:?}/.local/bin}"
	case $prefix$bin in
	*[[:cntrl:]]*) die 10 "a directory's name has control characters" ;;
	esac
	case $prefix in /?*) ;; *) die 10 "--prefix must be an absolute path" ;; esac
	case $bin in /?*) ;; *) die 10 "--bin must be an absolute path" ;; esac
	case $action in
	version) printf 'install.sh %s\nverifier amd64 %s\nverifier arm64 %s\n' "$version" "$verifier_amd64" "$verifier_arm64" ;;
	*) "$action" ;;
	esac
}

# --- what a person asks for ---------------------------------------------------------------------

install() {
	[ -n "$family" ] || die 11 "this is the source of an installer: take the one that a release packed"
	for tool in curl sha256sum readlink mktemp; do
		command -v "$tool" >/dev/null || die 11 "$tool is not installed"
	done
	: "${channel:=$(recorded channel)}" "${registry:=$(recorded registry)}"
	: "${channel:=prod}" "${registry:=$default_registry}"
	matches "$channel" '[a-z0-9]+(-[a-z0-9]+)*' || die 10 "not a channel: $channel"
	matches "$registry" '([A-Za-z0-9.-]+|\[::1\])(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+' ||
		die 10 "not host[:port]/owner: $registry"
	choose_scheme
	choose_verifier
	mkdir -p "$prefix/versions" || die 11 "cannot write in $prefix"
	lock
	: >"$prefix/.containai" || die 11 "cannot write in $prefix"
	work=$(mktemp -d "$prefix/.work.XXXXXX")

	take_verifier
	verify_and_unpack
	payload=$(told payload) commit=$(told commit) generation=$(told generation)
	place "${payload#sha256:}"
	record_state
	mv -f "$work/release/install.sh" "$prefix/install.sh"
	switch "$placed"
	link_commands
	tidy
	say "installed: $channel (generation $generation, commit $commit) below $prefix/current"
	case :$PATH: in *:"$bin":*) ;; *) say "add $bin to PATH" ;; esac
}

rollback() {
	[ -e "$prefix/previous/" ] || die 40 "no previous version in $prefix"
	lock
	old=$(target current) new=$(target previous)
	[ "$old" != "$new" ] || die 40 "the previous version is the current one"
	intact "$prefix/versions/$new" || die 32 "the previous version's files were changed; install again"
	switch "$new"
	link_commands
	say "rolled back to $new; the next update goes forward again"
}

status() {
	[ -e "$prefix/current/" ] || die 31 "nothing is installed in $prefix"
	intact "$prefix/current" || die 32 "installed files were changed: install again"
	show "channel     $(recorded channel) of $(recorded registry)"
	show "commit      $(sed -n 's/^CONTAINAI_COMMIT=//p' "$prefix/current/profile.env")"
	show "payload     $(target current)"
	[ ! -e "$prefix/previous/" ] || show "previous    $(target previous)"
	show "files       as in SHA256SUMS"
}

uninstall() {
	[ -e "$prefix/.containai" ] || die 31 "nothing is installed in $prefix"
	lock
	unlink_commands all
	rm -rf "$prefix/current" "$prefix/previous" "$prefix/versions" "$prefix/seen" "$prefix/state" \
		"$prefix/install.sh" "$prefix/verifier" "$prefix/trusted_root.json" "$prefix/.containai"
	say "removed from $prefix; settings and sessions of agents are kept elsewhere and stay"
}

# --- what is fetched ----------------------------------------------------------------------------

# choose_verifier sets verifier to the digest of this machine's.
choose_verifier() {
	case $(uname -s)/$(uname -m) in
	Linux/x86_64 | Linux/amd64) verifier=$verifier_amd64 ;;
	Linux/aarch64 | Linux/arm64) verifier=$verifier_arm64 ;;
	*) verifier='' ;;
	esac
	matches "$verifier" 'sha256:[0-9a-f]{64}' || die 11 "there is no verifier for $(uname -s) on $(uname -m)"
}

# take_verifier makes $prefix/verifier the program of that digest, which is checked each time.
take_verifier() {
	if [ -f "$prefix/verifier" ] && [ "$(digest_of "$prefix/verifier")" = "$verifier" ]; then
		return
	fi
	say "fetching the verifier $verifier"
	fetch "$work/verifier"
	got=$(digest_of "$work/verifier")
	[ "$got" = "$verifier" ] || die 32 "the registry's verifier has the digest $got"
	chmod 755 "$work/verifier"
	mv -f "$work/verifier" "$prefix/verifier"
}

# verify_and_unpack leaves in $work/release what the channel serves, verified, or ends with the
# verifier's status.
verify_and_unpack() {
	family_file >"$work/family.yaml"
	set -- -family "$work/family.yaml"
	policy_file >"$work/policy.yaml"
	[ ! -s "$work/policy.yaml" ] || set -- "$@" -policy "$work/policy.yaml"
	take_root
	[ ! -s "$work/root.json" ] || set -- "$@" -trusted-root "$work/root.json"
	"$prefix/verifier" fetch "$@" -registry "$registry" -state "$prefix/seen" "$channel" "$work/release" || exit $?
	[ $needs_root = no ] || mv -f "$work/root.json" "$prefix/trusted_root.json"
}

# take_root writes the trusted root: the one that was packed, or, of an instance that has no public
# one, the user's. None means the verifier's own.
take_root() {
	root_file >"$work/root.json"
	if [ $needs_root = no ]; then
		[ -z "$root" ] || die 10 "this installer needs no --trusted-root"
		return
	fi
	: "${root:=$prefix/trusted_root.json}"
	[ -f "$root" ] || die 11 "these releases were signed by a Sigstore of their own: --trusted-root FILE, its trusted_root.json"
	cat "$root" >"$work/root.json"
}

# told KEY prints what the verifier says about the release.
told() { sed -n "s|^$1=||p" "$work/release/verified"; }

# --- the directory ------------------------------------------------------------------------------

# place puts the payload below versions/ and sets placed to its name there. What is there already
# and whole stays; what was changed stays too, beside it, because it may be the current version.
place() {
	placed=$1 again=1
	while [ -e "$prefix/versions/$placed" ]; do
		if intact "$prefix/versions/$placed"; then
			say "already here: $placed"
			return
		fi
		again=$((again + 1)) placed=$1.$again
	done
	intact "$work/release/payload" || die 32 "the payload's files are not those of its SHA256SUMS"
	mv "$work/release/payload" "$prefix/versions/$placed"
}

# intact DIR: its files are exactly those of its SHA256SUMS, with their content.
intact() {
	(
		cd "$1" && [ -f SHA256SUMS ] && [ -f profile.env ] || exit 1
		have=$(find . -type f ! -path ./SHA256SUMS | sed 's|^\./||' | sort)
		want=$(sed -n 's|^[0-9a-f]\{64\} [ *]||p' SHA256SUMS | sort)
		[ "$have" = "$want" ] && sha256sum -c SHA256SUMS >/dev/null 2>&1
	)
}

# switch NAME makes a version current and the one it replaces previous. Each link is replaced by
# one rename: whoever looks sees the old version or the new one.
switch() {
	old=$(target current)
	[ "$old" != "$1" ] || return 0
	[ -z "$old" ] || relink "versions/$old" previous
	relink "versions/$1" current
}

relink() {
	rm -f "$prefix/.new.$2"
	ln -s "$1" "$prefix/.new.$2"
	mv -fT "$prefix/.new.$2" "$prefix/$2"
}

target() {
	link=$(readlink "$prefix/$1" 2>/dev/null || true)
	printf '%s\n' "${link#versions/}"
}

record_state() {
	printf '%s\n' "registry=$registry" "channel=$channel" "bin=$bin" >"$work/state"
	mv -f "$work/state" "$prefix/state"
}

# recorded KEY prints what the last installation noted.
recorded() {
	[ ! -f "$prefix/state" ] || sed -n "s|^$1=||p" "$prefix/state"
}

# link_commands links every command of the payload through `current`, so that links never change,
# and takes back the links of commands that are gone.
link_commands() {
	mkdir -p "$bin"
	for command in "$prefix/current/bin/"*; do
		link=$bin/${command##*/}
		if [ "$(readlink "$link" || true)" = "$command" ]; then
			continue
		elif [ -e "$link" ] || [ -L "$link" ]; then
			say "note: $link is yours and stays; run $command"
		else
			ln -s "$command" "$link"
		fi
	done
	unlink_commands gone
}

# unlink_commands all|gone removes links that this script made.
unlink_commands() {
	for link in "$bin"/*; do
		case $(readlink "$link" || true) in
		"$prefix/current/bin/"*) if [ "$1" = all ] || [ ! -e "$link" ]; then rm -f "$link"; fi ;;
		esac
	done
}

# tidy removes versions that are neither current nor previous.
tidy() {
	for dir in "$prefix/versions/"*; do
		case ${dir##*/} in
		"$(target current)" | "$(target previous)") ;;
		*) rm -rf "$dir" ;;
		esac
	done
}

# lock admits one installer at a time, and removes what a dead one left.
lock() {
	tries=0
	seize "$prefix/.lock"
	trap unlock EXIT
	trap 'exit 130' INT TERM HUP
	rm -rf "$prefix/.lock."* "$prefix/.work."*
}

# seize LINK makes a link to our process's name, by one call, or ends the script where a live
# process has it. The link of a dead one is removed only by who holds LINK.<its name>: so nobody
# removes a link that in the meantime is another's.
seize() {
	until ln -s "$(process $$)" "$1" 2>/dev/null; do
		tries=$((tries + 1))
		holder=$(readlink "$1" || true)
		if [ -n "$holder" ]; then
			! lives "$holder" || die 40 "another installer (process ${holder%%.*}) is at work"
			bury "$1" "$holder"
		fi
		[ $tries -lt 50 ] || die 11 "cannot make the link $1" # sooner than that, its holder has just left
	done
}

# process NUMBER prints a process's name: its number, and when it began, because numbers come again.
# That is the 22nd field of its line, the 20th behind the program's name: see proc_pid_stat(5).
process() {
	born=''
	{ read -r born <"/proc/$1/stat"; } 2>/dev/null || :
	# shellcheck disable=SC2086 # fields
	set -- "$1" ${born##*) }
	echo "$1.${21:-}"
}

# lives NAME: the process is there. Another user's is, too, though it takes no signal from us.
lives() {
	kill -0 "${1%%.*}" 2>/dev/null || [ -e "/proc/${1%%.*}" ] || return 1
	[ "$(process "${1%%.*}")" = "$1" ]
}

# bury LINK DEAD removes a dead process's link, unless somebody was faster.
bury() {
	seize "$1.$2"
	[ "$(readlink "$1" || true)" != "$2" ] || rm -f "$1"
	rm -f "$1.$2"
}

unlock() {
	[ -z "$work" ] || rm -rf "$work"
	rm -f "$prefix/.lock"
	rmdir "$prefix" 2>/dev/null || true
}

# --- the registry -------------------------------------------------------------------------------

# choose_scheme: plain HTTP is for this machine's own registries only.
choose_scheme() {
	host=${registry%%/*} owner=${registry#*/}
	if matches "$host" '(localhost|127\.[0-9]+\.[0-9]+\.[0-9]+|\[::1\])(:[0-9]+)?'; then
		scheme=http
	else
		scheme=https
	fi
}

# fetch FILE gets the verifier's blob, with an anonymous token if the registry asks for one.
fetch() {
	: >"$work/auth"
	code=$(request "$1")
	if [ "$code" = 401 ]; then
		authorize
		code=$(request "$1")
	fi
	case $code in
	200) ;;
	401 | 403) die 11 "$registry/$artifact is not public (HTTP $code)" ;;
	404) die 31 "$registry/$artifact does not have the verifier $verifier: take a newer install.sh" ;;
	*) die 50 "$scheme://$host answered $code; running this again is safe" ;;
	esac
}

# request FILE prints the status. A redirection leaves the token behind: curl sees to that.
request() {
	(
		ulimit -f $((limit_verifier * 2))
		curl --silent --show-error --location --max-redirs 3 --proto "=$scheme" --proto-redir "=$scheme" \
			--connect-timeout 20 --max-time 600 --retry 3 --max-filesize $((limit_verifier * 1024)) --header "@$work/auth" \
			--dump-header "$work/headers" --output "$1" --write-out '%{http_code}' "$scheme://$host/v2/$owner/$artifact/blobs/$verifier"
	) || die 50 "cannot fetch the verifier from $scheme://$host; running this again is safe"
}

# authorize follows the registry's challenge; there is no password to send.
authorize() {
	challenge=$(tr -d '\r' <"$work/headers" | sed -n 's/^[Ww][Ww][Ww]-[Aa]uthenticate: *[Bb]earer //p' | sed -n '$p')
	realm=$(printf '%s\n' "$challenge" | sed -n 's/.*realm="\([^"]*\)".*/\1/p')
	service=$(printf '%s\n' "$challenge" | sed -n 's/.*service="\([^"]*\)".*/\1/p')
	matches "$realm" "$scheme"'://[A-Za-z0-9.:/_-]+' || die 11 "$host asks for a login that this script does not know"
	(
		ulimit -f 512
		curl --silent --show-error --fail --get --proto "=$scheme" --connect-timeout 20 --max-time 60 --retry 3 \
			--data-urlencode "service=$service" --data-urlencode "scope=repository:$owner/$artifact:pull" \
			--output "$work/token" "$realm"
	) || die 11 "$registry/$artifact is not public: no anonymous token"
	# The token's alphabet has no quote, so the first quote behind it ends it.
	token=$(tr -d '\n' <"$work/token" | sed -n 's/.*"\(access_\)\{0,1\}token" *: *"\([A-Za-z0-9._~+\/=-]*\)".*/\2/p')
	[ -n "$token" ] || die 50 "$realm answered without a token"
	echo "Authorization: Bearer $token" >"$work/auth"
}

# --- small things -------------------------------------------------------------------------------

digest_of() {
	sum=$(sha256sum <"$1")
	echo "sha256:${sum%% *}"
}

# matches TEXT PATTERN: the whole of a one-line text matches an extended regular expression.
matches() {
	case $1 in *'
'*) return 1 ;; esac
	printf '%s\n' "$1" | grep -E -x -q -e "$2"
}

say() { show "containai: $*" >&2; }

# show prints one line, whoever wrote it, without what steers a terminal; in UTF-8 some pairs of bytes do.
show() { printf '%s\n' "$(printf %s "$*" | tr -cd '\40-\176\200-\377' | sed "$(printf 's/\302[\200-\237]/?/g')")"; }

# die STATUS MESSAGE: the statuses are those of docs/exit-codes.md.
die() {
	status=$1
	shift
	say "$*"
	exit "$status"
}

main "$@"
