package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

var update = flag.Bool("update", false, "rewrite the golden files; then read the diff: "+
	"a line may be added, and a line may grow, but no line may change in any other way")

// fill sets every field of m to a value that follows from the field's name.
// Of a choice, it takes the field called choose, or the one with the lowest number.
func fill(m protoreflect.Message, choose protoreflect.Name, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if o := f.ContainingOneof(); o != nil && f != chosen(o, choose) || depth > 6 {
			continue
		}
		switch {
		case f.IsList():
			l := m.Mutable(f).List()
			for n := range uint64(2) {
				l.Append(value(f, n, l.NewElement, depth))
			}
		case f.IsMap():
			v := value(f.MapValue(), 0, nil, depth)
			m.Mutable(f).Map().Set(protoreflect.ValueOfString("key of "+f.TextName()).MapKey(), v)
		default:
			m.Set(f, value(f, 0, func() protoreflect.Value { return m.NewField(f) }, depth))
		}
	}
}

// chosen is the field of a choice that is set.
func chosen(o protoreflect.OneofDescriptor, want protoreflect.Name) protoreflect.FieldDescriptor {
	if f := o.Fields().ByName(want); f != nil {
		return f
	}
	best := o.Fields().Get(0)
	for i := range o.Fields().Len() {
		if f := o.Fields().Get(i); f.Number() < best.Number() {
			best = f
		}
	}
	return best
}

func value(f protoreflect.FieldDescriptor, n uint64, fresh func() protoreflect.Value, depth int) protoreflect.Value {
	h := fnv.New64a()
	h.Write([]byte(f.FullName()))
	x := h.Sum64() + n
	switch f.Kind() {
	case protoreflect.MessageKind:
		v := fresh()
		fill(v.Message(), "", depth+1)
		return v
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(min(1, values.Len()-1)).Number())
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(x))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(x)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(x >> 1))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(x >> 12))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("%s %d", f.Name(), n))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(fmt.Sprintf("%s %d", f.Name(), n)))
	}
	panic("no value for kind " + f.Kind().String() + " of " + string(f.FullName()))
}

// specimen is one message with every field set, by name.
type specimen struct {
	name string
	m    proto.Message
}

// specimens are all messages of a file, and those with a choice once for each alternative.
func specimens(fd protoreflect.FileDescriptor) []specimen {
	var out []specimen
	add := func(md protoreflect.MessageDescriptor, choose protoreflect.Name) {
		mt, err := protoregistry.GlobalTypes.FindMessageByName(md.FullName())
		if err != nil {
			panic(err)
		}
		m := mt.New()
		fill(m, choose, 0)
		name := string(md.Name())
		if choose != "" {
			name += "/" + string(choose)
		}
		out = append(out, specimen{name, m.Interface()})
	}
	for i := range fd.Messages().Len() {
		md := fd.Messages().Get(i)
		if md.Oneofs().Len() == 0 {
			add(md, "")
		}
		for o := range md.Oneofs().Len() {
			for f := range md.Oneofs().Get(o).Fields().Len() {
				add(md, md.Oneofs().Get(o).Fields().Get(f).Name())
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	v := m.(Message)
	b := make([]byte, v.SizeVT())
	if n, err := v.MarshalToSizedBufferVT(b); err != nil || n != len(b) {
		t.Fatalf("%T: %d of %d bytes, %v", m, n, len(b), err)
	}
	return b
}

// frozen compares what the golden bytes mean today with what a message should
// hold today: what was frozen must be there; what came later may be added.
func frozen(golden, today protoreflect.Message, path string) error {
	if n := len(golden.GetUnknown()); n > 0 {
		return fmt.Errorf("%s: %d bytes of the golden file are of fields that are gone", path, n)
	}
	var err error
	golden.Range(func(f protoreflect.FieldDescriptor, g protoreflect.Value) bool {
		at := path + "." + string(f.Name())
		w := today.Get(f)
		switch {
		case f.IsMap():
			if !g.Equal(w) {
				err = fmt.Errorf("%s has changed", at)
			}
		case f.IsList():
			if g.List().Len() != w.List().Len() {
				err = fmt.Errorf("%s has changed", at)
				break
			}
			for i := 0; i < g.List().Len() && err == nil; i++ {
				err = frozenValue(f, g.List().Get(i), w.List().Get(i), at)
			}
		default:
			err = frozenValue(f, g, w, at)
		}
		return err == nil
	})
	return err
}

func frozenValue(f protoreflect.FieldDescriptor, g, w protoreflect.Value, at string) error {
	if f.Kind() == protoreflect.MessageKind {
		return frozen(g.Message(), w.Message(), at)
	}
	if !g.Equal(w) {
		return fmt.Errorf("%s has changed: number or type of the field, or its name", at)
	}
	return nil
}

func protoFiles() []protoreflect.FileDescriptor {
	return []protoreflect.FileDescriptor{
		File_wire_common_proto, File_wire_shard_proto, File_wire_cdc_proto,
		File_wire_block_proto, File_wire_node_proto,
	}
}

// The bytes of messages are in logs and between versions: a field keeps its
// number and type for ever. Each message, and each verb, is frozen here.
func TestGoldenMessages(t *testing.T) {
	for _, fd := range protoFiles() {
		base := strings.TrimSuffix(filepath.Base(fd.Path()), ".proto")
		path := filepath.Join("testdata", base+".golden")
		old := readGolden(t, path)
		var b bytes.Buffer
		seen := map[string]bool{}
		for _, s := range specimens(fd) {
			seen[s.name] = true
			fmt.Fprintf(&b, "%s %x\n", s.name, marshal(t, s.m))
			checkGolden(t, base+": "+s.name, old[s.name], s.m)
		}
		if *update {
			if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		for name := range old {
			if !seen[name] {
				t.Errorf("%s: %s is gone, but its bytes may be in a log", base, name)
			}
		}
	}
}

// checkGolden reads the frozen bytes with today's code. It does so before an update too, which
// shows in words what the diff shows in hex.
func checkGolden(t *testing.T, name string, golden []byte, today proto.Message) {
	t.Helper()
	fail := t.Errorf
	if *update {
		fail = t.Logf
	}
	if golden == nil {
		t.Logf("%s is not frozen yet: run make golden", name)
		return
	}
	m := today.ProtoReflect().New()
	if err := m.Interface().(Message).UnmarshalVT(golden); err != nil {
		fail("%s: %v", name, err)
		return
	}
	if err := frozen(m, today.ProtoReflect(), name); err != nil {
		fail("%v", err)
	}
	if again := marshal(t, m.Interface()); !bytes.Equal(again, golden) {
		fail("%s: the bytes change when read and written", name)
	}
	if !proto.Equal(m.Interface(), today) {
		t.Logf("%s has new fields that are not frozen yet: run make golden", name)
	}
}

func readGolden(t *testing.T, path string) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for line := range strings.Lines(string(text)) {
		name, h, _ := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(h)
		if err != nil {
			t.Fatalf("%s: %s: %v", path, name, err)
		}
		out[name] = b
	}
	return out
}

// A test that cannot fail is worth nothing: a changed number must be seen.
func TestGoldenSeesAChangedNumber(t *testing.T) {
	today := &Block{}
	fill(today.ProtoReflect(), "", 0)
	moved := bytes.Replace(marshal(t, today), []byte{0x11}, []byte{0x21}, 1) // field 2 as field 4
	m := &Block{}
	if err := m.UnmarshalVT(moved); err != nil {
		t.Fatal(err)
	}
	if err := frozen(m.ProtoReflect(), today.ProtoReflect(), "Block"); err == nil {
		t.Error("a field that moved from number 2 to 4 goes unseen")
	}
}

// The frames around the messages are as frozen as the messages.
func TestGoldenFrames(t *testing.T) {
	hello := NewHello(0xC1, 0xA1, "test")
	hello.MinVersion, hello.MaxVersion = 1, 1
	var b bytes.Buffer
	add := func(name string, f []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %x\n", name, f)
	}
	f, err := appendFrame(nil, header{kind: frameHello}, nil, hello)
	add("hello", f, err)
	f, err = appendFrame(nil, header{kind: frameRequest, flags: flagDeadline, method: MethodCdc, id: 0x0102030405060708},
		[]byte{0xE8, 3, 0, 0}, &Event{Time: 1})
	add("request-with-deadline", f, err)
	for k := frameVoid; k < frameTypes; k++ {
		f, err = appendFrame(nil, header{kind: k, method: MethodPing, id: 7}, nil, nil)
		add(fmt.Sprintf("empty-%d", k), f, err)
	}
	f, err = AppendBlockFrame(nil, &BlockRequest{Op: &BlockRequest_Get{Get: &GetBlock{Offset: 4096, Length: 1}}})
	add("block", f, err)
	add("plain-block-magic", []byte(PlainBlockMagic), nil)
	path := filepath.Join("testdata", "frames.golden")
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(want, b.Bytes()) {
		t.Errorf("frames have changed (%v):\n%s\nwant\n%s", err, &b, want)
	}
}
