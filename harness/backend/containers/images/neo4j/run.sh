#!/bin/sh
# train: keep the classes of a short run.  serve: be a graph database.
set -eu
home=/opt/neo4j
opens=""
for package in java.nio java.io sun.nio.ch java.util.concurrent; do
  opens="$opens --add-opens=java.base/$package=ALL-UNNAMED"
done
java="java -XX:+UseSerialGC -Xms128m -Xmx${NEO4J_HEAP:-512m} -Djava.awt.headless=true -Dio.netty.tryReflectionSetAccessible=true -Dlog4j2.disable.jmx=true $opens"
# Without --console-mode nothing reaches the standard output.
main="org.neo4j.server.CommunityEntryPoint --home-dir=$home --config-dir=$home/conf --console-mode"
case "$1" in
train)
  $java -XX:ArchiveClassesAtExit=$home/app.jsa -cp "$home/lib/*" $main >/tmp/train.log 2>&1 &
  pid=$!
  tries=0
  until grep -q 'Started\.' /tmp/train.log; do
    tries=$((tries + 1))
    if [ $tries -ge 1200 ] || ! kill -0 $pid; then cat /tmp/train.log; exit 1; fi
    sleep 0.1
  done
  kill $pid
  wait $pid || true
  rm -rf /tmp/train.log $home/run/*
  ls -l $home/app.jsa
  ;;
serve)
  rm -f $home/run/* # what a killed server leaves behind
  exec $java -XX:SharedArchiveFile=$home/app.jsa -Xshare:auto -cp "$home/lib/*" $main
  ;;
esac
