#!/bin/bash
# As root, run a command as an ordinary user: a bare uid without account, groups or capabilities.
#
#     tools/as_user.sh UID WORK CHECKOUT VENV PREFIX COMMAND...
#
# The user must see the same paths as root, though the checkout or the interpreter (PREFIX) may lie below
# a directory closed to others, such as root's home. So in a mount namespace of its own, which ends with
# the command, WORK/checkout (the user's copy) takes CHECKOUT's place, VENV comes back inside it, and
# closed directories are covered by empty ones leading only to what is needed. Nothing is mounted below
# /proc or /sys: the kernel would then refuse the user's namespaces a /proc and a /sys of their own.
set -eu
umask 022

if [ "$1" != --mounted ] && unshare --mount --propagation private true 2>/dev/null; then
    exec unshare --mount --propagation private "$0" --mounted "$@"
fi
mounted=no
if [ "$1" = --mounted ]; then
    mounted=yes
    shift
fi
uid=$1 work=$2 checkout=$3 venv=$4 prefix=$5
shift 5

# The topmost directory above $1 which others may not enter.
closed_above() {
    local dir=$1 closed=
    while [ "$dir" != / ]; do
        dir=$(dirname "$dir")
        [ $((0$(stat -c %a "$dir") & 1)) = 1 ] || closed=$dir
    done
    echo "$closed"
}

# Make what is at $1 appear at $2.
show() {
    local closed
    mkdir -p "$2"
    closed=$(closed_above "$2")
    if [ -n "$closed" ]; then
        mount -t tmpfs -o mode=755 tmpfs "$closed"
        mkdir -p "$2"
    fi
    mount --bind "$1" "$2"
}

if [ $mounted = yes ]; then
    # First keep hold of what covering a directory may hide.
    mkdir "$work/venv" "$work/prefix"
    mount --bind "$venv" "$work/venv"
    mount --bind "$prefix" "$work/prefix"
    hidden=$(closed_above "$prefix")
    show "$work/checkout" "$checkout"
    show "$work/venv" "$venv"
    [ -z "$hidden" ] || show "$work/prefix" "$prefix"
else
    echo "$0: no mount namespace allowed: uid $uid uses the checkout and the interpreter in place" >&2
fi

user=(setpriv --reuid="$uid" --regid="$uid" --clear-groups
    --inh-caps=-all --ambient-caps=-all --bounding-set=-all --)
if ! "${user[@]}" sh -c 'cd "$1" && test -r pyproject.toml && "$2" -c ""' sh "$checkout" "$venv/bin/python"; then
    echo "$0: CANNOT RUN as uid $uid: it may not read $checkout, or execute $venv/bin/python ($prefix)" >&2
    exit 126
fi
cd "$checkout"
exec "${user[@]}" "$@"
