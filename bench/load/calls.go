package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"

	"golang.org/x/net/http2/hpack"
)

const (
	grpcPath = "/echo.Echo/Unary"
	// variants is the number of different calls; their ring starts over with an empty header table.
	variants = 1024
)

// makeCalls makes the frames of the calls of one connection, in their order, as grpc-go's encoder writes them: fields
// go into the header table, and are referred to from then on. table is the size that the peer allows.
//
// Without vary there are two calls: the first fills the table, the second, which refers to it, is sent from then on.
// With vary, the first call of the ring empties the table (RFC 7541, section 6.3), so that the ring can be sent again.
func makeCalls(vary bool, table uint32) [][]byte {
	n := 2
	if vary {
		n = variants
	}
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // any bytes will do, the same in each run
	msg := message(messageBytes)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	if vary || table != 4096 {
		enc.SetMaxDynamicTableSize(0)
		enc.SetMaxDynamicTableSize(table)
	}
	calls := make([][]byte, n)
	for i := range calls {
		block.Reset()
		for _, f := range callFields(vary, i, random) {
			if err := enc.WriteField(f); err != nil {
				panic(err) // a buffer takes everything
			}
		}
		b := appendFrame(nil, block.Len(), frameHeaders, flagEndHeaders, 0)
		b = append(b, block.Bytes()...)
		b = appendFrame(b, len(msg), frameData, flagEndStream, 0)
		calls[i] = append(b, msg...)
	}
	return calls
}

// again is where the ring goes on after its end.
func (g *grpcClient) again() int {
	if g.vary {
		return 0
	}
	return 1
}

// callFields are the fields that grpc-go sends, in its order.
func callFields(vary bool, i int, random *rand.Rand) []hpack.HeaderField {
	path := grpcPath
	if vary {
		path = fmt.Sprintf("%s%d", grpcPath, i)
	}
	fields := []hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: path},
		{Name: ":authority", Value: "bench.local"},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "user-agent", Value: "grpc-go/1.85.0"},
		{Name: "te", Value: "trailers"},
	}
	if !vary {
		return fields
	}
	token := make([]byte, 32)
	for j := range token {
		token[j] = byte(random.Uint32())
	}
	return append(fields,
		hpack.HeaderField{Name: "grpc-timeout", Value: fmt.Sprintf("%du", 5_000_000+random.IntN(4_000_000))},
		hpack.HeaderField{Name: "traceparent", Value: fmt.Sprintf("00-%016x%016x-%016x-01", random.Uint64(), random.Uint64()|1, random.Uint64()|1)},
		hpack.HeaderField{Name: "authorization", Value: "Bearer " + base64.RawURLEncoding.EncodeToString(token)})
}
