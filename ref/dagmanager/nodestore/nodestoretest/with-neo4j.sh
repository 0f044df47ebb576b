#!/usr/bin/env bash
# Runs a command with PLUMBLINE_TEST_NEO4J naming a Neo4j that lives as long as
# the command does. Where the variable is set already, Docker does not answer or
# its image is missing (make images), the command just runs, and the tests that
# need the server say that they were skipped.
set -euo pipefail
. "$(dirname "$0")/../../../../harness/backend/containers/images/versions.env"
image=${PLUMBLINE_IMAGE_NEO4J:-plumbline/neo4j:$NEO4J_VERSION}

if [ -n "${PLUMBLINE_TEST_NEO4J:-}" ] || ! docker image inspect "$image" >/dev/null 2>&1; then
  exec "$@"
fi
id=$(docker run -d --rm --memory 1g -e NEO4J_HEAP=512m -p 127.0.0.1::7687 "$image")
trap 'docker rm -f "$id" >/dev/null' EXIT
for _ in $(seq 900); do
  docker logs "$id" 2>&1 | grep -q 'Started\.' && break
  [ -n "$(docker ps -q --no-trunc --filter "id=$id")" ] || { echo "with-neo4j: $image ended at once" >&2; exit 1; }
  sleep 0.1
done
port=$(docker port "$id" 7687/tcp | head -n 1)
PLUMBLINE_TEST_NEO4J=bolt://$port "$@"
