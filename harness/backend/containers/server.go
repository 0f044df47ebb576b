package containers

import (
	"context"
	"net"

	"qmtl.internal/plumbline/harness/backend"
)

// server says how one of the three is run. Settings differ between images
// built by images/build.sh (local) and the public ones.
type server struct {
	name   string
	port   string // within the container
	memory int64  // hard limit of memory and swap together, bytes
	weight int64  // share of the processors when they are all busy; one thread outside has 1024
	// entrypoint replaces the image's; nil leaves it.
	entrypoint func() []string
	// env for clients that reach the server at addr.
	env   func(local bool, addr string) map[string]string
	check func(ctx context.Context, addr, runID string) error
	put   func(set *backend.Set, addr string)
}

func servers() []server {
	return []server{
		{
			name: "kafka", port: "9092/tcp", memory: 1 << 30, weight: 2048, entrypoint: imageEntrypoint, env: kafkaEnv, check: backend.CheckKafka,
			put: func(s *backend.Set, addr string) { s.Kafka = addr },
		},
		{
			name: "redis", port: "6379/tcp", memory: 2 << 30, weight: 2048, entrypoint: redisEntrypoint, env: noEnv, check: backend.CheckRedis,
			put: func(s *backend.Set, addr string) { s.Redis = addr },
		},
		{
			name: "neo4j", port: "7687/tcp", memory: 1 << 30, weight: 256, entrypoint: imageEntrypoint, env: neo4jEnv, check: checkNeo4j,
			put: func(s *backend.Set, addr string) { s.Neo4j = "bolt://" + addr },
		},
	}
}

func imageEntrypoint() []string            { return nil }
func noEnv(bool, string) map[string]string { return nil }
func checkNeo4j(ctx context.Context, addr, runID string) error {
	return backend.CheckNeo4j(ctx, "bolt://"+addr, runID)
}

// redisEntrypoint suits both images. Every write is in the append-only file
// before it is answered, though not on the disk: what was acknowledged
// survives the death of the server, not that of the machine.
func redisEntrypoint() []string {
	return []string{
		"redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "",
		"--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0",
	}
}

// The servers live for minutes, and the optimising compiler of Java would spend
// those competing with the SUT for the processors: the quick one serves.
const (
	javaOptions = "JAVA_TOOL_OPTIONS" // every virtual machine reads it
	quickStart  = "-XX:TieredStopAtLevel=1"
)

// kafkaEnv: the local image takes one variable, the public one its whole
// configuration.
func kafkaEnv(local bool, addr string) map[string]string {
	if local {
		return map[string]string{"PLUMBLINE_ADVERTISED": addr, "KAFKA_HEAP": "512m", javaOptions: quickStart}
	}
	return map[string]string{
		javaOptions:                                      quickStart,
		"KAFKA_HEAP_OPTS":                                "-Xms128m -Xmx512m",
		"KAFKA_NODE_ID":                                  "1",
		"KAFKA_PROCESS_ROLES":                            "broker,controller",
		"KAFKA_CONTROLLER_QUORUM_VOTERS":                 "1@127.0.0.1:9093",
		"KAFKA_CONTROLLER_LISTENER_NAMES":                "CONTROLLER",
		"KAFKA_LISTENERS":                                "CLIENT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093",
		"KAFKA_ADVERTISED_LISTENERS":                     "CLIENT://" + addr,
		"KAFKA_LISTENER_SECURITY_PROTOCOL_MAP":           "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"KAFKA_INTER_BROKER_LISTENER_NAME":               "CLIENT",
		"KAFKA_BROKER_SESSION_TIMEOUT_MS":                "3000", // a killed broker is itself again only after this
		"KAFKA_BROKER_HEARTBEAT_INTERVAL_MS":             "500",
		"KAFKA_CONTROLLER_QUORUM_APPEND_LINGER_MS":       "0", // every new topic would wait 25 ms for company
		"KAFKA_AUTO_CREATE_TOPICS_ENABLE":                "false",
		"KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS":         "0",
		"KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS":             "1",
		"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR":         "1",
		"KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS":     "1",
		"KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
		"KAFKA_TRANSACTION_STATE_LOG_MIN_ISR":            "1",
	}
}

func neo4jEnv(local bool, addr string) map[string]string {
	if local {
		return map[string]string{"NEO4J_HEAP": "512m", javaOptions: quickStart}
	}
	_, port, _ := net.SplitHostPort(addr) // made by freeAddr
	return map[string]string{
		javaOptions:                                    quickStart,
		"NEO4J_AUTH":                                   "none",
		"NEO4J_server_memory_heap_max__size":           "512m",
		"NEO4J_server_memory_pagecache_size":           "64m",
		"NEO4J_server_bolt_advertised__address":        "127.0.0.1:" + port,
		"NEO4J_db_shutdown__transaction__end__timeout": "1s",
		"NEO4J_internal_dbms_bolt_netty__server__shutdown__quiet__period": "0", // a stop would take ten seconds after the data is safe
		"NEO4J_dbms_usage__report_enabled":                                "false",
		"NEO4J_server_metrics_enabled":                                    "false",
		"NEO4J_server_config_strict__validation_enabled":                  "false",
	}
}
