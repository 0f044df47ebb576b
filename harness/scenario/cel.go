package scenario

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"reflect"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	"github.com/zeebo/blake3"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// celCheck is one CEL expression that must be true.
type celCheck struct {
	text    string
	program cel.Program
}

// celEnv declares the parts of every observation, what was sent and what was
// saved, and three functions of the contract: compute_key, crc32 and digest.
func celEnv() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.Variable("sent", cel.DynType),
		cel.Variable("saved", cel.DynType),
		ext.Strings(), ext.Lists(), ext.Sets(), ext.Math(), ext.Encoders(),
		cel.CrossTypeNumericComparisons(true),
		cel.Function("compute_key", cel.Overload("compute_key_list", []*cel.Type{cel.ListType(cel.StringType)}, cel.StringType, cel.UnaryBinding(celComputeKey))),
		cel.Function("crc32", cel.Overload("crc32_list", []*cel.Type{cel.ListType(cel.StringType)}, cel.IntType, cel.UnaryBinding(celCRC))),
		cel.Function("alpha_metrics", cel.Overload("alpha_metrics_dyn", []*cel.Type{cel.DynType}, cel.DynType, cel.UnaryBinding(celAlpha))),
		cel.Function("digest", cel.Overload("digest_string", []*cel.Type{cel.StringType}, cel.StringType, cel.UnaryBinding(celDigest))),
	}
	for _, part := range observedParts() {
		options = append(options, cel.Variable(part, cel.DynType))
	}
	return cel.NewEnv(options...)
}

func compileCEL(env *cel.Env, text string) (celCheck, error) {
	parsed, issues := env.Compile(text)
	if issues.Err() != nil {
		return celCheck{}, issues.Err()
	}
	if t := parsed.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return celCheck{}, fmt.Errorf("the expression is a %s, not true or false", t)
	}
	program, err := env.Program(parsed, cel.CostLimit(10_000_000))
	return celCheck{text, program}, err
}

// eval gives "" when the expression is true, else what is wrong.
func (c celCheck) eval(o observation, saved map[string]any) string {
	vars := map[string]any{"saved": native(saved), "sent": map[string]any{}}
	for _, part := range observedParts() {
		vars[part] = nil
	}
	for k, v := range o {
		vars[k] = native(v)
	}
	out, _, err := c.program.Eval(vars)
	if err != nil {
		return fmt.Sprintf("cel %q: %v", c.text, err)
	}
	if b, ok := out.Value().(bool); !ok || !b {
		return fmt.Sprintf("cel %q is %v", c.text, out.Value())
	}
	return ""
}

// native gives CEL int64 and float64 instead of json.Number.
func native(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil {
			return v.String()
		}
		return f
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = native(item)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, item := range v {
			out[k] = native(item)
		}
		return out
	}
	return v
}

func celStrings(v ref.Val) ([]string, ref.Val) {
	out, err := v.ConvertToNative(typeOfStrings())
	if err != nil {
		return nil, types.NewErr("%v", err)
	}
	return out.([]string), nil
}

// celComputeKey is dagmanager.md 2.5: node id, world, domain, as_of, partition
// joined by byte 0x1F and hashed; the domain is taken as resolved already.
func celComputeKey(v ref.Val) ref.Val {
	parts, bad := celStrings(v)
	if bad != nil {
		return bad
	}
	if len(parts) != 5 {
		return types.NewErr("compute_key wants [node id, world, domain, as_of, partition]")
	}
	sum := blake3.Sum256([]byte(strings.Join(parts, "\x1f")))
	return types.String(fmt.Sprintf("blake3:%x", sum))
}

// celAlpha reads the alpha metrics of a rebalancing plan as an up-to-date SDK
// does (controlbus.md 5.4).
func celAlpha(v ref.Val) ref.Val {
	b, err := json.Marshal(plainly(v))
	if err != nil {
		return types.NewErr("alpha_metrics: %v", err)
	}
	given, err := pyjson.Parse(b)
	if err != nil {
		return types.NewErr("alpha_metrics: %v", err)
	}
	e, err := contract.ParseAlphaEnvelope(given)
	if err != nil {
		return types.NewErr("alpha_metrics: %v", err)
	}
	return types.DefaultTypeAdapter.NativeToValue(map[string]any{"per_world": e.PerWorld, "per_strategy": e.PerStrategy})
}

// plainly gives the Go value that native made into v.
func plainly(v ref.Val) any {
	if v.Type() == types.NullType {
		return nil
	}
	return v.Value()
}

// celCRC is the CRC-32 of the concatenated texts.
func celCRC(v ref.Val) ref.Val {
	parts, bad := celStrings(v)
	if bad != nil {
		return bad
	}
	return types.Int(crc32.ChecksumIEEE([]byte(strings.Join(parts, ""))))
}

// celDigest is the part of an id that topic names are cut from.
func celDigest(v ref.Val) ref.Val {
	id := string(v.(types.String))
	if rest, ok := strings.CutPrefix(id, "blake3:"); ok && rest != "" {
		return types.String(rest)
	}
	return types.String(id)
}

func typeOfStrings() reflect.Type { return reflect.TypeFor[[]string]() }
