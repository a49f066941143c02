# Programs of Debian's unstable release for tests, for `source`: unpacked beside the tests, signed by Debian, with all they need (the C
# library, too), and nothing installed. It needs a Debian with apt, of any release, and no root.

# Debian's address as this machine has it, or the public one.
mirror() {
    local found
    found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep -m 1 '/debian/$' || true)
    echo "${found:-http://deb.debian.org/debian/}"
}

# unpack_unstable PLACE PACKAGE: the package and what it depends on into PLACE/root, whatever was in PLACE. `cannot` says why not, and ends.
unpack_unstable() {
    local place=$1 package=$2 apt=$1/apt deb program
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg
    for program in apt-get dpkg; do
        command -v "$program" >/dev/null || cannot "there is no $program, so no $package can be taken from Debian"
    done
    [ -r "$keys" ] || cannot "$keys is missing (package debian-archive-keyring), so Debian's $package could not be verified"
    rm -rf "$place"
    mkdir -p "$apt"/{lists/partial,archives/partial} "$place/root"
    echo "deb [signed-by=$keys] $(mirror) unstable main" >"$apt/sources.list"
    # As if nothing were installed: all it needs comes with it, and nothing is asked of the machine's own packages.
    : >"$apt/status"
    local options=(
        -q -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::Preferences=/dev/null
        -o Dir::Etc::PreferencesParts=/dev/null -o "Dir::State=$apt" -o "Dir::State::Status=$apt/status" -o "Dir::Cache=$apt"
        -o "Dir::Cache::Archives=$apt/archives" -o Debug::NoLocking=1 -o Acquire::Languages=none -o APT::Install-Recommends=0
        -o APT::Update::Post-Invoke= -o DPkg::Post-Invoke= -o Acquire::Retries=3 -o "APT::Sandbox::User=$(id -un)"
        -o APT::Keep-Downloaded-Packages=1 -o Binary::apt::APT::Keep-Downloaded-Packages=1
    )
    apt-get "${options[@]}" update >&2 || cannot "the list of Debian's unstable packages cannot be had"
    apt-get "${options[@]}" -y --download-only install "$package" >&2 || cannot "Debian's unstable $package cannot be had"
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
