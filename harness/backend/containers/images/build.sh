#!/bin/bash
# Builds plumbline/redis, plumbline/kafka and plumbline/neo4j on this machine,
# out of Debian packages and Maven artifacts: no registry of images is asked.
# An image that was built by the same recipe already is kept.
#
#   build.sh            build what is missing
#   build.sh --force    build all
#   build.sh --names    print the names of the images
#
# Needs: a Docker daemon, apt-get and dpkg-deb, mvn, and a JDK with jlink.
set -euo pipefail
recipe=$(cd "$(dirname "$0")" && pwd)
. "$recipe/versions.env"
redis=plumbline/redis:$REDIS_VERSION
kafka=plumbline/kafka:$KAFKA_VERSION
neo4j=plumbline/neo4j:$NEO4J_VERSION
if [ "${1:-}" = --names ]; then printf '%s\n' "$redis" "$kafka" "$neo4j"; exit; fi

die() { echo "images: $*" >&2; exit 3; }
for tool in docker apt-get dpkg-deb mvn jlink; do
  command -v "$tool" >/dev/null || die "$tool is missing; install docker.io, maven and openjdk-$JAVA_VERSION-jdk-headless"
done
docker version >/dev/null 2>&1 || die "Docker does not answer; start its daemon, or ask for leave to use it"
# The old builder needs nothing from a registry; newer clients have only buildx.
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0

hash=$(cd "$recipe" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
built() { [ "$(docker image inspect -f '{{index .Config.Labels "plumbline.recipe"}}' "$1" 2>/dev/null)" = "$hash" ]; }
if [ "${1:-}" != --force ] && built "$redis" && built "$kafka" && built "$neo4j"; then
  echo "images: up to date (recipe $hash)"
  exit
fi

work=$(mktemp -d)
finish() {
  local running
  running=$(jobs -p)
  [ -z "$running" ] || kill $running 2>/dev/null || true
  wait
  chmod -R u+w "$work"
  rm -rf "$work"
}
trap finish EXIT
mkdir "$work/debs" "$work/log"
begun=$SECONDS
say() { echo "images: $((SECONDS - begun)) s: $*"; }
# Runs one step with its output kept, and shows that when it fails. The step
# runs apart, for within "if" or "||" the shell would not stop at its errors.
step() {
  local name=$1; shift
  ("$@") >"$work/log/$name" 2>&1 &
  wait $! || {
    tail -n 40 "$work/log/$name" >&2
    die "step $name failed; its output is above"
  }
  say "$name"
}
image() { # name of the image, directory
  docker build -q --label "plumbline.recipe=$hash" -t "$1" "$2"
}

artifacts() { # of one server, into its lib
  mvn -B -ntp -f "$work/$1/pom.xml" -Dserver.version="$2" \
    "org.apache.maven.plugins:maven-dependency-plugin:$DEPENDENCY_PLUGIN_VERSION:copy-dependencies" \
    -DincludeScope=runtime -DoutputDirectory="$work/$1/lib"
}

# The packages that Redis needs are its libraries and what those need; the rest
# of its closure manages users and services, which an image does not have.
packages() {
  apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
    redis-server redis-tools | grep -E '^(lib|lua|redis|zlib1g)' | grep -v perl | LC_ALL=C sort -u
}
download() {
  cd "$work/debs"
  apt-get download -q busybox-static libstdc++6 $(packages)
  dpkg-deb -f redis-server_*.deb Version | grep -q -F "$REDIS_VERSION" || {
    echo "this Debian has redis-server $(dpkg-deb -f redis-server_*.deb Version), want $REDIS_VERSION: change versions.env"
    return 1
  }
}
unpack() { # package, directory
  dpkg-deb --fsys-tarfile "$work"/debs/"$1"_*.deb | tar -x -C "$2" --keep-directory-symlink
}
merged() { # a root whose lib and bin are in usr, as the packages expect
  mkdir -p "$1"/usr/{bin,lib,lib64,sbin}
  for d in bin lib lib64 sbin; do ln -s "usr/$d" "$1/$d"; done
}
base() {
  local root=$work/base/rootfs
  merged "$root"
  for p in libc6 libgcc-s1 libstdc++6 zlib1g busybox-static; do unpack "$p" "$root"; done
  rm -rf "$root"/usr/share/{doc,man,lintian,locale,gdb}
  mkdir -p "$root"/{tmp,run,proc,sys,dev,etc,root,var}
  chmod 1777 "$root/tmp"
  for tool in sh cat ls mkdir sleep grep kill cp mv rm ps ln env tail head nc id stat df; do
    ln -sf busybox "$root/usr/bin/$tool"
  done
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"
  echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
  ldconfig -r "$root"
  image plumbline/base:build "$work/base"
}
redis() {
  local all=$work/redis/all root=$work/redis/rootfs
  merged "$all"
  for p in $(packages); do unpack "$p" "$all"; done
  mkdir -p "$root"/usr/{bin,lib} "$root/data"
  cp -a "$all"/usr/bin/redis-* "$root/usr/bin/"
  cp -a "$all"/usr/lib/*-linux-gnu "$root/usr/lib/"
  rm -rf "$all"
  image "$redis" "$work/redis"
}
java() {
  jlink --add-modules java.se,jdk.unsupported,jdk.zipfs,jdk.management,jdk.crypto.ec,jdk.net,jdk.jfr,jdk.charsets,jdk.localedata \
    --include-locales=en --strip-debug --no-header-files --no-man-pages --output "$work/java/jre"
  "$work/java/jre/bin/java" -version 2>&1 | grep -q "version \"$JAVA_VERSION\." || {
    echo "jlink is of another Java than $JAVA_VERSION: put that of openjdk-$JAVA_VERSION-jdk-headless first on the PATH"
    return 1
  }
  image plumbline/java:build "$work/java"
}

for d in base java redis kafka neo4j; do cp -r "$recipe/$d" "$work/$d"; done
step kafka-artifacts artifacts kafka "$KAFKA_VERSION" &
k=$!
step packages download
step base base
step redis redis
step java java
wait $k || exit 3
step kafka image "$kafka" "$work/kafka" &
k=$!
step neo4j-artifacts artifacts neo4j "$NEO4J_VERSION"
step neo4j image "$neo4j" "$work/neo4j"
wait $k || exit 3
docker image prune -f --filter label=plumbline.recipe >"$work/log/prune" 2>&1 || true # old ones only cost space
say "built $redis $kafka $neo4j (recipe $hash)"
