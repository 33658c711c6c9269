# shellcheck shell=sh
# Sourced by the scripts beside it, after `set -eu`: finds Python, git and tmux, and keeps the checkout's .venv
# installed. POSIX sh. Writes nothing outside the checkout, but for packages that the system lacks and that need no
# password.

unset CDPATH
root=$(cd -- "$(dirname -- "$0")/.." && pwd -P)
# shellcheck disable=SC2034 # used by the scripts that source this file
venv=$root/.venv

# PYTHONHOME and PYTHONPATH would lead .venv's Python to another one's modules.
unset PYTHONHOME PYTHONPATH

say() { printf '%s\n' "$*" >&2; }

# die CAUSE HINT…: each hint is a line that can be pasted, or says what to do.
die() {
    say "${0##*/}: $1"
    shift
    for hint in "$@"; do say "    $hint"; done
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# ------------------------------------------------------------------------------------------ the system's own packages

# The command that installs the named packages here, without sudo; nothing if no package manager is known.
install_command() {
    if has apt-get; then
        echo "apt-get install -y $*"
    elif has dnf; then
        echo "dnf install -y $*"
    elif has yum; then
        echo "yum install -y $*"
    elif has apk; then
        echo "apk add $*"
    elif has pacman; then
        echo "pacman -Sy --noconfirm $*"
    elif has zypper; then
        echo "zypper --non-interactive install $*"
    elif has brew; then
        echo "brew install $*"
    fi
}

# The same as a person would type it.
what_to_type() {
    command=$(install_command "$@")
    case $command in
    "") echo "install with your system's package manager: $*" ;;
    brew*) echo "$command" ;;
    *) if [ "$(id -u)" = 0 ]; then echo "$command"; else echo "sudo $command"; fi ;;
    esac
}

# install_packages NAME…: fails, having done nothing, where a password would be needed.
install_packages() {
    command=$(install_command "$@")
    case $command in
    "") return 1 ;;
    brew*) as_root= ;;
    *)
        if [ "$(id -u)" = 0 ]; then
            as_root=
        elif has sudo && sudo -n true 2>/dev/null; then
            as_root="sudo -n"
        else
            return 1
        fi
        ;;
    esac
    say "installing $*: ${as_root:+$as_root }$command"
    # shellcheck disable=SC2086 # both are lists of words made above, without quotes or patterns
    {
        case $command in
        apt-get*)
            $as_root apt-get -qq update </dev/null >&2 || true # an older list may do
            $as_root env DEBIAN_FRONTEND=noninteractive $command </dev/null >&2
            ;;
        *) $as_root $command </dev/null >&2 ;;
        esac
    }
}

# -------------------------------------------------------------------------------------------------------- git and tmux

# need_tools: git and tmux, in a version that will do; installs what is missing.
need_tools() {
    missing=
    for tool in git tmux; do has $tool || missing="$missing $tool"; done
    if [ -n "$missing" ]; then
        # shellcheck disable=SC2086 # a list of words
        install_packages $missing || die "not found:$missing" "$(what_to_type $missing)"
    fi
    need_version git 2 39 --version
    need_version tmux 3 2 -V
}

# need_version PROGRAM MAJOR MINOR OPTION: a version without a number ("tmux master") is taken as new.
need_version() {
    answer=$("$1" "$4" 2>&1) || die "'$1 $4' fails: $answer" "$(what_to_type "$1")"
    numbers=$(printf '%s\n' "$answer" | sed -n '1s/[^0-9]*\([0-9][0-9]*\)\.\([0-9][0-9]*\).*/\1 \2/p')
    major=${numbers% *}
    minor=${numbers#* }
    if [ -n "$numbers" ] && { [ "$major" -lt "$2" ] || { [ "$major" -eq "$2" ] && [ "$minor" -lt "$3" ]; }; }; then
        die "$answer is too old: dispatchctl needs $1 $2.$3 or newer" \
            "$(what_to_type "$1")" "if that brings no newer one, put $1 $2.$3 or newer first in PATH by other means"
    fi
}

# -------------------------------------------------------------------------------------------------------------- Python

new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

# Sets `python`. A name in PATH is not enough: version managers put names there that start nothing.
find_python() {
    for python in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11 python3; do
        if "$python" -c "$new_enough" >/dev/null 2>&1; then return; fi
    done
    found=$(python3 -c 'import platform; print(platform.python_version())' 2>/dev/null) || found=none
    case $(install_command) in
    apt-get*) packages="python3.11 python3.11-venv" ;;
    dnf* | yum*) packages=python3.11 ;;
    pacman*) packages=python ;;
    zypper*) packages=python311 ;;
    brew*) packages=python@3.13 ;;
    *) packages=python3 ;;
    esac
    # shellcheck disable=SC2086 # a list of words
    die "Python 3.11 or newer was not found (python3: $found)" "$(what_to_type $packages)" \
        "or, with one that is not in PATH: PYTHON=/path/to/python3 $0"
}

# venv and ensurepip belong to Python, but Debian and its children ship them apart.
need_venv_module() {
    if "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then return; fi
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if has apt-get; then
        if install_packages "$package" && "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then return; fi
        die "$python cannot make virtual environments" "$(what_to_type "$package")"
    fi
    die "$python cannot make virtual environments: its modules venv and ensurepip are missing" \
        "install them, or name a complete Python: PYTHON=/path/to/python3 $0"
}

# A .venv that was copied or moved here runs the programs of the place it came from: pip's first lines tell.
venv_is_valid() {
    "$venv/bin/python" -c "$new_enough" >/dev/null 2>&1 && grep -qF -- "$venv/bin/" "$venv/bin/pip" 2>/dev/null
}

need_venv() {
    if venv_is_valid; then return; fi
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ]; then
        die "$venv is there but is no virtual environment" "mv '$venv' '$venv.old'"
    fi
    find_python
    need_venv_module
    if [ -e "$venv" ]; then say "making .venv anew: the one there is incomplete, too old, or from another place"; fi
    "$python" -m venv --clear "$venv" || die "'$python -m venv' failed" "rm -r '$venv'"
}

# --------------------------------------------------------------------------------------------------------- the project

# What an installation of the given kind depends on, as one line. A copy goes stale with any source file, an editable
# one only with the metadata.
fingerprint() (
    cd "$root" || exit
    case $1 in
    run) set -- "$1" src ;;
    *) set -- "$1" src/dispatchctl/__init__.py ;;
    esac
    find pyproject.toml "$2" -type f ! -name '*.pyc' -exec cksum {} + | LC_ALL=C sort | cksum | sed "s|^|$1 |"
)

# need_project KIND: `run` installs a copy, as any user would get it; `test` and `dev` install editable, with that
# extra. Never a step back: an environment that has more than was asked for keeps it. Does nothing if nothing changed.
need_project() {
    need_venv
    stamp=$venv/dispatchctl-installed
    installed=
    if [ -r "$stamp" ]; then read -r installed <"$stamp" || true; fi
    case $1,$installed in
    run,test\ * | run,dev\ * | test,dev\ *) kind=${installed%% *} ;;
    *) kind=$1 ;;
    esac
    current=$(fingerprint "$kind")
    if [ "$installed" = "$current" ] && [ -x "$venv/bin/dispatchctl" ]; then return; fi
    say "installing dispatchctl and what it needs into .venv"
    rm -f "$stamp"
    case $kind in
    run) set -- "$root" ;;
    *) set -- --editable "${root}[$kind]" ;;
    esac
    # By variables, so that the pip which pip starts to build obeys too. No cache and no check for a newer pip: both
    # write outside the checkout. PIP_USER: a setting for elsewhere, which would fail here.
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0 \
        "$venv/bin/python" -m pip install -qq --compile "$@" >&2 ||
        die "pip could not install dispatchctl; its own words stand above" "try again: $0"
    printf '%s\n' "$current" >"$stamp"
}
