#!/bin/sh
# Installs ContainAI's host tools from an OCI registry, and takes them back.
#
# A channel's name leads to the channels document, the document to the payload's manifest, the
# manifest to its archive, the archive to its files: each is fetched by the digest that the one
# before it names, and nothing is used before its digest was checked. What this script does not
# check is the document's signature; `mage verify:channel NAME` does, and it says so when it ends.
#
# Needs a POSIX shell, curl, tar, gzip, sha256sum, awk. Needs no login and no root. Runs nothing
# of what it installs. Everything lives below one directory:
#
#   versions/<sha256 of the payload's manifest>/   one installed payload each
#   current, previous                              links to two of them, switched by rename
#   install.sh, state                              this script as the channel serves it; where from
set -eu
umask 022
export LC_ALL=C

usage() {
	cat <<END
usage: install.sh [option…]
  --channel NAME     dev, nightly or prod (default: the installed one, or prod)
  --registry HOST/OWNER   default: the installed one, or ghcr.io/containai
  --prefix DIR       default: \$XDG_DATA_HOME/containai or ~/.local/share/containai
  --bin DIR          where the commands are linked (default: ~/.local/bin)
  --family NAME      the family's name (default: containai)
  --allow-older      accept a channels document older than the last one seen
  --rollback         switch back to the version before, without a network
  --status           say what is installed
  --uninstall        remove everything that was installed
  --version          print this script's version
END
}

version=1.0.0

# Limits on everything that comes from outside, in KiB.
limit_manifest=256
limit_archive=16384
limit_files=65536

main() {
	work='' action=install channel='' registry='' family=containai older=no
	prefix=${XDG_DATA_HOME:-${HOME:?}/.local/share}/containai bin=${HOME:?}/.local/bin
	while [ $# -gt 0 ]; do
		case $1 in
		--channel | --registry | --prefix | --bin | --family)
			[ $# -gt 1 ] || die 10 "$1 needs a value"
			case $1 in
			--channel) channel=$2 ;;
			--registry) registry=$2 ;;
			--prefix) prefix=$2 ;;
			--bin) bin=$2 ;;
			--family) family=$2 ;;
			esac
			shift
			;;
		--allow-older) older=yes ;;
		--rollback) action=rollback ;;
		--status) action=status ;;
		--uninstall) action=uninstall ;;
		--version) action=version ;;
		--help | -h) action=usage ;;
		*) usage >&2 && die 10 "unknown option: $1" ;;
		esac
		shift
	done
	case $prefix$bin in
	*[[:cntrl:]]*) die 10 "a directory's name has control characters" ;;
	esac
	case $prefix in /?*) ;; *) die 10 "--prefix must be an absolute path" ;; esac
	case $action in
	version) echo "install.sh $version" ;;
	*) "$action" ;;
	esac
}

# --- what a person asks for ---------------------------------------------------------------------

install() {
	for tool in curl tar gzip sha256sum awk readlink mktemp; do
		command -v "$tool" >/dev/null || die 11 "$tool is not installed"
	done
	: "${channel:=$(recorded channel)}" "${registry:=$(recorded registry)}"
	: "${channel:=prod}" "${registry:=ghcr.io/containai}"
	matches "$channel" '[a-z0-9]+(-[a-z0-9]+)*' || die 10 "not a channel: $channel"
	matches "$family" '[a-z0-9]+(-[a-z0-9]+)*' || die 10 "not a family: $family"
	matches "$registry" '[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+|\[::1\](:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+' ||
		die 10 "not host[:port]/owner: $registry"
	choose_scheme
	if ! mkdir -p "$prefix/versions" || ! : >"$prefix/.containai"; then
		die 11 "cannot write in $prefix"
	fi
	lock
	work=$(mktemp -d "$prefix/.work.XXXXXX")

	read_channel
	hex=${payload#sha256:}
	if [ -d "$prefix/versions/$hex" ] && intact "$prefix/versions/$hex"; then
		say "already here: $payload"
	else
		rm -rf "$prefix/versions/$hex"
		fetch_layer "$family-payload" "$payload" "$work/payload.tar.gz" \
			application/vnd.containai.payload.v1 application/vnd.containai.payload.layer.v1+gzip
		unpack "$work/payload.tar.gz" "$work/tree"
		intact "$work/tree" || die 32 "the payload's files are not those of its SHA256SUMS"
		mv "$work/tree" "$prefix/versions/$hex"
	fi
	keep_installer
	switch "$hex"
	record_state
	link_commands
	tidy
	say "installed: $channel (generation $generation, commit $commit) below $prefix/current"
	say "digests verified along the whole chain; signature NOT verified: run mage verify:channel $channel"
	case :$PATH: in *:"$bin":*) ;; *) say "add $bin to PATH" ;; esac
}

rollback() {
	[ -e "$prefix/previous/" ] || die 40 "no previous version in $prefix"
	lock
	old=$(target current) new=$(target previous)
	[ "$old" != "$new" ] || die 40 "the previous version is the current one"
	intact "$prefix/versions/$new" || die 32 "the previous version's files were changed; install again"
	switch "$new"
	say "rolled back to sha256:$new; the next update goes forward again"
}

status() {
	[ -e "$prefix/current/" ] || die 31 "nothing is installed in $prefix"
	echo "channel     $(recorded channel) of $(recorded registry), generation $(recorded generation)"
	echo "commit      $(sed -n 's/^CONTAINAI_COMMIT=//p' "$prefix/current/profile.env")"
	echo "payload     sha256:$(target current)"
	[ ! -e "$prefix/previous/" ] || echo "previous    sha256:$(target previous)"
	intact "$prefix/current" || die 32 "installed files were changed: install again"
	echo "files       as in SHA256SUMS"
}

uninstall() {
	[ -e "$prefix/.containai" ] || die 31 "nothing is installed in $prefix"
	lock
	for link in "$bin"/containai*; do
		case $(readlink "$link" || true) in "$prefix/current/bin/"*) rm "$link" ;; esac
	done
	rm -rf "$prefix/versions" "$prefix/current" "$prefix/previous" "$prefix/state" "$prefix/install.sh" "$prefix/.containai"
	say "removed from $prefix; settings and sessions of agents are kept elsewhere and stay"
}

# --- from a channel's name to files -------------------------------------------------------------

# read_channel sets payload, installer (digests), commit and generation from the channels document.
read_channel() {
	fetch "$family-metadata" manifests/channels "$work/document.manifest" $limit_manifest
	layer_of "$work/document.manifest" application/vnd.containai.metadata.v1+json application/json
	fetch_digest "$family-metadata" "blobs/$layer" "$layer" "$work/document" $limit_manifest
	json "$work/document" >"$work/document.flat" || die 32 "the channels document is not valid JSON"

	[ "$(field document /schema)" = 1 ] || die 32 "a channels document of another schema; get a newer install.sh"
	[ "$(field document /family)" = "$family" ] || die 32 "the channels document is another family's"
	generation=$(field document /generation)
	matches "$generation" '[1-9][0-9]{0,17}' || die 32 "the channels document has no generation"
	fresh "$(field document /expires)"
	seen=0
	[ "$registry" != "$(recorded registry)" ] || seen=$(recorded generation)
	[ "$generation" -ge "${seen:-0}" ] || [ $older = yes ] ||
		die 40 "the registry serves generation $generation, but $seen was seen before: updates may be withheld (--allow-older accepts it)"
	payload=$(field document "/channels/$channel/members/$family-payload")
	[ -n "$payload" ] || die 40 "channel $channel serves nothing; there are: $(channels)"
	installer=$(field document "/channels/$channel/members/$family-installer")
	commit=$(field document "/channels/$channel/commit")
	is_digest "$payload" || die 32 "channel $channel names a payload without a digest"
	is_digest "$installer" || die 32 "channel $channel names an installer without a digest"
	matches "$commit" '[0-9a-f]{40}' || die 32 "channel $channel names no commit"
	hold=$(field document "/channels/$channel/hold")
	[ -z "$hold" ] || say "note: channel $channel is on hold: $hold"
}

channels() {
	sed -n 's|^/channels/\([^/]*\)/commit	.*|\1|p' "$work/document.flat" | tr '\n' ' '
}

# fresh refuses a document after its expiry, so that nobody can serve an old one forever.
fresh() {
	matches "$1" '[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z' || die 32 "the channels document has no expiry"
	[ "$(echo "$1" | tr -cd 0-9)" -gt "$(date -u +%Y%m%d%H%M%S)" ] ||
		die 32 "the channels document expired at $1: the registry serves an old one, or this clock is wrong"
}

# fetch_layer MEMBER MANIFEST-DIGEST FILE ARTIFACT-TYPE LAYER-TYPE
fetch_layer() {
	fetch_digest "$1" "manifests/$2" "$2" "$work/manifest" $limit_manifest
	layer_of "$work/manifest" "$4" "$5"
	fetch_digest "$1" "blobs/$layer" "$layer" "$3" $limit_archive
}

# layer_of MANIFEST ARTIFACT-TYPE LAYER-TYPE sets layer, the digest of the manifest's only layer.
layer_of() {
	json "$1" >"$1.flat" || die 32 "a manifest is not valid JSON"
	name=${1##*/}
	[ "$(field "$name" /artifactType)" = "$2" ] || die 32 "a manifest is not of type $2"
	[ "$(field "$name" /layers/0/mediaType)" = "$3" ] || die 32 "a layer is not of type $3"
	[ -z "$(field "$name" /layers/1/digest)" ] || die 32 "a manifest has more than one layer"
	layer=$(field "$name" /layers/0/digest)
	is_digest "$layer" || die 32 "a manifest names no layer"
}

# unpack ARCHIVE DIR refuses everything but plain files and directories below DIR.
unpack() {
	(ulimit -f $((limit_files * 2)) && gzip -dc <"$1" >"$work/tar") || die 32 "the payload is damaged, or larger than $limit_files KiB"
	tar -tf "$work/tar" >"$work/names" || die 32 "the payload is not a tar archive"
	tar -tvf "$work/tar" >"$work/long" || die 32 "the payload is not a tar archive"
	if grep -q -v '^[A-Za-z0-9._@+/-]*$' "$work/names" || grep -q -E '^/|^-|(^|/)\.\.(/|$)' "$work/names"; then
		die 32 "the payload has a member with an unsafe name"
	fi
	if grep -q -v '^[-d]' "$work/long" || [ "$(wc -l <"$work/names")" -ne "$(wc -l <"$work/long")" ]; then
		die 32 "the payload has members that are neither files nor directories"
	fi
	mkdir "$2"
	tar -xof "$work/tar" -C "$2" || die 11 "cannot unpack the payload"
	rm "$work/tar"
	[ -z "$(find "$2" ! -type f ! -type d)" ] || die 32 "the payload has members that are neither files nor directories"
	chmod -R u+rwX,go+rX,go-w,-s "$2"
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

# --- the directory ------------------------------------------------------------------------------

# keep_installer stores this script as the channel serves it, for containai-update.
keep_installer() {
	fetch_layer "$family-installer" "$installer" "$work/install.sh" \
		application/vnd.containai.installer.v1 application/vnd.containai.installer.v1+sh
	chmod 755 "$work/install.sh"
	mv -f "$work/install.sh" "$prefix/install.sh"
}

# switch HEX makes a version current and the one it replaces previous. Each link is replaced by
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
	mv -fT "$prefix/.new.$2" "$prefix/$2" 2>/dev/null || mv -fh "$prefix/.new.$2" "$prefix/$2"
}

target() {
	link=$(readlink "$prefix/$1" 2>/dev/null || true)
	echo "${link#versions/}"
}

record_state() {
	printf '%s\n' "registry=$registry" "channel=$channel" "family=$family" "generation=$generation" "bin=$bin" >"$prefix/.state"
	mv -f "$prefix/.state" "$prefix/state"
}

# recorded KEY prints what the last installation noted.
recorded() {
	[ ! -f "$prefix/state" ] || sed -n "s|^$1=||p" "$prefix/state"
}

# link_commands links every command of the payload through `current`, so that links never change.
link_commands() {
	mkdir -p "$bin"
	for command in "$prefix/current/bin/"*; do
		link=$bin/${command##*/}
		leads=$(readlink "$link" || true)
		if [ -e "$link" ] && [ "$leads" != "$command" ]; then
			say "note: $link is yours and stays; run $command"
			continue
		fi
		rm -f "$link"
		ln -s "$command" "$link"
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

# lock admits one installer at a time. It is a link to a process number, made by one call; the
# lock of a process that is gone does not count.
lock() {
	until ln -s $$ "$prefix/.lock" 2>/dev/null; do
		holder=$(readlink "$prefix/.lock" || true)
		[ -n "$holder" ] || die 11 "cannot write in $prefix"
		! kill -0 "$holder" 2>/dev/null || die 40 "another installer (process $holder) is at work"
		mv "$prefix/.lock" "$prefix/.stale.$$" 2>/dev/null || true
		rm -rf "$prefix/.stale.$$" "$prefix/.work."*
	done
	trap unlock EXIT
	trap 'exit 130' INT TERM HUP
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

# fetch_digest REPOSITORY PATH DIGEST FILE KIB
fetch_digest() {
	fetch "$1" "$2" "$4" "$5"
	got=sha256:$(sha256sum <"$4" | cut -d ' ' -f 1)
	[ "$got" = "$3" ] || die 32 "$1/$2 has the digest $got"
}

# fetch REPOSITORY PATH FILE KIB, with an anonymous token if the registry asks for one.
fetch() {
	auth=$work/auth.$1
	[ -f "$auth" ] || : >"$auth"
	code=$(request "$1" "$2" "$3" "$4" "$auth")
	if [ "$code" = 401 ] && [ ! -s "$auth" ]; then
		authorize "$1" "$auth"
		code=$(request "$1" "$2" "$3" "$4" "$auth")
	fi
	case $code in
	200) ;;
	401 | 403) die 11 "$registry/$1 is not public (HTTP $code)" ;;
	404) die 31 "$registry/$1 has no $2" ;;
	*) die 50 "$scheme://$host answered $code for $1/$2; running this again is safe" ;;
	esac
}

request() {
	(
		ulimit -f $(($4 * 2))
		curl --silent --show-error --location --max-redirs 3 --proto "=$scheme" --proto-redir "=$scheme" --connect-timeout 20 --max-time 600 \
			--retry 3 --max-filesize $(($4 * 1024)) --header "@$5" \
			--header 'Accept: application/vnd.oci.image.manifest.v1+json' \
			--dump-header "$work/headers" --output "$3" --write-out '%{http_code}' "$scheme://$host/v2/$owner/$1/$2"
	) || die 50 "cannot fetch $1/$2 from $scheme://$host, or it has more than $4 KiB; running this again is safe"
}

# authorize REPOSITORY FILE follows the registry's challenge; there is no password to send.
authorize() {
	challenge=$(tr -d '\r' <"$work/headers" | sed -n 's/^[Ww][Ww][Ww]-[Aa]uthenticate: *[Bb]earer //p' | tail -n 1)
	realm=$(echo "$challenge" | sed -n 's/.*realm="\([^"]*\)".*/\1/p')
	service=$(echo "$challenge" | sed -n 's/.*service="\([^"]*\)".*/\1/p')
	matches "$realm" "$scheme"'://[A-Za-z0-9.:/_-]+' || die 11 "$host asks for a login this script does not know"
	(
		ulimit -f $((limit_manifest * 2))
		curl --silent --show-error --fail --get --proto "=$scheme" --connect-timeout 20 --max-time 60 --retry 3 \
			--data-urlencode "service=$service" --data-urlencode "scope=repository:$owner/$1:pull" \
			--output "$work/token" "$realm"
	) || die 11 "$registry/$1 is not public: no anonymous token"
	json "$work/token" >"$work/token.flat" || die 50 "$realm answered with something else than a token"
	token=$(field token /token)
	: "${token:=$(field token /access_token)}"
	matches "$token" '[A-Za-z0-9._~+/=-]+' || die 50 "$realm answered without a token"
	echo "Authorization: Bearer $token" >"$2"
}

# --- JSON ---------------------------------------------------------------------------------------

# json FILE prints a document as lines of JSON pointer, tab, value. It refuses what is not JSON,
# duplicate keys, keys with escapes, control characters, more than 32 levels. Strings stay escaped.
json() {
	[ "$(tr -d '\11\12\15\40-\176\200-\377' <"$1" | wc -c)" -eq 0 ] || return 1
	awk '
	{ text = text $0 "\n" }
	END { value("", 0); space(); if (text != "") fail() }

	function fail() { exit 1 }
	function space() { sub(/^[ \t\r\n]+/, "", text) }
	function next_is(c) { space(); return substr(text, 1, 1) == c }
	function take(c) { if (!next_is(c)) fail(); text = substr(text, 2) }
	function string(  s) {
		space()
		if (!match(text, /^"([^"\\\t\r\n]|\\["\\\/bfnrtu])*"/)) fail()
		s = substr(text, 2, RLENGTH - 2)
		text = substr(text, RLENGTH + 1)
		return s
	}
	function value(path, depth,  key, n) {
		if (depth > 32) fail()
		if (next_is("{")) {
			take("{")
			if (!next_is("}")) do {
				if (n++) take(",")
				key = string()
				if (key ~ /\\/) fail()
				gsub(/~/, "~0", key)
				gsub(/\//, "~1", key)
				key = path "/" key
				if (key in seen) fail()
				seen[key] = 1
				take(":")
				value(key, depth + 1)
			} while (next_is(","))
			take("}")
		} else if (next_is("[")) {
			take("[")
			n = 0
			if (!next_is("]")) do {
				if (n) take(",")
				value(path "/" n++, depth + 1)
			} while (next_is(","))
			take("]")
		} else if (next_is("\"")) {
			print path "\t" string()
		} else if (match(text, /^(-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null)/)) {
			print path "\t" substr(text, 1, RLENGTH)
			text = substr(text, RLENGTH + 1)
		} else fail()
	}' "$1"
}

# field NAME POINTER prints a value of $work/NAME.flat, or nothing.
field() {
	awk -F '\t' -v pointer="$2" '$1 == pointer { print $2 }' "$work/$1.flat"
}

# --- small things -------------------------------------------------------------------------------

is_digest() { matches "$1" 'sha256:[0-9a-f]{64}'; }

# matches TEXT PATTERN: the whole of a one-line text matches an extended regular expression.
matches() {
	case $1 in *'
'*) return 1 ;; esac
	printf '%s\n' "$1" | grep -E -x -q -e "$2"
}

say() { printf '%s\n' "containai: $*" | tr -cd '\12\40-\176\200-\377' >&2; }

# die STATUS MESSAGE: the statuses are those of docs/exit-codes.md.
die() {
	status=$1
	shift
	say "$*"
	exit "$status"
}

main "$@"
