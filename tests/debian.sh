# Sourced by tests/run, tests/mysql and tests/memcached: packages of other releases of Debian than this machine's, signed by Debian, to be unpacked beside the
# tests. Nothing is installed, nothing of the machine's own packages is asked or changed, and no root is needed.

debian_keys=/usr/share/keyrings/debian-archive-keyring.gpg

# Debian's address as this machine has it, or the public one.
debian_mirror() {
    local found
    found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep -m 1 '/debian/$' || true)
    echo "${found:-http://deb.debian.org/debian/}"
}

# Makes the directory $1 a place for apt-get "${debian_apt[@]}", and gets the lists of the releases behind it. Packages that are fetched lie in
# $1/archives, or where `apt-get download` is run. Says why if it cannot; to be called where that is looked at, so `set -e` does not help here.
debian_apt=()
debian_lists() {
    local apt=$1 release program mirror
    shift
    for program in apt-get dpkg-deb; do
        command -v "$program" >/dev/null || { echo "there is no $program" >&2 && return 1; }
    done
    [ -r "$debian_keys" ] || { echo "$debian_keys is missing (package debian-archive-keyring), so nothing could be verified" >&2 && return 1; }
    mirror=$(debian_mirror)
    mkdir -p "$apt"/{lists/partial,archives/partial} || return
    for release in "$@"; do
        echo "deb [signed-by=$debian_keys] $mirror $release main"
    done >"$apt/sources.list" || return
    # As if nothing were installed: all that a package needs comes with it.
    : >"$apt/status" || return
    debian_apt=(
        -q -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::Preferences=/dev/null
        -o Dir::Etc::PreferencesParts=/dev/null -o "Dir::State=$apt" -o "Dir::State::Status=$apt/status" -o "Dir::Cache=$apt"
        -o "Dir::Cache::Archives=$apt/archives" -o Debug::NoLocking=1 -o Acquire::Languages=none -o APT::Install-Recommends=0
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o APT::Update::Error-Mode=any -o APT::Update::Post-Invoke=
        -o DPkg::Post-Invoke= -o Acquire::Retries=3 -o "APT::Sandbox::User=$(id -un)" -o APT::Keep-Downloaded-Packages=1
        -o Binary::apt::APT::Keep-Downloaded-Packages=1
    )
    apt-get "${debian_apt[@]}" update >&2 || { echo "the lists of Debian's packages ($*) cannot be had from $mirror" >&2 && return 1; }
}

# unpack_unstable PLACE PACKAGE: the package and all it depends on (the C library, too) from the unstable release into PLACE/root, whatever
# was in PLACE. The caller's `cannot` says why not, and ends.
unpack_unstable() {
    local place=$1 package=$2 apt=$1/apt deb
    rm -rf "$place"
    mkdir -p "$place/root"
    debian_lists "$apt" unstable || cannot "no $package can be taken from Debian's unstable release"
    apt-get "${debian_apt[@]}" -y --download-only install "$package" >&2 || cannot "Debian's unstable $package cannot be had"
    for deb in "$apt"/archives/*.deb; do
        # Where the archive has /lib, a link to /usr/lib, some packages have a directory: both end up in one.
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$place/root" --keep-directory-symlink --no-same-owner
    done
    rm -rf "$apt"
}

# start_script PLACE PROGRAM [OPTION …]: PLACE/NAME, which starts PLACE/root/PROGRAM with its own libraries, whatever the machine has; the
# options stand behind those that it is started with.
start_script() {
    local place=$1 program=$2 script loader libraries option
    shift 2
    script=$place/$(basename "$program")
    loader=$(find "$place/root" -name 'ld-linux*.so.*' -print -quit)
    libraries=$(dirname "$(find "$place/root" -name libc.so.6 -print -quit)")
    [ -n "$loader" ] || cannot "what came from Debian has no C library"
    {
        printf '#!/bin/sh\nexec '
        printf "'%s' " "$loader" --library-path "$libraries" "$place/root/$program"
        printf '"$@"'
        for option in "$@"; do printf " \\\\\n    '%s'" "$option"; done
        printf '\n'
    } >"$script"
    chmod +x "$script"
}
