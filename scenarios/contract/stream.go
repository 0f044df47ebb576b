package contract

// DiffStreamHeader is the metadata key under which a DAG Manager may name the
// stream of a Diff in its response header. A client that sends the value back
// as metadata of AckChunk has its acknowledgement counted for that very stream;
// one that does not is served all the same.
const DiffStreamHeader = "x-diff-stream"
