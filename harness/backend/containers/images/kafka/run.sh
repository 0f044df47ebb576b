#!/bin/sh
# format: prepare the storage.  train: keep the classes of a short run.
# serve: be a broker whose clients reach it at $PLUMBLINE_ADVERTISED (host:port).
set -eu
home=/opt/kafka
java="java -XX:+UseSerialGC -Xms128m -Xmx${KAFKA_HEAP:-512m} -Djava.awt.headless=true -Dlog4j2.configurationFile=file:$home/log4j2.properties"
case "$1" in
format)
  exec $java -cp "$home/lib/*" kafka.tools.StorageTool format -t 4L6g3nShT-eMCtK--X86sw -c $home/server.properties
  ;;
train)
  cp -a /var/kafka /tmp/formatted
  $java -XX:ArchiveClassesAtExit=$home/app.jsa -cp "$home/lib/*" kafka.Kafka $home/server.properties >/tmp/train.log 2>&1 &
  pid=$!
  tries=0
  until grep -q 'Kafka Server started' /tmp/train.log; do
    tries=$((tries + 1))
    if [ $tries -ge 900 ] || ! kill -0 $pid; then cat /tmp/train.log; exit 1; fi
    sleep 0.1
  done
  kill $pid
  wait $pid || true
  rm -rf /var/kafka /tmp/train.log
  mv /tmp/formatted /var/kafka
  ls -l $home/app.jsa
  ;;
serve)
  exec $java -XX:SharedArchiveFile=$home/app.jsa -Xshare:auto -cp "$home/lib/*" kafka.Kafka $home/server.properties \
    --override "advertised.listeners=CLIENT://${PLUMBLINE_ADVERTISED:-127.0.0.1:9092}"
  ;;
esac
