#!/usr/bin/env bash
# Installs what building and testing ctrain needs on Debian 12. Asks the network only when something
# is missing, so it is cheap to call before every build.
set -u

packages=(
  g++ clang libomp-dev cmake ninja-build ccache clang-format  # compilers and build
  libdnnl-dev libeigen3-dev libboost-dev                      # backend
  libfmt-dev libcli11-dev nlohmann-json3-dev libprotobuf-dev  # trainer and io
  libzip-dev zlib1g-dev libutf8proc-dev
  libopenmpi-dev openmpi-bin                                  # ranks as processes
  catch2 libboost-context-dev python3                         # tests and checks
)

die() {
  echo "install_packages.sh: $1" >&2
  exit 1
}

command -v dpkg-query >/dev/null ||
  die "this is no Debian system. Install by its own means: ${packages[*]}"

missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
    missing+=("$package")
done
((${#missing[@]})) || exit 0

as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || die "not root and no sudo. As root: apt-get install ${missing[*]}"
  as_root=(sudo)
fi

apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@"; }

echo "installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ apt update && apt install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || {
  cat "$log" >&2
  die "apt-get could not install ${missing[*]}. Mend the package sources or the network, then run this again"
}
