package pipeline_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/release"
)

// call is a request to the registry or to the ledger.
type call struct {
	who, what        string
	sent             digest.Digest // of the request's body
	write, contended bool

	let, answered chan struct{} // closed by the race; by whoever answers
	refused       bool          // read after let
}

func (c *call) String() string { return c.who + " " + c.what }

// race holds the calls of its movers back and lets them through one at a time: the next goes when
// the one before was answered.
type race struct {
	movers []string

	mu      sync.Mutex
	changed *sync.Cond
	waiting map[string][]*call // by mover, in the order of arrival
	ended   map[string]bool
	stopped bool
	log     []*call // what was let through
}

func newRace(movers int) *race {
	r := &race{waiting: map[string][]*call{}, ended: map[string]bool{}}
	r.changed = sync.NewCond(&r.mu)
	for i := range movers {
		r.movers = append(r.movers, moverName(i))
	}
	return r
}

func (r *race) takesPart(who string) bool { return slices.Contains(r.movers, who) }

var errOver = errors.New("the race is over")

// wait returns when it is the call's turn; leave says that it was answered.
func (r *race) wait(ctx context.Context, arriving call) (leave func(), err error) {
	c := &arriving
	c.let, c.answered = make(chan struct{}), make(chan struct{})
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return nil, errOver
	}
	r.waiting[c.who] = append(r.waiting[c.who], c)
	r.changed.Broadcast()
	r.mu.Unlock()
	select {
	case <-c.let:
	case <-ctx.Done():
		if r.withdraw(c) {
			return nil, ctx.Err()
		}
		<-c.let
	}
	if c.refused {
		return nil, errOver
	}
	return func() { close(c.answered) }, nil
}

// withdraw takes a call back whose sender has gone, unless it was let through meanwhile.
func (r *race) withdraw(c *call) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.waiting[c.who], c)
	if i >= 0 {
		r.waiting[c.who] = slices.Delete(r.waiting[c.who], i, i+1)
	}
	return i >= 0
}

// end says that a mover sends nothing more.
func (r *race) end(who string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended[who] = true
	r.changed.Broadcast()
}

// play runs a schedule, and then lets everybody who is left go in turn. look is called after every
// write, while everything else stands still; its error ends the race.
func (r *race) play(turns []turn, look func(context.Context) error) error {
	for _, t := range turns {
		for range t.calls {
			on, err := r.step(r.movers[t.mover], look)
			if err != nil {
				return err
			}
			if !on {
				break
			}
		}
	}
	for on := true; on; {
		on = false
		for _, who := range r.movers {
			more, err := r.step(who, look)
			if err != nil {
				return err
			}
			on = on || more
		}
	}
	return nil
}

// step lets a mover's oldest call through and waits until it was answered; false when the mover has
// ended.
func (r *race) step(who string, look func(context.Context) error) (bool, error) {
	c := r.next(who)
	if c == nil {
		return false, nil
	}
	close(c.let)
	<-c.answered
	if !c.write {
		return true, nil
	}
	return true, look(context.Background())
}

// next waits until a mover has sent something, or has ended.
func (r *race) next(who string) *call {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.waiting[who]) == 0 && !r.ended[who] {
		r.changed.Wait()
	}
	if r.ended[who] {
		return nil
	}
	c := r.waiting[who][0]
	r.waiting[who] = r.waiting[who][1:]
	r.log = append(r.log, c)
	return c
}

// stop refuses whatever comes after a race that was broken off, and what was left behind.
func (r *race) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for _, calls := range r.waiting {
		for _, c := range calls {
			c.refused = true
			close(c.let)
		}
	}
	clear(r.waiting)
}

// written lists the race's writes, in their order.
func (r *race) written() []string {
	var lines []string
	for _, c := range r.log {
		if c.write {
			lines = append(lines, c.String())
		}
	}
	return lines
}

// named reports whether a mover put a channel's tag on a member of a release.
func (r *race) named(who string, channels map[string]family.Channel, record release.Record) bool {
	return slices.ContainsFunc(r.log, func(c *call) bool {
		path, isPut := strings.CutPrefix(c.what, "PUT /v2/"+owner+"/")
		member, tag, _ := strings.Cut(path, "/manifests/")
		_, isChannel := channels[tag]
		return c.who == who && isPut && isChannel && record.Members()[member].Digest == c.sent
	})
}
