#!/usr/bin/env bash
# Builds images of the project: k8s/images/build.sh nuclei-serving nuclei-triton; all of them without a name.
#
# With podman or docker. Where the base cannot be pulled, podman gets it from Debian's mirrors by debootstrap,
# which needs root. What this machine's pip is told (a mirror, authorities) holds while pip runs in the build,
# and does not come into the images.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
images=("$@")
[ $# -gt 0 ] || for file in k8s/images/*/Dockerfile; do images+=("$(basename "$(dirname "$file")")"); done

if ! command -v podman >/dev/null; then
    command -v docker >/dev/null || { echo "Building images needs podman or docker: apt install podman buildah runc" >&2; exit 8; }
    for image in "${images[@]}"; do
        docker build -f "k8s/images/$image/Dockerfile" -t "$image:$version" .
    done
    exit
fi
export CONTAINERS_CONF=$PWD/k8s/images/containers.conf

# What podman leaves when a build fails is large, and goes with the rest.
scratch=$(mktemp -d -p /var/tmp)
trap 'rm -rf --one-file-system "$scratch"' EXIT
export TMPDIR=$scratch

base=docker.io/library/debian:bookworm-slim
if ! podman image exists "$base" && ! timeout 60 podman pull -q "$base" 2>/dev/null; then
    echo "$base cannot be pulled: making it by debootstrap (two minutes)"
    debootstrap --variant=minbase bookworm "$scratch/root" >"$scratch/log" || { tail -20 "$scratch/log" >&2; exit 1; }
    tar -C "$scratch/root" -c . | podman import -q - "$base"
fi

authorities=/etc/ssl/certs/ca-certificates.crt
{
    echo "[global]"
    # Not in its own place: installing ca-certificates in the image writes there.
    [ ! -e $authorities ] || echo "cert = /run/authorities.crt"
    index=${PIP_INDEX_URL:-$(python3.11 -m pip config get global.index-url 2>/dev/null || true)}
    [ -z "$index" ] || echo "index-url = $index"
} > "$scratch/pip.conf"
mounts=(-v "$scratch/pip.conf:/etc/pip.conf:ro")
[ ! -e $authorities ] || mounts+=(-v "$authorities:/run/authorities.crt:ro")

for image in "${images[@]}"; do
    podman build --isolation chroot --network host --pull-never "${mounts[@]}" \
        -f "k8s/images/$image/Dockerfile" -t "$image:$version" .
done
