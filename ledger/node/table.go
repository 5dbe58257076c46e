package node

import "iter"

// table is a cache of one kind of row that remembers what the present group touched.
type table[K, R comparable] struct {
	rows    cache[K, *row[K, R]]
	load    func(K) (R, error)
	group   uint64
	aged    uint64       // when the old half became old
	touched []*row[K, R] // by this group, in order
}

type row[K, R comparable] struct {
	key     K
	was, is R      // before the group, and now
	group   uint64 // that touched it last
	place   int    // the window's, whose lock guards it
}

func newTable[K, R comparable](load func(K) (R, error), limit int) table[K, R] {
	return table[K, R]{rows: newCache[K, *row[K, R]](limit), load: load}
}

func (t *table[K, R]) begin() {
	t.group++
	t.touched = t.touched[:0]
}

// touch finds or loads a row for reading and writing in this group.
func (t *table[K, R]) touch(key K) (*row[K, R], error) {
	r, ok := t.rows.get(key)
	if !ok {
		value, err := t.load(key)
		if err != nil {
			return nil, err
		}
		r = &row[K, R]{key: key, is: value}
		t.rows.put(key, r)
	}
	if r.group != t.group {
		r.group, r.was = t.group, r.is
		t.touched = append(t.touched, r)
	}
	return r, nil
}

// changed are the rows that this group changed, and did not only read.
func (t *table[K, R]) changed() iter.Seq[*row[K, R]] {
	return func(yield func(*row[K, R]) bool) {
		for _, r := range t.touched {
			if r.is != r.was && !yield(r) {
				return
			}
		}
	}
}

// effects are what this group made of the rows that it changed.
func (t *table[K, R]) effects() []effect[K, R] {
	all := make([]effect[K, R], 0, len(t.touched))
	for r := range t.changed() {
		all = append(all, effect[K, R]{r, r.was, r.is})
	}
	return all
}

func (t *table[K, R]) rollback() {
	for _, r := range t.touched {
		r.is = r.was
	}
	t.touched = t.touched[:0]
}

// trim lets go of what nobody asked for lately, and nothing else does. Rows of the old half were
// touched by group aged at the latest, so they are in the store once that has come so far; until
// then the young half grows on, by no more than the groups on their way touch.
func (t *table[K, R]) trim(stored uint64) {
	if t.rows.full() && stored >= t.aged {
		t.rows.trim()
		t.aged = t.group
	}
}

// cache holds what was used lately: when the young half is full it becomes the old half, and
// what nobody asked for since goes. That is nearly LRU, without a list or a lock.
type cache[K comparable, V any] struct {
	young, old map[K]V
	limit      int // of each half
}

func newCache[K comparable, V any](limit int) cache[K, V] {
	return cache[K, V]{young: make(map[K]V), limit: limit}
}

func (c *cache[K, V]) get(key K) (V, bool) {
	v, ok := c.young[key]
	if !ok {
		if v, ok = c.old[key]; ok {
			c.young[key] = v
		}
	}
	return v, ok
}

func (c *cache[K, V]) put(key K, v V) { c.young[key] = v }

func (c *cache[K, V]) full() bool { return len(c.young) >= c.limit }

func (c *cache[K, V]) trim() { c.young, c.old = make(map[K]V, c.limit), c.young }
