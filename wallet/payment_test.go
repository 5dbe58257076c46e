package wallet_test

import (
	"encoding/hex"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"svc-wallet/wallet"
)

// TestHolderAndLane: issue acts on to and spends the issue lane, transfer and burn act on from and
// share its debit lane, and what is no payment has neither (CONTRACT §2).
func TestHolderAndLane(t *testing.T) {
	from, to := wallet.Must(wallet.ParseAccount("payer")), wallet.Must(wallet.ParseAccount("payee"))
	for _, c := range []struct {
		op     wallet.Op
		holder wallet.Account
		lane   wallet.Lane
	}{
		{wallet.Issue, to, wallet.IssueLane},
		{wallet.Transfer, from, wallet.DebitLane},
		{wallet.Burn, from, wallet.DebitLane},
		{wallet.Read, from, wallet.NoLane},
		{wallet.NoOp, from, wallet.NoLane},
	} {
		tr := wallet.Payment{Op: c.op, From: from, To: to}
		if tr.Holder() != c.holder || tr.Lane() != c.lane {
			t.Errorf("%s: holder %s, lane %d; want %s, %d", c.op, tr.Holder(), tr.Lane(), c.holder, c.lane)
		}
	}
	if (&wallet.Payment{}).Lane() != wallet.NoLane || !(&wallet.Payment{}).Holder().IsZero() {
		t.Error("the zero transfer has a lane or a holder")
	}
}

// TestOpNames: what is no operation shows as none and cannot be parsed.
func TestOpNames(t *testing.T) {
	for _, op := range []wallet.Op{wallet.NoOp, wallet.Burn + 1, 255} {
		if op.String() != "none" {
			t.Errorf("op %d shows as %s", uint8(op), op)
		}
	}
}

// anyTransfer draws short names from few letters, so that neighbouring fields are easily confused.
var anyTransfer = rapid.Custom(func(t *rapid.T) wallet.Payment {
	name := rapid.StringMatching(`[ab]{1,4}`)
	tr := wallet.Payment{
		Op:     rapid.SampledFrom([]wallet.Op{wallet.Issue, wallet.Transfer, wallet.Burn}).Draw(t, "op"),
		Asset:  wallet.Must(wallet.ParseAsset(name.Draw(t, "asset"))),
		Amount: wallet.AmountFromBits(rapid.Uint64Max(2).Draw(t, "hi"), rapid.Uint64Max(2).Draw(t, "lo")),
		Nonce:  rapid.Uint64Range(1, 3).Draw(t, "nonce"),
	}
	if tr.Op != wallet.Issue {
		tr.From = wallet.Must(wallet.ParseAccount(name.Draw(t, "from")))
	}
	if tr.Op != wallet.Burn {
		tr.To = wallet.Must(wallet.ParseAccount(name.Draw(t, "to")))
	}
	return tr
})

// TestFingerprint: two decoded requests have one fingerprint if and only if they are equal, also
// where they differ only in one field or in where one field ends and the next begins; key, rules
// and origin do not count. By property.
func TestFingerprint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyTransfer.Draw(t, "a"), anyTransfer.Draw(t, "b")
		if (a.Hash() == b.Hash()) != (a == b) {
			t.Fatalf("%+v\n%+v", a, b)
		}
		c := a
		switch rapid.IntRange(0, 5).Draw(t, "field") {
		case 0:
			c.Op = b.Op
		case 1:
			c.From = b.From
		case 2:
			c.To = b.To
		case 3:
			c.Asset = b.Asset
		case 4:
			c.Amount = b.Amount
		case 5:
			c.Nonce = b.Nonce
		}
		if (a.Hash() == c.Hash()) != (a == c) {
			t.Fatalf("%+v\n%+v", a, c)
		}
		c = a
		c.Idem = wallet.Must(wallet.ParseIdemKey("another"))
		c.Rules, c.Fingerprint = wallet.Rules{NonceStart: 9}, [32]byte{9}
		c.Origin.Corr = wallet.Must(wallet.ParseCorrID("another"))
		if c.Hash() != a.Hash() {
			t.Fatal("the fingerprint covers more than the decoded request")
		}
		// All ways to cut one text into from, to and asset.
		hashes := map[[32]byte]bool{}
		text := a.From.String() + a.To.String() + a.Asset.String() + "ab"
		cuts := 0
		for i := 1; i < len(text)-1; i++ {
			for j := i + 1; j < len(text); j++ {
				c.From, c.To = wallet.Must(wallet.ParseAccount(text[:i])), wallet.Must(wallet.ParseAccount(text[i:j]))
				c.Asset = wallet.Must(wallet.ParseAsset(text[j:]))
				hashes[c.Hash()] = true
				cuts++
			}
		}
		if len(hashes) != cuts {
			t.Fatalf("%d cuts of %q have %d fingerprints", cuts, text, len(hashes))
		}
	})
}

// TestFingerprintGoldens: ledgers store fingerprints, so the bytes that are hashed may never change:
// testdata/fingerprints.txt holds them, and b3sum takes the same hash where it is installed.
func TestFingerprintGoldens(t *testing.T) {
	data, err := os.ReadFile("testdata/fingerprints.txt")
	if err != nil {
		t.Fatal(err)
	}
	b3sum, _ := exec.LookPath("b3sum")
	goldens := 0
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		if len(f) != 8 {
			t.Fatalf("cannot read %q", line)
		}
		goldens++
		op, ok := wallet.ParseOp(f[0])
		nonce, err := strconv.ParseUint(f[5], 10, 64)
		if !ok || err != nil {
			t.Fatalf("cannot read %q", line)
		}
		tr := wallet.Payment{Op: op, Asset: wallet.Must(wallet.ParseAsset(f[3])), Amount: wallet.Must(wallet.ParseAmount(f[4])), Nonce: nonce}
		if f[1] != "-" {
			tr.From = wallet.Must(wallet.ParseAccount(f[1]))
		}
		if f[2] != "-" {
			tr.To = wallet.Must(wallet.ParseAccount(f[2]))
		}
		if sum := tr.Hash(); hex.EncodeToString(sum[:]) != f[7] {
			t.Errorf("%s has fingerprint %x, want %s", line, sum, f[7])
		}
		if b3sum != "" {
			cmd := exec.Command(b3sum, "--no-names")
			raw, err := hex.DecodeString(f[6])
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stdin = strings.NewReader(string(raw))
			if out, err := cmd.Output(); err != nil || strings.TrimSpace(string(out)) != f[7] {
				t.Errorf("b3sum of %s is %s, %v", f[6], out, err)
			}
		}
	}
	if goldens < 3 {
		t.Fatalf("only %d goldens", goldens)
	}
}

// TestHashAllocs: the fingerprint of the longest transfer does not allocate.
func TestHashAllocs(t *testing.T) {
	_, r := sampleReceipts(t)
	tr := wallet.Payment{Op: r.Op, From: r.From, To: r.To, Asset: r.Asset, Amount: r.Amount, Nonce: r.Nonce}
	noAllocs(t, "Hash", func() { tr.Fingerprint = tr.Hash() })
}

func BenchmarkTransferHash(b *testing.B) {
	r, _ := sampleReceipts(b)
	tr := wallet.Payment{Op: r.Op, From: r.From, To: r.To, Asset: r.Asset, Amount: r.Amount, Nonce: r.Nonce}
	b.ReportAllocs()
	for b.Loop() {
		tr.Fingerprint = tr.Hash()
	}
}
