#!/usr/bin/env bash
# Copies this repository to all hosts and installs the locked versions there.
#
#   POD=run ZONE=us-west4-a launch/tpu/setup.sh [--dry-run]
#
# What git knows and what is new beside it is copied; what git ignores is not. Ends with
# an error if a host fails, or if hosts ended with different packages.
# shellcheck source=launch/tpu/pod.sh
source "$(dirname "$0")/pod.sh"

archive=$(mktemp -d)/cm3leon.tar.gz
trap 'rm -rf "$(dirname "$archive")"' EXIT
git -C "$ROOT" ls-files -z --cached --others --exclude-standard |
    tar --create --gzip --null --directory="$ROOT" --files-from=- --file="$archive"
said=''
for node in $(nodes); do
    cloud compute tpus tpu-vm scp "$archive" "$node:cm3leon.tar.gz" --zone="$ZONE" \
        --worker=all || fail 5 "$node: the repository could not be copied"
    said+=$(cloud compute tpus tpu-vm ssh "$node" --zone="$ZONE" --worker=all \
        --command="mkdir -p $FOLDER && tar -xzf cm3leon.tar.gz -C $FOLDER &&\
 BUCKET=${BUCKET:-} bash $FOLDER/launch/tpu/host.sh setup") ||
        fail 5 "$node: a host could not be set up (above); try again, or delete the pod"
    said+=$'\n'
done
if $DRY_RUN; then exit; fi
kinds=$(sed -n 's/^.*: ready with //p' <<<"$said" | sort -u)
[[ -n $kinds && $(wc -l <<<"$kinds") -eq 1 ]] ||
    fail 5 "hosts have different packages: $(tr '\n' ' ' <<<"$said")"
echo "all hosts ready with $kinds"
