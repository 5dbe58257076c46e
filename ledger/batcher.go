package ledger

// queue is a list of pending payments, first come, first served. It is linked through its items,
// so one that is withdrawn leaves at once and makes room.
type queue struct {
	first, last *pending
	len         int
}

func (q *queue) push(p *pending) {
	p.queued, p.prev, p.next = true, q.last, nil
	if q.last == nil {
		q.first = p
	} else {
		q.last.next = p
	}
	q.last = p
	q.len++
}

func (q *queue) pop() *pending {
	p := q.first
	q.remove(p)
	return p
}

func (q *queue) remove(p *pending) {
	if p.prev == nil {
		q.first = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		q.last = p.prev
	} else {
		p.next.prev = p.prev
	}
	p.queued, p.prev, p.next = false, nil, nil
	q.len--
}
