#!/bin/sh
# Install the packages of requirements.lock into a virtual environment: sh workflow/install.sh VENV [default|cpu] [uv|pip]
#
# Every file is checked against the hashes in requirements.lock, which are those of PyPI; nothing is resolved. uv
# installs in a fraction of pip's time. It does not read pip's configuration, so the indexes and folders of wheels
# configured there are handed to it. Where uv cannot be installed, or fails, pip installs the same files.
#
# cpu: torch and torchvision come from torch's own index of CPU builds, whose files have other hashes: only their
# versions are those of the lock. Their CUDA libraries (5.6 GB) are left out.
set -eu
venv=$1 torch=${2:-default} installer=${3:-uv}
lock=$venv/requirements.lock
python=$venv/bin/python

# Print the requirements of the lock file whose names match a pattern, or with `-v` those that do not.
locked() {
    awk -v pattern="^($2)==" -v wanted="$([ "$1" = -v ] && echo 0 || echo 1)" \
        '/^[a-zA-Z0-9]/ {printed = (($0 ~ pattern) == wanted)} printed' requirements.lock
}

# Print what pip is configured to use: a variable PIP_..., or an entry of its files.
configured() {
    "$python" -m pip config list | sed -n "s/^[^=]*\.$1='\(.*\)'$/\1/p" | head -n 1 | sed 's/\\n/ /g'
}

with_uv() {
    [ "$installer" = uv ] || return 1
    locked -f uv > "$venv/uv.lock"
    "$python" -m pip install -q --require-hashes --no-deps -r "$venv/uv.lock" || return 1
    default=$(configured index-url) more=$(configured extra-index-url) folders=$(configured find-links)
    certificates=$(configured cert)
    case $(configured no-index) in 1 | [Tt]rue | [Yy]es | [Oo]n) set -- --no-index "$@" ;; esac
    # Every file is known by its hash, so any index may provide it.
    env ${default:+UV_DEFAULT_INDEX="$default"} ${more:+UV_INDEX="$more"} ${certificates:+SSL_CERT_FILE="$certificates"} \
        ${folders:+UV_FIND_LINKS="$(echo "$folders" | tr -s ' ' ',')"} UV_INDEX_STRATEGY=unsafe-best-match \
        "$venv/bin/uv" pip install -q --python "$python" --no-deps "$@"
}

with_pip() {
    "$python" -m pip install -q --no-deps "$@"
}

install() {
    with_uv "$@" && return
    [ "$installer" = pip ] || echo "uv is not available or failed (see above); pip goes on, four times as slowly." >&2
    with_pip "$@"
}

if [ "$torch" = cpu ]; then
    locked -v 'torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+' > "$lock"
    with_pip --index-url https://download.pytorch.org/whl/cpu $(grep -oE '^(torch|torchvision)==[0-9.]+' requirements.lock)
else
    cp requirements.lock "$lock"
fi
install --require-hashes -r "$lock"
