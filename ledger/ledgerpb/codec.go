// Package ledgerpb is the protocol between a sidecar and a ledger node, generated from ledger.proto, and its codec.
package ledgerpb

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Codec is gRPC's codec of protobuf, on the wire and by name, but that it reads and writes messages of this package
// by their generated code, without reflection. Others, such as a health check, go the usual way.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(proto.Name)} }

type codec struct{ encoding.CodecV2 }

type message interface {
	SizeVT() int
	MarshalToSizedBufferVT(to []byte) (int, error)
	UnmarshalVTUnsafe(from []byte) error
}

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(message)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(m.SizeVT())
	if _, err := m.MarshalToSizedBufferVT(*buf); err != nil {
		pool.Put(buf)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// Unmarshal implements encoding.CodecV2. Texts and bytes of the message lie in one copy of data, which lives as long
// as they do.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(message)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	return m.UnmarshalVTUnsafe(data.Materialize())
}
