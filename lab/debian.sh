# shellcheck shell=bash disable=SC2016
# Debian releases in directories of the cache, for those who source this: made when missing, with
# this machine's mirror, proxy and trust, and entered with chroot.

lab_cache=${XDG_CACHE_HOME:-$HOME/.cache}/oom-lab

# What ExUnit says at its end; since Elixir 1.19 that begins with Result.
lab_closing='^([0-9]+ (doctests?|properties|property|tests?), .*failure|Result: )'

lab_fail() {
  echo "lab: $*" >&2
  exit 1
}

# lab_need COMMAND=PACKAGE...: installs the packages whose commands are not there.
lab_need() {
  local pair packages=()
  for pair in "$@"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
  done
  lab_install "${packages[@]}"
}

# lab_install PACKAGE...: installs these packages.
lab_install() {
  [ $# -gt 0 ] || return 0
  echo "lab: installing $*"
  local log=$lab_cache/apt.log
  mkdir -p "$lab_cache"
  # Lists that are too old name files that are gone.
  lab_apt install "$@" >"$log" 2>&1 ||
    { lab_apt update && lab_apt install "$@"; } >>"$log" 2>&1 ||
    { tail -n 20 "$log" >&2; lab_fail "apt-get install failed"; }
}

lab_apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends "$@"; }

# Where this machine gets Debian from.
lab_mirror() {
  local uri
  uri=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    sed -n 's/^Debian //p' | head -n 1)
  echo "${uri:-http://deb.debian.org/debian/}"
}

# What this machine knows of getting there: proxies and checks of apt, names, certificates.
lab_trust() {
  local tree=$1
  apt-config dump | grep '^Acquire::' >"$tree/etc/apt/apt.conf.d/99host" || true
  cp -L /etc/resolv.conf /etc/hosts "$tree/etc/"
  mkdir -p "$tree/etc/ssl/certs"
  if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
    cp -L /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/host.crt"
  fi
}

# lab_in TREE COMMAND...: runs it there, in lab_namespaces that end with it; with lab_env
# (NAME=VALUE...), and with lab_bind (HERE:THERE...) to be seen there.
lab_in() {
  local tree=$1 pass=(HOME=/root TERM=dumb LC_ALL=C.UTF-8 ELIXIR_ERL_OPTIONS=+fnu
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin) name
  shift
  for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!name:-}" ] || pass+=("$name=${!name}")
  done
  if [ -s "$tree/etc/ssl/certs/host.crt" ]; then
    pass+=(SSL_CERT_FILE=/etc/ssl/certs/host.crt CARGO_HTTP_CAINFO=/etc/ssl/certs/host.crt)
  fi
  unshare "${lab_namespaces[@]}" bash -c '
    set -e
    tree=$1; shift
    mount -t proc proc "$tree/proc"
    mount --rbind /dev "$tree/dev"
    while [ "$1" != -- ]; do
      mkdir -p "$tree/${1#*:}"
      mount --rbind "${1%%:*}" "$tree/${1#*:}"
      shift
    done
    shift
    exec chroot "$tree" "$@"' lab_in "$tree" "${lab_bind[@]}" -- /usr/bin/env -i "${pass[@]}" "${lab_env[@]}" "$@"
}
lab_env=() lab_bind=() lab_namespaces=(--mount --pid --fork --kill-child)

# lab_tree DIRECTORY RELEASE PACKAGES...: makes DIRECTORY/tree the release with these packages, and
# makes it again when others are asked for.
lab_tree() {
  local tree=$1/tree log=$1/tree.log release=$2
  shift 2
  local wanted="$release $*"
  if [ "$(cat "$tree.packages" 2>/dev/null)" != "$wanted" ]; then
    mkdir -p "$(dirname "$tree")"
    echo "lab: making $release (once; $log)"
    { rm -rf "$tree" "$tree.packages" && lab_make_tree "$release" "$tree" "$@"; } >"$log" 2>&1 </dev/null ||
      { tail -n 20 "$log" >&2; lab_fail "could not make $release"; }
    echo "$wanted" >"$tree.packages"
  fi
}

lab_make_tree() {
  local release=$1 tree=$2 name packages=()
  shift 2
  debootstrap --variant=minbase "$release" "$tree" "$(lab_mirror)" || return
  lab_trust "$tree"
  # Nobody reads them, and nothing is lost that cannot be made again.
  printf 'path-exclude=/usr/share/%s/*\n' doc man locale info >"$tree/etc/dpkg/dpkg.cfg.d/lab"
  echo force-unsafe-io >>"$tree/etc/dpkg/dpkg.cfg.d/lab"
  lab_in "$tree" apt-get -q update || return
  for name in "$@"; do
    # Where a release has the compiler twice, the newer one (see script/setup).
    case $name in
      cargo | rustc) ! lab_in "$tree" apt-cache policy "$name-web" | grep -q 'Candidate: [0-9]' || name=$name-web ;;
    esac
    packages+=("$name")
  done
  lab_in "$tree" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y --no-install-recommends install "${packages[@]}" || return
  lab_in "$tree" apt-get clean
}

# lab_checkout OWNER/NAME[@TAG] DIRECTORY: a checkout there, cloned from github.com where it is missing. A checkout that
# cannot be had is named.
lab_checkout() {
  local from=$1 to=$2 tag=()
  [ ! -d "$to" ] || return 0
  [[ $from != *@* ]] || tag=(--branch "${from#*@}")
  GIT_TERMINAL_PROMPT=0 timeout 60 git clone -q --depth 1 "${tag[@]}" "https://github.com/${from%@*}" "$to" 2>/dev/null ||
    { echo "lab: missing: ${to##*/} (a checkout of github.com/$from in $to)"; return 1; }
}

# lab_source TREE: a copy of the repository in /root/oom there; what the last run built stays.
lab_source() {
  local to=$1/root/oom
  mkdir -p "$to"
  find "$to" -mindepth 1 -maxdepth 1 ! -name _build ! -name target ! -name tmp -exec rm -rf {} +
  git ls-files -z --cached --others --exclude-standard |
    tar -c --null --ignore-failed-read --files-from - | tar -x -C "$to"
}
