package contract_test

import (
	"context"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/testing/protocmp"

	"qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// The generated code must say what the .proto file says. Comparing descriptors
// needs no protoc, so the check runs everywhere; `make generate` mends a
// difference.
func TestGeneratedProtocolIsFresh(t *testing.T) {
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{"."}}),
	}
	files, err := compiler.Compile(context.Background(), "dagmanager.proto")
	if err != nil {
		t.Fatal(err)
	}
	want := protodesc.ToFileDescriptorProto(files[0])
	got := protodesc.ToFileDescriptorProto(dagmanagerpb.File_dagmanager_proto)
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("dagmanager.proto and the generated code differ; run make generate\n(-proto +generated)\n%s", diff)
	}
}
