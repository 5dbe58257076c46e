package wallet

import "lukechampine.com/blake3/guts"

// sum256 is BLAKE3-256 of one chunk, at most 1,024 bytes. blake3.Sum256 gives the same, but moves
// its argument to the heap for the sake of longer inputs, which would cost each receipt and each
// fingerprint an allocation.
func sum256(chunk []byte) (sum [32]byte) {
	if len(chunk) > guts.ChunkSize {
		panic("wallet: nothing that is hashed here is longer than one BLAKE3 chunk")
	}
	root := guts.CompressChunk(chunk, &guts.IV, 0, 0)
	root.Flags |= guts.FlagRoot
	words := guts.WordsToBytes(guts.CompressNode(root))
	copy(sum[:], words[:])
	return sum
}
